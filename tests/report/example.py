"""Studies to write reports of: made up, but shaped like real ones, and a hostile one."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import polars as pl

from sclitmus.core.dataset import Categories, DatasetCard, Note
from sclitmus.core.method import MethodCard
from sclitmus.core.metric import Metric
from sclitmus.core.record import RECORD_COLUMNS
from sclitmus.core.task import TaskCard
from sclitmus.execution.result import REPLICATE_SCHEMA, SPLIT_SCHEMA, DatasetInfo
from sclitmus.report.content import Projection, ReportData
from sclitmus.stats.analysis import analyse

HOSTILE = "<script>alert(1)</script>"
HOSTILE_TOO = '"><img src=x onerror=alert(2)>'


def _never(scored: object) -> float:
    raise AssertionError("a report computes nothing")


def _metric(id: str, title: str, **more: object) -> Metric:
    return Metric(id, _never, title, title, (0.0, 1.0), **more)  # type: ignore[arg-type]


METRICS = (
    _metric("avg_bio", "AvgBIO", doi="10.1186/s13059-025-03574-x"),
    _metric("nmi_oracle", "NMI, oracle resolution", chance=0.0),
    _metric("ari_oracle", "ARI, oracle resolution", chance=0.0),
    _metric("asw", "Silhouette (ASW)", chance=0.5, doi="10.1016/0377-0427(87)90125-7"),
    _metric("purity", "Local label purity", unit="type"),
    _metric("integration", "Integration", side="both"),
    _metric("mixing", "Batches mixed", side="batches"),
    _metric("conservation", "Types kept"),
    _metric("ilisi", "iLISI", side="batches", doi="10.1038/s41592-019-0619-0"),
    _metric("kbet", "kBET", side="batches", doi="10.1038/s41592-018-0254-1"),
    _metric("pcr", "PCR, raw", side="batches", direction="lower"),
)

TASKS = (
    TaskCard(
        "cell_types",
        "Are known cell types separable in the frozen embedding?",
        "avg_bio",
        (),
        (),
        ("label",),
        doi="10.1186/s13059-025-03574-x",
    ),
    TaskCard(
        "integration",
        "Are batches mixed without losing the cell types?",
        "integration",
        ("mixing", "conservation"),
        (),
        ("label", "batch"),
    ),
)

METHODS = (
    MethodCard(
        "mymodel",
        "foundation",
        "contender",
        "MyModel 12M",
        "A transformer on ranked genes, frozen.",
        behaviour="fixed",
        params={"layers": 6, "pooling": "mean"},
        corpora=("GSE84133", "GSE96583"),
        licence="Apache-2.0",
        gene_space="25,424 human genes",
    ),
    MethodCard("supplied", "supplied", "contender", "lab_embedding_v2"),
    MethodCard(
        "scvi",
        "trained_on_target",
        "bar",
        "scVI",
        "A variational autoencoder fitted to the evaluated cells.",
        deterministic=False,
        needs=("batch",),
        params={"n_latent": 30, "n_layers": 2, "gene_likelihood": "nb"},
        doi="10.1038/s41592-018-0229-2",
    ),
    MethodCard(
        "harmony", "baseline", "bar", "Harmony", needs=("batch",), doi="10.1038/s41592-019-0619-0"
    ),
    MethodCard("pca", "baseline", "bar", "PCA", params={"n_components": 50, "n_top_genes": 2000}),
    MethodCard("hvg", "baseline", "bar", "HVG", params={"n_top_genes": 2000, "flavor": "seurat"}),
    MethodCard("random_projection", "control", "floor", "Random projection", deterministic=False),
    MethodCard("label_oracle", "control", "ceiling", "Label oracle", sees_labels=True),
    MethodCard("label_canary", "control", "canary", "Label-trained canary", sees_labels=True),
)

TYPES = (
    *("CD14+ monocyte", "CD19+ B", "CD34+", "CD4+/CD25 T reg", "CD4+/CD45RA+/CD25- naive T"),
    *("CD4+/CD45RO+ memory", "CD56+ NK", "CD8+ cytotoxic T", "CD8+/CD45RA+ naive", "Dendritic"),
)
BATCHES = tuple(f"channel {i}" for i in range(1, 9))

# How well a method keeps types and mixes batches, roughly as one finds it.
QUALITY: Mapping[str, tuple[float, float]] = {
    "mymodel": (0.49, 0.55),
    "supplied": (0.66, 0.71),
    "scvi": (0.63, 0.78),
    "harmony": (0.64, 0.74),
    "pca": (0.61, 0.48),
    "hvg": (0.55, 0.45),
    "random_projection": (0.33, 0.52),
    "label_oracle": (0.99, 0.93),
    "label_canary": (0.91, 0.60),
}
SECONDS: Mapping[str, tuple[float, float]] = {
    "mymodel": (412.0, 3900.0),
    "supplied": (0.02, 310.0),
    "scvi": (96.0, 1450.0),
    "harmony": (3.4, 620.0),
    "pca": (0.6, 480.0),
    "hvg": (0.3, 450.0),
    "random_projection": (0.08, 400.0),
    "label_oracle": (0.01, 380.0),
    "label_canary": (1.2, 500.0),
}


def example(
    *,
    datasets: Mapping[str, int] | None = None,
    methods: tuple[MethodCard, ...] = METHODS,
    types: tuple[str, ...] = TYPES,
    batches: tuple[str, ...] = BATCHES,
    n_projected: int | None = None,
    study: str = "Two PBMC sets, nine methods",
) -> ReportData:
    """A study of these datasets (name -> cells); by default of 700 and 5,000 cells."""
    sizes = datasets or {"pbmc68k_reduced": 700, "pancreas_5tech": 5000}
    rng = np.random.default_rng(7)
    rows = [
        row
        for place, (name, n) in enumerate(sizes.items())
        for row in _records(rng, name, n, 0.06 * place, methods, types, batches, study)
    ]
    records = pl.DataFrame(rows, schema=SCHEMA)
    infos = tuple(dataset_info(name, n, types, batches) for name, n in sizes.items())
    projections = {
        name: _projection(rng, n_projected or n, max(n, n_projected or n), methods, types, batches)
        for name, n in sizes.items()
    }
    return with_records(
        ReportData(
            study=study,
            records=records,
            splits=_splits(sizes),
            analysis=None,  # type: ignore[arg-type]  # made from the records just below
            methods=methods,
            tasks=TASKS,
            metrics=METRICS,
            datasets=infos,
            projections=projections,
            provenance={
                "command": "sclitmus run pbmc68k_reduced.h5ad --label bulk_labels --batch phase",
                "started": "2026-01-17T09:12:44Z",
                "machine": {"system": "Linux 6.1", "cores": 2, "memory_gb": 16},
                "dataset hashes": dict.fromkeys(sizes, "6f1c2a9be07d4431"),
                "seeds": [0],
            },
        ),
        records,
    )


def with_records(
    data: ReportData,
    records: pl.DataFrame,
    replicates: pl.DataFrame | None = None,
    n_draws: int = 2000,
) -> ReportData:
    """The same study with other records, analysed anew."""
    names = ("title", "part", "deterministic", "twin")
    methods = pl.DataFrame(
        [{"method": c.id} | {name: getattr(c, name) for name in names} for c in data.methods]
    )
    tasks = pl.DataFrame(
        [{"task": t.id, "headline": t.headline, "margin": t.margin} for t in data.tasks]
    )
    metrics = pl.DataFrame(
        [
            {"metric": m.id, "title": m.title, "direction": m.direction, "low": 0.0, "high": 1.0}
            for m in data.metrics
        ]
    )
    if replicates is None:
        replicates = _replicates({info.id: info.n_cells for info in data.datasets})
    analysis = analyse(records, replicates, methods, tasks, metrics, n_draws=n_draws)
    return replace(data, records=records, analysis=analysis)


def hostile() -> ReportData:
    """Every name a user can supply is an attack."""
    methods = (
        replace(METHODS[0], title=HOSTILE, summary=HOSTILE_TOO, corpora=(HOSTILE,)),
        replace(METHODS[1], id=HOSTILE_TOO, title=HOSTILE_TOO),
        *METHODS[2:],
    )
    data = example(
        datasets={f"{HOSTILE}{HOSTILE_TOO}": 400},
        methods=methods,
        types=(HOSTILE, HOSTILE_TOO, "</script><b>", "<!--", "{{ 7 * 7 }}"),
        batches=(HOSTILE_TOO, HOSTILE, "datum['x']"),
        study=f"{HOSTILE} {HOSTILE_TOO}",
    )
    return replace(data, provenance={HOSTILE: {HOSTILE_TOO: HOSTILE}})


_HALVES = tuple(f"half-{i:02d}" for i in range(10))

SCHEMA = {
    name: {
        "seed": pl.Int64,
        "value": pl.Float64,
        "seconds": pl.Float64,
        "peak_rss_mb": pl.Float64,
    }.get(name, pl.String)
    for name in RECORD_COLUMNS
}


def _splits(sizes: Mapping[str, int]) -> pl.DataFrame:
    rows = [
        {
            "dataset": name,
            "task": task.id,
            "split": split,
            "n_train": 0,
            "n_test": n if split == "all" else n // 2,
        }
        for name, n in sizes.items()
        for task in TASKS
        for split in ("all", *_HALVES)
    ]
    return pl.DataFrame(rows, schema=SPLIT_SCHEMA)


def _replicates(sizes: Mapping[str, int]) -> pl.DataFrame:
    rows = [
        {
            "dataset": name,
            "task": task.id,
            "split": split,
            "source": "units",
            "weight": 1.0,
            "n_units": n,
        }
        for name, n in sizes.items()
        for task in TASKS
        for split in _HALVES
    ]
    return pl.DataFrame(rows, schema=REPLICATE_SCHEMA)


def _records(
    rng: np.random.Generator,
    dataset: str,
    n: int,
    shift: float,
    methods: tuple[MethodCard, ...],
    types: tuple[str, ...],
    batches: tuple[str, ...],
    study: str,
) -> list[dict[str, object]]:
    noise = 0.28 / np.sqrt(n)
    rows = []
    shared = {split: rng.normal(0, noise) for split in range(11)}
    for card in methods:
        keeps, mixes = QUALITY.get(card.id, QUALITY["supplied"])
        keeps, mixes = keeps - shift, mixes - shift
        seconds, memory = SECONDS.get(card.id, SECONDS["supplied"])
        hard = {name: float(rng.normal(0, 0.09)) - 0.02 * i for i, name in enumerate(types)}
        for number in range(11):
            split = "all" if number == 0 else f"half-{number - 1:02d}"
            kept = keeps + shared[number] + rng.normal(0, noise / 2)
            mixed = mixes + shared[number] / 2 + rng.normal(0, noise / 2)
            values = {
                ("cell_types", "avg_bio"): kept,
                ("cell_types", "nmi_oracle"): kept + 0.05,
                ("cell_types", "ari_oracle"): kept - 0.08,
                ("cell_types", "asw"): 0.35 + kept / 4,
                ("integration", "integration"): 2 * kept * mixed / (kept + mixed),
                ("integration", "mixing"): mixed,
                ("integration", "conservation"): kept,
                ("integration", "ilisi"): mixed - 0.2,
                ("integration", "kbet"): mixed - 0.3,
                ("integration", "pcr"): (1 - mixed) / 2,
            }
            base = {
                "study": study,
                "dataset": dataset,
                "method": card.id,
                "behaviour": card.behaviour,
                "metric_version": "1",
                "seed": 0,
                "split": split,
                "unit": "dataset",
                "note": "",
                "status": "ok",
                "seconds": seconds * n / 5000,
                "peak_rss_mb": memory * (0.6 + n / 12000),
                "key": f"{dataset}-{card.id}",
            }
            for (task, metric), value in values.items():
                row = base | {"task": task, "metric": metric, "value": float(value)}
                if task == "integration" and len(batches) < 2:
                    why = "the dataset has no batch column; give one with --batch COLUMN"
                    row |= {"value": None, "status": "not_applicable", "note": why}
                rows.append(row)
            rows += [
                base
                | {
                    "task": "cell_types",
                    "metric": "purity",
                    "unit": f"type:{name}",
                    "value": float(np.clip(kept + 0.15 + hard[name], 0, 1)),
                }
                for name in types
            ]
    return rows


def dataset_info(
    name: str, n: int, types: tuple[str, ...], batches: tuple[str, ...]
) -> DatasetInfo:
    share = np.linspace(2, 0.5, len(types))
    counts = np.maximum((n * share / share.sum()).astype(int), 2)
    return DatasetInfo(
        name,
        n,
        765 if n < 1000 else 14_878,
        "human",
        DatasetCard(
            title=f"Cells of {name}",
            source="scanpy.datasets.pbmc68k_reduced",
            licence="CC BY 4.0",
            doi="10.1038/ncomms14049",
            organism="human",
            label_quality="silver" if n < 1000 else "gold",
            corpora=("GSE84133",) if n > 1000 else (),
        ),
        (
            Note("empty cells", "3 cells without a single count were dropped", 3),
            Note("duplicate symbols", "12 gene symbols occur twice; all columns were kept", 12),
        ),
        {"label": "bulk_labels", "batch": "channel"},
        {
            "label": dict(zip(types, counts.tolist(), strict=True)),
            "batch": dict.fromkeys(batches, n // max(len(batches), 1)),
        },
        {"label": 0, "batch": 0},
    )


def _projection(
    rng: np.random.Generator,
    n: int,
    n_total: int,
    methods: tuple[MethodCard, ...],
    types: tuple[str, ...],
    batches: tuple[str, ...],
) -> Projection:
    share = np.linspace(2, 0.5, len(types))
    label = rng.choice(len(types), n, p=share / share.sum()).astype(np.int32)
    batch = rng.integers(0, max(len(batches), 1), n).astype(np.int32)
    xy = {}
    for card in methods:
        keeps, mixes = QUALITY.get(card.id, QUALITY["supplied"])
        centres = rng.normal(0, 4 * keeps**2 * np.sqrt(len(types)), (len(types), 2))
        offsets = rng.normal(0, 3 * (1 - mixes) ** 1.5, (max(len(batches), 1), 2))
        spread = rng.gamma(3, 0.35, (len(types), 2))
        points = centres[label] + offsets[batch] + rng.normal(0, 1, (n, 2)) * spread[label]
        xy[card.id] = points.astype(np.float32)
    return Projection(
        xy,
        Categories(label, types),
        Categories(batch, batches) if len(batches) > 1 else None,
        n_total,
    )
