"""Does a method keep the contract of `core.method.CellEmbedder`? Measured, not believed."""

import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float32
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.core.method import CellEmbedder, Kind, MethodCard, Part
from sclitmus.core.rng import rng_for
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import (
    ID,
    Check,
    ContractError,
    Finding,
    Measured,
    Report,
    must_apply,
    run_check,
    run_checks,
)

MAX_CELLS = 150
# Largest difference, relative to the embedding's standard deviation, that rounding explains:
# sums in another order on a GPU, in single precision.
TOLERANCE = 1e-3


def check_method(method: CellEmbedder, dataset: Dataset | None = None, *, seed: int = 0) -> Report:
    """Check a method on a small dataset. It is fitted about a dozen times.

    Parameters
    ----------
    method
        Not fitted.
    dataset
        Cells to check it on, of which at most 150, evenly spaced, are taken; simulated cells of
        three types and two batches if None. Give real ones to a model that knows genes by name.
    seed
        Of the method's random streams.
    """
    subject = f"method {getattr(getattr(method, 'card', None), 'id', type(method).__name__)}"
    protocol = run_check("protocol", _protocol, method)
    if not protocol.ok:
        return Report(subject, (protocol,))
    checks = [protocol, *run_checks(_WITHOUT_DATA, method)]
    trial = _Trial(method, _cells(dataset), seed)
    embeds = must_apply(
        run_check("embed", _embed, trial),
        "a dataset to which the method applies",
        "give cells that it knows: check_method(method, dataset)",
    )
    checks.append(embeds)
    if embeds.ok:
        checks.extend(run_checks(_WITH_DATA, trial))
    else:
        checks.extend(Check(id, "skipped", "embed failed") for id in _WITH_DATA)
    return Report(subject, tuple(checks))


def _cells(dataset: Dataset | None) -> Dataset:
    if dataset is None:
        from sclitmus.data.simulate import simulate

        return simulate(n_cells=120, n_genes=200, n_types=3, n_batches=2)
    if dataset.n_cells <= MAX_CELLS:
        return dataset
    return dataset.take(np.linspace(0, dataset.n_cells - 1, MAX_CELLS).astype(np.int64))


@dataclass(frozen=True)
class _Trial:
    """A method with the cells it is checked on; the usual fit is made once."""

    method: CellEmbedder
    dataset: Dataset
    seed: int

    @property
    def card(self) -> MethodCard:
        return self.method.card

    @property
    def visible(self) -> Dataset:
        """The cells as the executor shows them."""
        return self.dataset if self.card.sees_labels else self.dataset.without("label")

    def fit(self, train: Dataset, seed: int | None = None) -> CellEmbedder:
        seed = self.seed if seed is None else seed
        return self.method.fit(train, rng_for(seed, "check", self.card.id))

    def fit_embed(self, cells: Dataset, seed: int | None = None) -> Float32[np.ndarray, "n d"]:
        return self.fit(cells, seed).embed(cells)

    @cached_property
    def fitted(self) -> CellEmbedder:
        return self.fit(self.visible)

    @cached_property
    def z(self) -> Float32[np.ndarray, "n_cells d"]:
        return np.array(self.fitted.embed(self.visible))

    def difference(self, a: np.ndarray, b: np.ndarray) -> float:
        """Largest difference, in standard deviations of the embedding."""
        if a.shape != b.shape:
            return float("inf")
        return float(np.abs(a - b).max(initial=0.0)) / (float(self.z.std()) or 1.0)


# ---- without data


def _protocol(method: CellEmbedder) -> Finding:
    missing = [name for name in ("card", "fit", "embed") if not hasattr(method, name)]
    if missing or isinstance(method, type):
        raise ContractError(
            f"{method!r} is a class" if isinstance(method, type) else f"no {', '.join(missing)}",
            "an object with card, fit(train, rng) and embed(cells)",
            "see docs/methods.md; give an object, MyModel(), not the class",
        )
    return ""


def _card(method: CellEmbedder) -> Finding:
    card = method.card
    if not isinstance(card, MethodCard):
        raise ContractError(
            f"card is a {type(card).__name__}", "a MethodCard", "return a MethodCard"
        )
    faults = []
    if not ID.fullmatch(card.id):
        faults.append(f"id {card.id!r}: letters, digits and _ . @ + - only, at most 64")
    if card.kind not in get_args(Kind):
        faults.append(f"kind {card.kind!r}: one of {', '.join(get_args(Kind))}")
    if card.part not in get_args(Part):
        faults.append(f"part {card.part!r}: one of {', '.join(get_args(Part))}")
    if not card.title:
        faults.append("title is empty")
    if card.sees_labels and card.kind != "control":
        faults.append(f"sees_labels is True and kind is {card.kind!r}: only controls see labels")
    for name, value in card.params.items():
        if not isinstance(value, str | int | float | bool | None):
            faults.append(f"params[{name!r}] is a {type(value).__name__}: text or a number")
    if method.card != card:
        faults.append("card differs from one look to the next")
    if faults:
        needed = "a card as core.method.MethodCard describes"
        raise ContractError("; ".join(faults), needed, "mend the card")
    return f"{card.id}, {card.kind}, {card.part}"


def _pickles(method: CellEmbedder) -> Finding:
    import cloudpickle

    fingerprint = cloudpickle.loads(cloudpickle.dumps(method)).card.fingerprint
    if fingerprint != method.card.fingerprint:
        raise ContractError(
            f"after pickling the card's fingerprint is {fingerprint}",
            method.card.fingerprint,
            "keep every setting in the object",
        )
    return ""


# ---- with data: is it an embedding, of these cells, in this order?


def _embed(trial: _Trial) -> Finding:
    raw = trial.fitted.embed(trial.visible)
    if not isinstance(raw, np.ndarray) or raw.dtype != np.float32:
        raise ContractError(
            f"embed returned {getattr(raw, 'dtype', type(raw).__name__)}",
            "a NumPy array of float32",
            "return np.asarray(z, dtype=np.float32)",
        )
    n = trial.dataset.n_cells
    if raw.ndim != 2 or raw.shape[0] != n or raw.shape[1] < 1:
        raise ContractError(
            f"embed returned shape {raw.shape} for {n} cells",
            f"({n}, d)",
            "return one row per cell; drop none, add none",
        )
    bad = int((~np.isfinite(raw)).any(axis=1).sum())
    if bad:
        raise ContractError(
            f"{bad} of {n} rows hold NaN or infinity", "finite numbers", "find out why for them"
        )
    return f"{raw.shape[0]} cells in {raw.shape[1]} dimensions"


def _row_order(trial: _Trial) -> Finding:
    order = np.random.default_rng(0).permutation(trial.dataset.n_cells)
    z = trial.fitted.embed(trial.visible.take(order))
    right = trial.difference(z, trial.z[order])
    if right <= TOLERANCE:
        return ""
    # A method may depend on a cell's neighbours in the matrix (`batch_mates` measures it) and
    # still keep the order: then a row is nearer to its own cell than to others.
    own, other = np.linalg.norm(z - trial.z[order], axis=1), np.linalg.norm(z - trial.z, axis=1)
    if own.mean() < 0.5 * other.mean():
        return f"order kept; values differ by up to {right:.2g} standard deviations"
    raise ContractError(
        f"embedding shuffled cells does not shuffle the rows: off by {right:.2g} deviations",
        "row i is cell i, and the same cell gives the same row wherever it stands",
        "do not sort or group cells; draw randomness in fit, or by cell id",
    )


def _dataset_unchanged(trial: _Trial) -> Finding:
    cells = trial.visible
    before = replace(cells).content_hash  # a new object: the hash of the old one is remembered
    fitted = trial.fit(cells)
    z = fitted.embed(cells)
    if z.flags.writeable:
        z += 1.0
    if replace(cells).content_hash == before:
        return ""
    raise ContractError(
        "the dataset is not the same after fit and embed",
        "a dataset that is never written into",
        "copy what you change: counts.astype(np.float32, copy=True); return a new array",
    )


# ---- randomness


def _same_seed(trial: _Trial) -> Finding:
    trial.fit(trial.visible, trial.seed + 1)  # what went before must not matter
    off = trial.difference(trial.fit_embed(trial.visible), trial.z)
    if off <= TOLERANCE:
        return "" if off == 0 else f"equal within {off:.1g} standard deviations"
    raise ContractError(
        f"the same seed gave another embedding, off by {off:.2g} standard deviations",
        "equal rng, equal embedding",
        "take all randomness from rng, seed torch from it inside fork_rng, and do not change "
        "self in fit",
    )


def _other_seed(trial: _Trial) -> Finding:
    z = trial.fit_embed(trial.visible, trial.seed + 1)
    if trial.card.deterministic and trial.difference(z, trial.z) > TOLERANCE:
        raise ContractError(
            "another seed gave another embedding, and the card says deterministic=True",
            "deterministic=False, so that seeds are run and shown apart",
            "set deterministic=False on the card",
        )
    if not trial.card.deterministic and np.array_equal(z, trial.z):
        raise ContractError(
            "another seed gave the same embedding, and the card says deterministic=False",
            "deterministic=True, or every seed of a study runs for nothing",
            "set deterministic=True on the card, or use rng",
        )
    return "no effect" if trial.card.deterministic else "another embedding, as the card says"


def _global_state(trial: _Trial) -> Finding:
    before = _global_generators()
    trial.fit_embed(trial.visible)
    after = _global_generators()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        raise ContractError(
            f"fit or embed used the global random state of {', '.join(changed)}",
            "randomness from rng only: a global seed makes a result depend on what ran before",
            "use rng; for torch, seed inside torch.random.fork_rng()",
        )
    return ""


def _global_generators() -> dict[str, object]:
    kind, key, position, *gauss = np.random.get_state()  # noqa: NPY002 - what is watched
    states: dict[str, object] = {
        "random": random.getstate(),
        "numpy": (kind, np.asarray(key).tobytes(), position, gauss),
    }
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().numpy().tobytes()
    return states


# ---- what it may see


def _labels_unseen(trial: _Trial) -> Finding:
    if trial.card.sees_labels:
        raise NotApplicable("the card says that it sees the labels")
    label = trial.dataset.role("label")
    other = Categories(np.roll(label.codes, len(label.codes) // 3), label.names)
    relabelled = replace(trial.dataset, roles={**trial.dataset.roles, "label": other})
    off = max(
        trial.difference(trial.fit_embed(cells), trial.z) for cells in (trial.dataset, relabelled)
    )
    if off <= TOLERANCE:
        return ""
    raise ContractError(
        f"with other labels the embedding is another, off by {off:.2g} standard deviations",
        "an embedding that does not depend on the labels it is scored on",
        'do not read cells.role("label")',
    )


def _needs(trial: _Trial) -> Finding:
    for role in trial.card.needs:
        try:
            trial.fit_embed(trial.visible.without(role))
        except NotApplicable:
            continue
        raise ContractError(
            f"it runs without {role!r}, which the card says it needs",
            "NotApplicable without a role it needs",
            f"remove {role!r} from the card's needs, or ask for cells.role({role!r})",
        )
    optional = [name for name in trial.visible.roles if name not in trial.card.needs]
    trial.fit_embed(trial.visible.without(*optional))
    return f"without {', '.join(optional) or 'nothing'}: works"


def _no_files(trial: _Trial) -> Finding:
    before = set(Path.cwd().iterdir())
    trial.fit_embed(trial.visible)
    new = sorted(path.name for path in set(Path.cwd().iterdir()) - before)
    if new:
        raise ContractError(
            f"files were left in the current directory: {', '.join(new)}",
            "no files outside a temporary directory",
            "write into tempfile.TemporaryDirectory(), or switch the logging off",
        )
    return ""


# ---- small data


def _one_cell(trial: _Trial) -> Finding:
    z = trial.fitted.embed(trial.visible.take(np.array([3])))
    if z.shape != (1, trial.z.shape[1]) or not np.isfinite(z).all():
        raise ContractError(
            f"embedding one of the cells gave shape {z.shape}, or not finite numbers",
            f"(1, {trial.z.shape[1]}), finite",
            "do not squeeze; do not scale by statistics of the cells at hand",
        )
    return ""


def _tiny(trial: _Trial) -> Finding:
    said = []
    for n in (1, 2):
        cells = trial.visible.take(np.arange(n))
        try:
            z = trial.fit_embed(cells)
        except NotApplicable as absence:
            said.append(f"{n}: {absence.reason}")
            continue
        if z.ndim != 2 or len(z) != n or not np.isfinite(z).all():
            raise ContractError(
                f"fitted on {n} cells it gave shape {z.shape}, or not finite numbers",
                f"({n}, d), finite, or NotApplicable",
                'raise NotApplicable("why")',
            )
        said.append(f"{n}: works")
    return "cells " + "; ".join(said)


# ---- measured: there is no right answer, but the reader should know


def _new_cells(trial: _Trial) -> Finding:
    half = trial.dataset.n_cells // 2
    rows = np.arange(trial.dataset.n_cells)
    fitted = trial.fit(trial.visible.take(rows[:half]))
    try:
        z = fitted.embed(trial.visible.take(rows[half:]))
    except NotApplicable as absence:
        return Measured(0.0, f"cannot embed cells it was not fitted on: {absence.reason}")
    if len(z) != len(rows) - half or not np.isfinite(z).all():
        raise ContractError(
            f"{len(rows) - half} cells it was not fitted on gave shape {z.shape}, or not finite",
            "one finite row per cell, or NotApplicable",
            'raise NotApplicable("why")',
        )
    return Measured(1.0, "embeds cells it was not fitted on")


def _batch_mates(trial: _Trial) -> Finding:
    n = trial.dataset.n_cells
    chunks = [np.arange(start, min(start + 7, n)) for start in range(0, n, 7)]
    z = np.concatenate([trial.fitted.embed(trial.visible.take(rows)) for rows in chunks])
    off = trial.difference(z, trial.z)
    return Measured(off, f"embedded 7 at a time, cells move by up to {off:.2g} standard deviations")


def _gene_order(trial: _Trial) -> Finding:
    order = np.random.default_rng(0).permutation(trial.dataset.n_genes)
    cells = trial.visible
    genes = Genes(
        tuple(cells.genes.symbol[i] for i in order),
        tuple(cells.genes.ensembl[i] for i in order),
        cells.genes.organism,
    )
    counts = sparse.csr_matrix(cells.counts[:, order])
    z = trial.fit_embed(replace(cells, counts=counts, genes=genes))
    # Distances, not coordinates: an axis per gene is a harmless thing to reorder.
    before, after = _distances(trial.z), _distances(z)
    off = float(np.abs(before - after).max()) / (float(before.mean()) or 1.0)
    return Measured(off, f"genes shuffled, distances change by up to {off:.2g} of their mean")


def _distances(z: np.ndarray) -> np.ndarray:
    from scipy.spatial.distance import pdist

    return np.asarray(pdist(z.astype(np.float64)))


_WITHOUT_DATA: Mapping[str, Callable[[Any], Finding]] = {"card": _card, "pickles": _pickles}
_WITH_DATA: Mapping[str, Callable[[_Trial], Finding]] = {
    "row_order": _row_order,
    "dataset_unchanged": _dataset_unchanged,
    "same_seed": _same_seed,
    "other_seed": _other_seed,
    "global_state": _global_state,
    "labels_unseen": _labels_unseen,
    "needs": _needs,
    "no_files": _no_files,
    "one_cell": _one_cell,
    "tiny_data": _tiny,
    "new_cells": _new_cells,
    "batch_mates": _batch_mates,
    "gene_order": _gene_order,
}
