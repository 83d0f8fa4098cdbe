"""Do the genes that a method attends to mark the types, and does its answer rest on them?

Three questions about a method's own gene scores (attention received, gradient x input, weights), on
cells that it did not learn from:

- do they agree with the genes that differ between the types by a rank test (overlap, AUPR)?
- more than the genes that are merely much expressed, or random ones?
- does taking the first genes out of a cell change the method's answer more than taking out as many
  others of like expression (deletion, doi:10.1109/TNNLS.2016.2599820)? A method may point at the
  right markers and not use them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from scipy import sparse

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import Answer, TaskCard
from sclitmus.errors import NotApplicable
from sclitmus.metrics.calibration import softmax
from sclitmus.tasks.halves import test_halves
from sclitmus.tasks.label_scores import Setting, Values, scores_of
from sclitmus.tasks.label_splits import held_out_cells
from sclitmus.tasks.marker_metrics import KINDS, METRICS, REFERENCES, average_precision, overlap

MARKERS = ("lr_l1", "lr_l2", "marker_score")  # the methods beside which others stand
N_TRUE = 100  # genes at most that count as a type's markers
N_FIRST = 20  # genes whose overlap is counted, and that are deleted
MAX_P = 0.05  # Benjamini-Hochberg, of the rank test
MIN_FOLD = 1.0  # log2 fold change
TEST_SHARE = 0.3
N_BINS = 20  # of mean expression, within which deleted genes are matched


@dataclass(frozen=True)
class Markers:
    """The task."""

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="markers",
            question="Do the genes that it attends to mark the types, and does it use them?",
            headline="faithfulness.best",
            beside=("overlap.best", "aupr.best"),
            references=MARKERS,
            needs=("label",),
            protocol="Annotator",
            doi="10.1038/s42256-022-00534-z",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return METRICS

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Hold cells out: gene scores are had from the others, and tested on these.

        Raises
        ------
        NotApplicable
            Without a label column, or with fewer than two types on both sides.
        """
        label = dataset.role("label").codes
        train, test = held_out_cells(dataset, TEST_SHARE, rng)
        both = np.intersect1d(label[train], label[test])
        if len(both) < 2:
            raise NotApplicable(f"markers tell types apart; there are {len(both)} on both sides")
        train, test = (rows[np.isin(label[rows], both)] for rows in (train, test))
        return (Split("all", test, train),)

    def answer(
        self,
        method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> tuple[Answer, tuple[str, ...]]:
        if isinstance(method, np.ndarray):
            raise NotApplicable("an embedding by itself says nothing of genes")
        given = getattr(method, "markers", None)
        if not callable(given):
            raise NotApplicable("the method gives no scores of genes")
        train = dataset.take(split.train)
        fitted = method.fit(train, rng)
        kinds: Mapping[str, np.ndarray] = fitted.markers(train)  # type: ignore[attr-defined]  # seen
        names = {name: code for code, name in enumerate(dataset.role("label").names)}
        classes = np.array([names[name] for name in train.role("label").names], dtype=np.int64)
        cells = dataset.take(split.test).without("label")
        logits = np.asarray(fitted.predict_scores(cells), dtype=np.float64)
        called = logits.argmax(axis=1)
        before = _of(softmax(logits), called)
        answer: dict[str, np.ndarray] = {"classes": classes, "test": logits.astype(np.float32)}
        for kind in KINDS:
            if kind in REFERENCES:
                scores = _reference(kind, train, len(classes), rng)
            elif kind in kinds:
                scores = np.asarray(kinds[kind], dtype=np.float32)
            else:
                continue
            answer[f"scores.{kind}"] = scores
            first = _first(scores, N_FIRST)
            chance = _matched(cells.counts, first, rng)
            for what, genes in (("drop", first), ("chance", chance)):
                bare = replace(cells, store=_without(cells.counts, genes[called]))
                after = np.asarray(fitted.predict_scores(bare), dtype=np.float64)
                answer[f"{what}.{kind}"] = before - _of(softmax(after), called)
        return answer, ()

    def replicates(
        self, dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
    ) -> tuple[Replicate, ...]:
        return tuple(half.replicate for half in test_halves(dataset, splits, rng))

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: Sequence[Answer | Absent],
        rng: np.random.Generator,
    ) -> list[Score]:
        def valued(split: Split, answer: Answer, mask: np.ndarray) -> Values:
            return _values(dataset, split, answer, mask)

        setting = Setting(METRICS, tuple(splits), tuple(answers))
        return scores_of(setting, valued, test_halves(dataset, splits, rng), LACKING)


LACKING: Mapping[str, str] = {
    id: "the method gives no such scores of genes" for id in METRICS if not id.endswith(".best")
}


def _values(
    dataset: Dataset, split: Split, answer: Answer, mask: Bool[np.ndarray, "n_test"]
) -> Values:
    """Agreement with the markers among these cells, and what deletion does to the answers."""
    rows = split.test[mask]
    true = markers_of(dataset, rows)
    names = dataset.role("label").names
    values: Values = {}
    own: dict[str, list[float]] = {}
    for kind in KINDS:
        if f"scores.{kind}" not in answer:
            continue
        scores = answer[f"scores.{kind}"]
        found = {
            "overlap": [overlap(scores[i], true[c], N_FIRST) for i, c in _typed(answer, true)],
            "aupr": [average_precision(scores[i], true[c]) for i, c in _typed(answer, true)],
        }
        extra = answer[f"drop.{kind}"][mask] - answer[f"chance.{kind}"][mask]
        if len(extra):
            found["faithfulness"] = [float(extra.mean())]
        for name, each in found.items():
            if each:
                values[f"{name}.{kind}", "dataset"] = float(np.mean(each))
                if kind not in REFERENCES:
                    own.setdefault(name, []).append(float(np.mean(each)))
        for (_, code), value in zip(_typed(answer, true), found["overlap"], strict=True):
            values[f"overlap.{kind}", f"type:{names[code]}"] = value
    return values | {(f"{name}.best", "dataset"): max(each) for name, each in own.items()}


def _typed(answer: Answer, true: Mapping[int, np.ndarray]) -> list[tuple[int, int]]:
    """Pair the place of each class that has markers with its code."""
    return [(i, int(c)) for i, c in enumerate(answer["classes"]) if len(true.get(int(c), ()))]


def markers_of(dataset: Dataset, rows: Int64[np.ndarray, "n"]) -> Mapping[int, np.ndarray]:
    """Return the marker genes of each type among some cells, the surest first, at most `N_TRUE`.

    Wilcoxon's rank-sum test of each type against the others on log-normalised counts, as scanpy
    does it: adjusted p of at most 0.05 and a log2 fold change of at least 1.
    """
    return _markers_of(dataset.content_hash, rows.tobytes(), _Cells(dataset, rows))


class _Cells:
    """Carries cells past `lru_cache`: equal to any other, since the hashes beside it decide."""

    def __init__(self, dataset: Dataset, rows: Int64[np.ndarray, "n"]) -> None:
        self.dataset, self.rows = dataset, rows

    def __hash__(self) -> int:
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Cells)


@lru_cache(maxsize=64)
def _markers_of(content_hash: str, rows: bytes, carried: _Cells) -> Mapping[int, np.ndarray]:
    import scanpy as sc
    from anndata import AnnData

    cells = carried.dataset.take(carried.rows)
    label = carried.dataset.role("label")
    codes = label.codes[carried.rows]
    n_of = np.bincount(codes, minlength=len(label.names))
    typed = np.flatnonzero(n_of >= 2)  # a rank test of one cell says nothing
    if len(typed) < 2:
        return {}
    x = AnnData(cells.counts.astype(np.float32))
    x.obs["type"] = codes.astype(str)
    x.obs["type"] = x.obs["type"].astype("category")
    sc.pp.normalize_total(x, target_sum=1e4)
    sc.pp.log1p(x)
    groups = [str(code) for code in typed]
    sc.tl.rank_genes_groups(x, "type", groups=groups, method="wilcoxon", tie_correct=True)
    found = x.uns["rank_genes_groups"]
    markers = {}
    for code in typed:
        g = str(code)
        sure = (found["pvals_adj"][g] <= MAX_P) & (found["logfoldchanges"][g] >= MIN_FOLD)
        markers[int(code)] = found["names"][g][sure][:N_TRUE].astype(np.int64)
    return markers


def _reference(
    kind: str, train: Dataset, n_classes: int, rng: np.random.Generator
) -> Float32[np.ndarray, "n_classes n_genes"]:
    """Score genes by their mean expression in each class, or at random."""
    if kind == "random":
        return rng.random((n_classes, train.n_genes)).astype(np.float32)
    counts = train.counts
    totals = np.asarray(counts.sum(axis=1)).ravel()
    member = sparse.csr_matrix(
        (1 / totals, (train.role("label").codes, np.arange(train.n_cells))),
        shape=(n_classes, train.n_cells),
    )
    return np.asarray((member @ counts).toarray(), dtype=np.float32)


def _first(
    scores: Float32[np.ndarray, "n_classes n_genes"], n: int
) -> Int64[np.ndarray, "n_classes n"]:
    return np.asarray(np.argsort(-scores, axis=1, kind="stable")[:, :n])


def _matched(
    counts: sparse.csr_matrix, genes: Int64[np.ndarray, "n_classes n"], rng: np.random.Generator
) -> Int64[np.ndarray, "n_classes n"]:
    """Draw for each gene another one of like mean count: of the same of `N_BINS` bins."""
    mean = np.asarray(counts.mean(axis=0)).ravel()
    order = np.argsort(mean, kind="stable")
    bin_of = np.empty(len(mean), dtype=np.int64)
    bin_of[order] = np.arange(len(mean)) * N_BINS // len(mean)
    chosen = np.empty_like(genes)
    for row, own in enumerate(genes):
        taken = set(own.tolist())
        for place, gene in enumerate(own):
            alike = np.flatnonzero(bin_of == bin_of[gene])
            free = [g for g in rng.permutation(alike).tolist() if g not in taken]
            chosen[row, place] = free[0] if free else gene
            taken.add(int(chosen[row, place]))
    return chosen


def _without(counts: sparse.csr_matrix, genes: Int64[np.ndarray, "n_cells n"]) -> sparse.csr_matrix:
    """Set each cell's own list of genes to zero."""
    n_cells, n_genes = counts.shape
    rows = np.repeat(np.arange(n_cells), genes.shape[1])
    ones = np.ones(genes.size, dtype=np.float32)
    out = sparse.csr_matrix((ones, (rows, genes.ravel())), shape=(n_cells, n_genes))
    kept = sparse.csr_matrix(counts - counts.multiply(out.astype(bool)))
    kept.eliminate_zeros()
    return kept


def _of(p: Float64[np.ndarray, "n n_classes"], called: Int64[np.ndarray, "n"]) -> np.ndarray:
    taken: np.ndarray = p[np.arange(len(p)), called]
    return taken
