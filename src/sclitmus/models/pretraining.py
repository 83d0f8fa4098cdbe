"""Masked pretraining of a model from scratch, beside what the average of each gene predicts.

Corpus (`corpus`) -> hidden genes (`masking`, `objectives`) -> the loop in which every network is
trained (`training`) -> files in the published layout (`written`). After each epoch cells that are
not trained on are predicted, always with the same genes hidden, by the model and from averages of
the training cells (`masked_baselines`, `masked_course`).
"""

import hashlib
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from sclitmus.core.activity import Listener, heard_by
from sclitmus.core.dataset import Dataset
from sclitmus.errors import MethodError
from sclitmus.models.card import model_card
from sclitmus.models.inference import Compute
from sclitmus.models.masked_course import Epoch, MaskedCourse, beats_mean, plain, verdict
from sclitmus.models.prepared import Prepared, prepare
from sclitmus.models.pretraining_settings import MODELS, Settings
from sclitmus.models.training import History, Plan, Snapshot, train
from sclitmus.models.written import write_card, write_json, write_weights

RECORD = "training.json"
UNFINISHED = "unfinished.pt"
FABRIC = {torch.float32: "32-true", torch.bfloat16: "bf16-mixed", torch.float16: "16-mixed"}


@dataclass(frozen=True)
class Pretrained:
    """What a pretraining left.

    Attributes
    ----------
    folder
        With the model's files, for ``--weights``.
    record
        All that is known of it: the content of ``training.json``.
    """

    folder: Path
    record: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        """A sentence on whether it has learned more than the mean of each gene."""
        return str(self.record["verdict"])


def pretrain(
    data: Sequence[Dataset],
    settings: Settings,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    on_progress: Listener | None = None,
    on_epoch: Callable[[Epoch], object] | None = None,
) -> Pretrained:
    """Train a network to predict hidden genes, and write it as its authors publish theirs.

    A call that was killed goes on where its last epoch ended when it is made again with the same
    arguments; on a CPU in float32 its weights are then, bit for bit, those of an undisturbed one.

    Parameters
    ----------
    data
        The corpus. Counts and genes are read, and the role "group" where whole groups are held out.
    out
        Folder of its own for the files.
    seed
        Of weights, held-out cells, order and hidden genes.
    device, precision
        As of `frozen.FrozenModel`.
    on_progress
        Gets activity, units done and units in all.
    on_epoch
        Gets each `masked_course.Epoch` as it ends.

    Raises
    ------
    MethodError
        If corpus and settings do not fit, the folder is of something else, or training diverges.
    """
    compute = Compute(device, precision)
    asked = _asked(data, settings, seed, compute)
    done = _claim(out, asked, settings)
    if done is not None:
        return done
    with ExitStack() as stack:
        if on_progress is not None:
            stack.enter_context(heard_by(on_progress))
        prepared = prepare(data, settings, out, seed)
        course = MaskedCourse(prepared, settings, seed, compute, on_epoch)
        module = course.objective.to(compute.place)
        kept = Kept(out, course.log)
        plan = _plan(settings, compute)
        history = train(
            module, course.steps, course.n_steps, course.loss, plan, course.validate, kept
        )
        write_weights(course.objective, settings.arch, out, history.best)
        record = plain(asked | _record(course, prepared, history))
    write_card(settings.arch, out, _card(settings, data, record))
    write_json(out / RECORD, record)
    kept.file.unlink(missing_ok=True)
    return Pretrained(out, record)


class Kept(Snapshot):
    """Where a pretraining stands, in its own folder: weights, and what was measured so far."""

    def __init__(self, folder: Path, log: list[dict[str, Any]]) -> None:
        super().__init__(str(folder))
        self.file = folder / UNFINISHED
        self.log = log

    def find(self) -> dict[str, Any] | None:
        state = super().find()
        if state is not None:
            self.log[:] = state.pop("log")
        return state

    def keep(self, state: Mapping[str, Any]) -> None:
        super().keep({**state, "log": self.log})

    def drop(self) -> None:
        """Keep it until the model's files are written."""


def _asked(
    data: Sequence[Dataset], settings: Settings, seed: int, compute: Compute
) -> dict[str, Any]:
    """Return everything that the result depends on."""
    files = [path for path in (settings.genes.list, settings.vectors_file) if path]
    return {
        "sclitmus": version("sclitmus"),
        "model": MODELS[settings.arch],
        "config": settings.plain,
        "seed": seed,
        "device": compute.place.type,
        "precision": FABRIC[compute.dtype],
        "data": [
            {"id": source.id, "cells": source.n_cells, "hash": source.content_hash}
            for source in data
        ],
        "files": {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in files},
    }


def _claim(out: Path, asked: Mapping[str, Any], settings: Settings) -> Pretrained | None:
    """Make the folder this training's own; return what is there if it is finished.

    Raises
    ------
    MethodError
        If the folder is of another training, or holds a model.
    """
    try:
        record: dict[str, Any] = json.loads((out / RECORD).read_text(encoding="utf-8"))
    except FileNotFoundError:
        own = model_card(MODELS[settings.arch]).files
        there = [file.name for file in own if (out / file.name).exists()]
        if there:
            raise _taken(out, f"holds {', '.join(there)} already") from None
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / RECORD, dict(asked))
        return None
    except (OSError, ValueError) as error:
        raise _taken(out, f"has a {RECORD} that cannot be read ({error})") from error
    wanted = plain(asked)
    different = [name for name in wanted if record.get(name) != wanted[name]]
    if different:
        raise _taken(out, f"is of a training with another {', '.join(different)}")
    return Pretrained(out, record) if "verdict" in record else None


def _taken(out: Path, why: str) -> MethodError:
    return MethodError(f"{out} {why}", "a folder of its own for each model", "give another --out")


def _plan(settings: Settings, compute: Compute) -> Plan:
    course = settings.training
    return Plan(
        course.optimiser,
        course.lr,
        course.epochs,
        course.rates,
        course.weight_decay,
        course.clip or None,
        course.patience or None,
        str(compute.place),
        FABRIC[compute.dtype],
    )


def _record(course: MaskedCourse, prepared: Prepared, history: History) -> dict[str, Any]:
    results = course.results()
    seconds = sum(epoch["seconds"] for epoch in course.log)
    waited = sum(epoch["waited"] for epoch in course.log)
    n_cells = sum(epoch["n_cells"] for epoch in course.log)
    corpus, network = prepared.corpus, prepared.objective.network
    compared = results, course.objective.judged_by, prepared.baselines.mean
    return {
        "verdict": verdict(*compared),
        "warning": "" if beats_mean(*compared) else course.warning,
        "best_epoch": history.best,
        "epochs": course.log,
        "validation": results,
        "judged_by": course.objective.judged_by,
        "mean": prepared.baselines.mean,
        "cells": {"training": corpus.n_train, "validation": corpus.n_held},
        "genes": len(prepared.genes),
        "parameters": {
            "network": sum(p.numel() for p in network.parameters()),
            "with_head": sum(p.numel() for p in prepared.objective.parameters()),
        },
        "seconds": seconds,
        "cells_per_second": n_cells / seconds if seconds else None,
        "waiting_share": waited / seconds if seconds else None,
        "machine": {"threads": torch.get_num_threads(), "processor": platform.machine()},
    }


def _card(settings: Settings, data: Sequence[Dataset], record: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the published card says otherwise of this model."""
    published = model_card(MODELS[settings.arch])
    ids = [source.id for source in data]
    known = [name for source in data for name in source.card.corpora]
    licences = {source.card.licence for source in data if source.card.licence}
    sizes = dict(settings.model)
    if settings.arch == "geneformer":
        sizes["vocab_size"] = record["genes"] + 2
    kind = "Ensembl ids" if settings.arch == "geneformer" else "symbols"
    name = published.title.partition(" (")[0]
    return {
        "title": f"{name}, pretrained here",
        "summary": f"{published.summary.partition('; ')[0]}; pretrained by sclitmus on "
        f"{record['cells']['training']:,} cells of {', '.join(ids)}.",
        "licence": "of its makers" + (f"; data: {'; '.join(sorted(licences))}" if licences else ""),
        "non_commercial": False,
        "source": "",
        "gene_space": f"{record['genes']:,} genes of the training cells, by {kind}",
        "organisms": sorted({source.genes.organism for source in data} - {"unknown"}),
        "parameters": record["parameters"]["with_head"],
        "corpora": list(dict.fromkeys([*ids, *known])),
        "corpora_note": f"{record['cells']['training']:,} cells trained on, "
        f"{record['cells']['validation']:,} held out: {RECORD} has the hashes of the data.",
        "config": sizes,
    }
