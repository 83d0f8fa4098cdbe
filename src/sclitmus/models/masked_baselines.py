"""What can be predicted of hidden genes without a network: from averages of the training cells.

Every prediction is in the target space of the model it stands beside: bins, or which gene has a
rank. A model that does not beat these has learned no more than the average expression.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numba import njit

from sclitmus.models.masking import cells_of
from sclitmus.models.tokens import Tokens

RANKS = 64  # steps in which ranks are counted
MEAN_RANKS = 24  # steps of genes' mean ranks
CANDIDATES = (
    512  # likeliest genes among which the likeliest that a cell does not show is looked for
)
COMMON = 1e-3  # counts added to each level of what all genes have in common
STRENGTHS = tuple(10.0**power for power in range(6))  # of what all genes (ranks) have in common

# Baseline -> measure -> a number per hidden token.
Measured = Mapping[str, Mapping[str, Float64[np.ndarray, "n_masked"]]]


class Baselines(Protocol):
    """What the training cells say.

    Attributes
    ----------
    mean
        Id of the baseline that knows the average of each gene and nothing else.
    """

    mean: ClassVar[str]

    def measured(self, tokens: Tokens) -> Measured:
        """Predict the hidden tokens of cells; see `objectives.Objective.hidden`."""


@dataclass(frozen=True, eq=False)
class OfBins:
    """How often each gene is in each bin, where it is expressed.

    Attributes
    ----------
    counts
        Training cells with the gene in the bin.
    of_gene
        Probability of each bin: shrunk towards that over all genes as much as predicts training
        cells best that are left out.
    probabilistic
        Whether the model predicts a probability of each bin (scBERT), or a bin (scGPT).
    """

    counts: Int64[np.ndarray, "n_genes n_bins"]
    of_gene: Float64[np.ndarray, "n_genes n_bins"]
    probabilistic: bool
    mean: ClassVar[str] = "gene_mean"

    @property
    def overall(self) -> float:
        """The mean bin of all genes."""
        levels = np.arange(self.counts.shape[1])
        return float(self.counts.sum(axis=0) @ levels / max(1, self.counts.sum()))

    @classmethod
    def of(cls, cells: Iterable[Tokens], n_genes: int, n_bins: int, column: str) -> Self:
        """Count the training cells' tokens; `column` is that of the bins."""
        counts = np.zeros((n_genes, n_bins), dtype=np.int64)
        for tokens in cells:
            gene = tokens.columns["gene"]
            real = gene >= 0
            bins = tokens.columns[column][real].astype(np.int64)
            kept = bins > 0
            _count(counts, gene[real][kept], bins[kept])
        return cls(counts, shrunk(counts), column == "bin")

    def measured(self, tokens: Tokens) -> Measured:
        masked, gene = tokens.columns["masked"], tokens.columns["gene"]
        target = tokens.columns["target"]
        levels = np.arange(self.counts.shape[1], dtype=np.float64)
        of_all = self.counts.sum(axis=0) / max(1, self.counts.sum())
        gene_means = self.of_gene @ levels
        visible = (gene >= 0) & ~masked & (target > 0)
        cell, n_cells = cells_of(tokens), tokens.n_cells
        genes, truth, at = gene[masked], target[masked].astype(np.int64), cell[masked]

        def mean_of(values: np.ndarray) -> np.ndarray:
            """Mean over the visible genes of each cell, 0 where there are none."""
            n = np.bincount(cell[visible], minlength=n_cells)
            sums = np.bincount(cell[visible], weights=values[visible], minlength=n_cells)
            means: np.ndarray = sums / np.maximum(n, 1)
            of_each: np.ndarray = means[at]
            return of_each

        overall = self.overall
        nothing = np.bincount(cell[visible], minlength=n_cells)[at] == 0
        above = mean_of(target - gene_means[gene])
        mode = _modes(tokens.offsets, target.astype(np.int64), visible, len(levels))[at]
        mode = np.where(mode > 0, mode, of_all.argmax())
        predicted = {
            "mean": np.full(len(truth), overall),
            "gene_mean": gene_means[genes],
            "cell_mean": np.where(nothing, overall, mean_of(target)),
            "gene_and_cell": gene_means[genes] + above,
            "cell_mode": mode.astype(np.float64),
        }
        out = {name: {"mse": (x - truth) ** 2} for name, x in predicted.items()}
        if self.probabilistic:
            gene_mode = self.of_gene.argmax(axis=1)[genes]
            out["mean"] |= {
                "cross_entropy": -np.log(of_all[truth].clip(min=np.finfo(float).tiny)),
                "error": (of_all.argmax() != truth).astype(np.float64),
            }
            out["gene_mean"] |= {
                "cross_entropy": -np.log(self.of_gene[genes, truth].clip(np.finfo(float).tiny)),
                "error": (gene_mode != truth).astype(np.float64),
            }
            out["cell_mode"]["error"] = (mode != truth).astype(np.float64)
        return out


@dataclass(frozen=True, eq=False)
class OfRanks:
    """How often each gene has which rank, and stands between which others.

    A list in order of expression says more of a hidden gene than its rank does: it lies between its
    neighbours. Where these mostly rank is all that ``mean_rank`` knows of a cell, and which genes
    it shows already.

    Attributes
    ----------
    of_rank
        Probability of each gene at each step of ranks, shrunk as in `OfBins`.
    between
        The same for each pair of steps of the mean ranks of both neighbours.
    step_of
        Step of each gene's mean rank, 1 … `MEAN_RANKS`.
    often
        Of each gene at any rank.
    """

    of_rank: Float32[np.ndarray, "n_steps n_genes"]
    between: Float32[np.ndarray, "n_pairs n_genes"]
    step_of: Int64[np.ndarray, "n_genes"]
    often: Float64[np.ndarray, "n_genes"]
    n_ranks: int
    mean: ClassVar[str] = "mean_rank"

    @classmethod
    def of(cls, cells: Callable[[], Iterable[Tokens]], n_genes: int, n_ranks: int) -> Self:
        """Count the training cells' tokens, at most `n_ranks` of each, in two passes."""
        n_steps = min(RANKS, n_ranks)
        of_rank = np.zeros((n_steps, n_genes), dtype=np.int32)
        sums = np.zeros(n_genes)
        for tokens in cells():
            gene, place = _genes_in_order(tokens)
            _count(of_rank, _steps(tokens.columns["position"], n_ranks, n_steps), gene)
            np.add.at(sums, gene, place)
        n = of_rank.sum(axis=0, dtype=np.int64)
        step_of = _even_steps(sums / np.maximum(n, 1), n)
        between = np.zeros(((MEAN_RANKS + 2) ** 2, n_genes), dtype=np.int32)
        for tokens in cells():
            nothing = np.zeros(len(tokens.columns["gene"]), dtype=np.bool_)
            pairs = _pairs(tokens.offsets, tokens.columns["gene"], nothing, step_of)
            _count(between, pairs, tokens.columns["gene"])
        often = (n + COMMON) / (n.sum() + COMMON * n_genes)
        ranks, middles = (shrunk(counts).astype(np.float32) for counts in (of_rank, between))
        return cls(ranks, middles, step_of, often, n_ranks)

    def measured(self, tokens: Tokens) -> Measured:
        masked, gene = tokens.columns["masked"], tokens.columns["gene"]
        steps = _steps(tokens.columns["position"], self.n_ranks, len(self.of_rank))[masked]
        pairs = _pairs(tokens.offsets, gene, masked, self.step_of)[masked]
        truth = gene[masked].astype(np.int64)
        ranked = (self.of_rank.argmax(axis=1)[steps] != truth).astype(np.float64)
        return {
            "mean": {
                "cross_entropy": -np.log(self.often[truth]),
                "error": (self.often.argmax() != truth).astype(np.float64),
            },
            "rank": {
                "cross_entropy": -np.log(self.of_rank[steps, truth].astype(np.float64)),
                "error": ranked,
            },
            "rank_unseen": self._of_the_unseen(self.of_rank, tokens, steps, truth),
            "mean_rank": self._of_the_unseen(self.between, tokens, pairs, truth),
        }

    def _of_the_unseen(
        self, table: np.ndarray, tokens: Tokens, rows: np.ndarray, truth: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Judge a row of the table for each hidden gene, without the genes that its cell shows."""
        distinct, row = np.unique(rows, return_inverse=True)
        own = table[distinct]
        first = np.argsort(-own, axis=1, kind="stable")[:, :CANDIDATES]
        masked, gene = tokens.columns["masked"], tokens.columns["gene"]
        seen, best = _unseen(tokens.offsets, gene, masked, own, first, row)
        tiny = np.finfo(np.float32).tiny
        left = np.maximum(1.0 - seen, tiny)
        return {
            "cross_entropy": -np.log(np.minimum(own[row, truth] / left, 1.0)),
            "error": (best != truth).astype(np.float64),
        }


def shrunk(counts: Int64[np.ndarray, "n_rows n_levels"]) -> Float64[np.ndarray, "n_rows n_levels"]:
    """Return the distribution of each row, drawn towards that of all rows together.

    How strongly is chosen from `STRENGTHS`: as predicts best what is counted when it is left out.
    """
    total = counts.sum()
    common = (counts.sum(axis=0) + COMMON) / (total + COMMON * counts.shape[1])
    n = counts.sum(axis=1, keepdims=True)
    row, level = np.nonzero(counts)
    seen = counts[row, level]

    def left_out(strength: float) -> float:
        # A level that occurs once in a row is predicted by what is common alone.
        p = (seen - 1 + strength * common[level]) / (n[row, 0] - 1 + strength)
        return float(seen @ np.log(p))

    best = max(STRENGTHS, key=left_out) if total else STRENGTHS[0]
    out: np.ndarray = (counts + best * common) / (n + best)
    return out


def _steps(position: np.ndarray, n_ranks: int, n_steps: int) -> Int64[np.ndarray, "n_tokens"]:
    return np.asarray(position.astype(np.int64) * n_steps // n_ranks)


def _genes_in_order(tokens: Tokens) -> tuple[np.ndarray, np.ndarray]:
    """Return each token's gene, and its place as a share of its cell's genes."""
    lengths = np.repeat(tokens.lengths, tokens.lengths)
    return tokens.columns["gene"], (tokens.columns["position"] + 0.5) / lengths


def _even_steps(
    places: Float64[np.ndarray, "n_genes"], n: Int64[np.ndarray, "n_genes"]
) -> Int64[np.ndarray, "n_genes"]:
    """Divide the genes by their mean places into steps 1 … with equally many tokens."""
    order = np.argsort(places, kind="stable")
    upto = np.cumsum(n[order]) - n[order] / 2
    step = np.empty(len(n), dtype=np.int64)
    step[order] = 1 + (upto * MEAN_RANKS / max(1, n.sum())).astype(np.int64)
    return step.clip(1, MEAN_RANKS)


@njit(cache=True, nogil=True)
def _count(counts, rows, columns):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        counts[rows[i], columns[i]] += 1


@njit(cache=True, nogil=True)
def _modes(offsets, values, visible, n_levels):  # type: ignore[no-untyped-def]
    """Return the most frequent visible value of each cell, the smallest of several; 0: none."""
    modes = np.zeros(len(offsets) - 1, dtype=np.int64)
    for cell in range(len(modes)):
        n = np.zeros(n_levels, dtype=np.int64)
        for at in range(offsets[cell], offsets[cell + 1]):
            if visible[at]:
                n[values[at]] += 1
        modes[cell] = n.argmax() if n.max() > 0 else 0
    return modes


@njit(cache=True, nogil=True)
def _pairs(offsets, gene, masked, step_of):  # type: ignore[no-untyped-def]
    """Return the number of the pair of steps of each token's next shown genes, before and behind;
    beyond a cell's ends, 0 and the last."""
    pairs = np.zeros(len(gene), dtype=np.int64)
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        step = 0
        for at in range(a, b):
            pairs[at] = step * (MEAN_RANKS + 2)
            if not masked[at]:
                step = step_of[gene[at]]
        step = MEAN_RANKS + 1
        for at in range(b - 1, a - 1, -1):
            pairs[at] += step
            if not masked[at]:
                step = step_of[gene[at]]
    return pairs


@njit(cache=True, nogil=True)
def _unseen(offsets, gene, masked, table, first, row):  # type: ignore[no-untyped-def]
    """Return, of the row of each hidden token, the sum over the genes that its cell shows, and the
    likeliest gene among the others, -1 where it is none of the first."""
    seen, best = np.zeros(len(row)), np.full(len(row), -1, dtype=np.int64)
    shown = np.zeros(table.shape[1], dtype=np.bool_)
    i = 0
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        shown[:] = False
        for at in range(a, b):
            if not masked[at]:
                shown[gene[at]] = True
        for at in range(a, b):
            if not masked[at]:
                continue
            for other in range(a, b):
                if not masked[other]:
                    seen[i] += table[row[i], gene[other]]
            for candidate in first[row[i]]:
                if not shown[candidate]:
                    best[i] = candidate
                    break
            i += 1
    return seen, best
