"""Studies of learned labels to write reports of: planted curves, groups and unknown types."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from example import HOSTILE, HOSTILE_TOO, SCHEMA, dataset_info, with_records

from sclitmus.core.method import MethodCard
from sclitmus.execution.result import REPLICATE_SCHEMA, SPLIT_SCHEMA
from sclitmus.metrics.novelty import NOVELTY_SCORES
from sclitmus.report.content import ReportData
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.novel_types import NovelTypes
from sclitmus.tasks.transfer import Transfer

ANNOTATION, TRANSFER, NOVEL = Annotation(), Transfer(), NovelTypes()
LABEL_TASKS = (ANNOTATION, TRANSFER, NOVEL)

LABEL_METHODS = (
    MethodCard(
        "mymodel",
        "foundation",
        "contender",
        "MyModel 12M",
        "A transformer on ranked genes, frozen, with a probe.",
        twin="mymodel@random_init",
    ),
    MethodCard("supplied", "supplied", "contender", "lab_embedding_v2"),
    MethodCard("mymodel@random_init", "control", "contender", "MyModel 12M, random weights"),
    MethodCard("lr_l1", "baseline", "bar", "Logistic regression, L1"),
    MethodCard("lr_l2", "baseline", "bar", "Logistic regression, L2"),
    MethodCard("pca_lr", "baseline", "bar", "PCA and logistic regression"),
    MethodCard("knn", "baseline", "bar", "k nearest neighbours"),
    MethodCard("nearest_centroid", "baseline", "bar", "Nearest centroid"),
    MethodCard("marker_score", "baseline", "bar", "Marker score"),
    MethodCard("majority", "control", "floor", "Majority"),
)
LABEL_TYPES = (
    *("CD14+ monocyte", "B cell", "CD4 T naive", "CD4 T memory", "CD8 T", "NK"),
    *("Dendritic", "Megakaryocyte", "a → b", "b"),
)
GROUPS = ("celseq", "celseq2", "fluidigmc1", "indrop", "smartseq2")

SETTINGS = ("k1", "k2", "k4", "k8", "k16", "p10", "p25", "p50", "p75", "all")


@dataclass(frozen=True)
class Planted:
    """What a method does: F1 from one cell per type and from all, skill at unknown types."""

    few: float
    all: float
    novel: float
    over_confident: float


QUALITY: Mapping[str, Planted] = {
    # Ahead of both regressions at few cells, level in between, behind with all.
    "mymodel": Planted(0.62, 0.86, 0.74, 0.02),
    "supplied": Planted(0.40, 0.85, 0.83, 0.10),
    "mymodel@random_init": Planted(0.33, 0.70, 0.60, 0.04),
    "lr_l1": Planted(0.36, 0.93, 0.80, 0.12),
    "lr_l2": Planted(0.42, 0.94, 0.84, 0.16),
    "pca_lr": Planted(0.44, 0.92, 0.79, 0.08),
    "knn": Planted(0.41, 0.90, 0.77, 0.05),
    "nearest_centroid": Planted(0.50, 0.82, 0.70, 0.03),
    "marker_score": Planted(0.38, 0.74, 0.62, 0.20),
    "majority": Planted(0.06, 0.06, 0.50, 0.00),
}


def label_study(
    *,
    methods: tuple[MethodCard, ...] = LABEL_METHODS,
    types: tuple[str, ...] = LABEL_TYPES,
    groups: tuple[str, ...] = GROUPS,
    dataset: str = "pancreas_5tech",
    study: str = "Labels learned, on one dataset",
) -> ReportData:
    """A study of the three tasks in which labels are learned."""
    rng = np.random.default_rng(11)
    rows = [row for card in methods for row in _records(rng, study, dataset, card, types, groups)]
    records = pl.DataFrame(rows, schema=SCHEMA)
    metrics = {metric.id: metric for task in LABEL_TASKS for metric in task.metrics.values()}
    info = dataset_info(dataset, 5000, types, ("one", "two"))
    counts = {**info.counts_of, "group": dict.fromkeys(groups, 1000)}
    return with_records(
        ReportData(
            study=study,
            records=records,
            splits=pl.DataFrame(schema=SPLIT_SCHEMA),
            analysis=None,  # type: ignore[arg-type]  # made from the records just below
            methods=methods,
            tasks=tuple(task.card for task in LABEL_TASKS),
            metrics=tuple(metrics.values()),
            datasets=(replace(info, counts_of=counts),),
        ),
        records,
        label_replicates(dataset),
        n_draws=1000,
    )


def label_replicates(dataset: str) -> pl.DataFrame:
    """Ten half-samples, and five draws."""
    rows = [
        {
            "dataset": dataset,
            "task": task.card.id,
            "split": split,
            "source": source,
            "weight": weight,
            "n_units": n,
        }
        for task in LABEL_TASKS
        for split, source, weight, n in (
            *((f"half-{i:02d}", "units", 1.0, 1500) for i in range(10)),
            *((f"draw-{i + 1}-of-5", "draws", 0.2, 0) for i in range(5)),
        )
        if source == "units" or task is ANNOTATION
    ]
    return pl.DataFrame(rows, schema=REPLICATE_SCHEMA)


def hostile_labels() -> ReportData:
    """Names of types and groups that are attacks, or look like the format of a unit."""
    return label_study(
        methods=(replace(LABEL_METHODS[0], title=HOSTILE, twin=""), *LABEL_METHODS[3:]),
        types=(HOSTILE, HOSTILE_TOO, "pair:", "a → b", "b → a", "a", " ", "</script><b>"),
        groups=(HOSTILE, "group:", "{{ 7 * 7 }}"),
        dataset=f"{HOSTILE}{HOSTILE_TOO}",
        study=HOSTILE,
    )


def _records(
    rng: np.random.Generator,
    study: str,
    dataset: str,
    card: MethodCard,
    types: Sequence[str],
    groups: Sequence[str],
) -> Iterator[dict[str, object]]:
    base = {
        "study": study,
        "dataset": dataset,
        "method": card.id,
        "behaviour": card.behaviour,
        "metric_version": "1",
        "seed": 0,
        "note": "",
        "status": "ok",
        "seconds": 12.0,
        "peak_rss_mb": 800.0,
        "key": f"{dataset}-{card.id}",
    }
    planted = QUALITY[card.id]
    for task, found in (
        ("annotation", _annotation(rng, planted, types)),
        ("transfer", _transfer(rng, planted, types, groups)),
        ("novel_types", _novel(rng, planted, types)),
    ):
        for metric, unit, split, value, note in found:
            yield base | {
                "task": task,
                "metric": metric,
                "unit": unit,
                "split": split,
                "value": float(value),
                "note": note,
            }


Found = Iterator[tuple[str, str, str, float, str]]


def _replicated(
    rng: np.random.Generator, metric: str, unit: str, value: float, *, draws: bool = False
) -> Found:
    yield metric, unit, "all", value, ""
    for i in range(10):
        yield metric, unit, f"half-{i:02d}", value + rng.normal(0, 0.008), ""
    if draws:
        for i in range(5):
            yield metric, unit, f"draw-{i + 1}-of-5", value + rng.normal(0, 0.02), ""


def _annotation(rng: np.random.Generator, planted: Planted, types: Sequence[str]) -> Found:
    hard = {name: 0.25 * rng.random() for name in types}
    few = []
    for place, setting in enumerate(SETTINGS):
        share = 1 - np.exp(-place / 3)
        f1 = planted.few + (planted.all - planted.few) * share
        draws = setting != "all"
        few += [f1] if setting.startswith("k") else []
        for metric, value in (("macro_f1", f1), ("balanced_accuracy", f1), ("accuracy", f1 + 0.03)):
            yield from _replicated(rng, f"{metric}.{setting}", "dataset", value, draws=draws)
        for name in types:
            recall = float(np.clip(f1 + 0.1 - hard[name], 0, 1))
            yield f"recall.{setting}", f"type:{name}", "all", recall, ""
    yield from _replicated(rng, "macro_f1.few", "dataset", float(np.mean(few)), draws=True)
    yield from _confusion(rng, planted.all, types, "")


def _confusion(rng: np.random.Generator, right: float, types: Sequence[str], note: str) -> Found:
    for i, name in enumerate(types):
        others = [(i + 1) % len(types), (i + 4) % len(types)]
        shares = {i: right, others[0]: (1 - right) * 0.7}
        shares[others[1]] = 1 - sum(shares.values())
        for j, share in shares.items():
            if share > 0:
                yield "confusion", f"pair:{name} → {types[j]}", "all", share, note


def _transfer(
    rng: np.random.Generator, planted: Planted, types: Sequence[str], groups: Sequence[str]
) -> Found:
    drop = {name: 0.08 * (1 + i) for i, name in enumerate(groups)}
    for metric in ("macro_f1", "balanced_accuracy", "accuracy"):
        values = {name: max(planted.all - drop[name], 0.02) for name in groups}
        for name, value in values.items():
            yield from _replicated(rng, metric, f"group:{name}", value + rng.normal(0, 0.01))
        yield from _replicated(rng, metric, "dataset", float(np.mean(list(values.values()))))
    for name in types:
        yield "recall", f"type:{name}", "all", float(np.clip(planted.all - 0.1, 0, 1)), ""
    yield from _confusion(rng, planted.all - 0.2, types, f"the worst group, {groups[-1]}")


def _novel(rng: np.random.Generator, planted: Planted, types: Sequence[str]) -> Found:
    for place, name in enumerate(NOVELTY_SCORES):
        if name == "energy":
            continue
        value = planted.novel - 0.01 * place
        for metric, shift in (("auroc", 0.0), ("aupr", -0.3), ("oscr", -0.1)):
            yield from _replicated(rng, f"{metric}.{name}", "dataset", value + shift)
        yield from _replicated(rng, f"fpr95.{name}", "dataset", 1.2 - value)
    for i, name in enumerate(types):
        value = float(np.clip(planted.novel + 0.2 - 0.05 * i + rng.normal(0, 0.03), 0, 1))
        yield from _replicated(rng, "auroc.max_softmax", f"type:{name}", value)
        yield f"auroc_{'near' if i > 5 else 'far'}", f"type:{name}", "all", value, ""
    yield from _replicated(rng, "auroc.max_softmax", "lineage:T cell", planted.novel + 0.1)
    yield from _replicated(rng, "auroc_near", "dataset", planted.novel - 0.1)
    yield from _replicated(rng, "auroc_far", "dataset", planted.novel + 0.1)
    for name in ("known_accuracy", "known_rejected", "novel_recall", "novel_precision", "jaccard"):
        yield from _replicated(rng, name, "dataset", 0.5)
    yield from _replicated(rng, "aurc", "dataset", 0.1)
    for suffix, gap in (("", planted.over_confident), (".scaled", planted.over_confident / 4)):
        for name in ("ece", "ece_mass", "classwise_ece", "brier", "nll"):
            yield from _replicated(rng, f"{name}{suffix}", "dataset", gap + 0.01)
        for b in range(5, 16):
            sure = (b - 0.5) / 15
            unit = f"bin:{b:02d}"
            yield f"bin_confidence{suffix}", unit, "all", sure, ""
            yield f"bin_accuracy{suffix}", unit, "all", max(sure - 2 * gap, 0.0), ""
            yield f"bin_cells{suffix}", unit, "all", 10.0 * b * b, ""
    for i in range(1, 21):
        kept = i / 20
        yield "risk", f"coverage:{kept:.2f}", "all", (1 - planted.novel) * kept**2, ""
