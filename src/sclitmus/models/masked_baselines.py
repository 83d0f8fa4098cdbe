"""What can be predicted of hidden genes without a network: from averages of the training cells.

Every prediction is in the target space of the model it stands beside: bins, or which gene has a
rank. A model that does not beat these has learned no more than the average expression.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol, Self

import numpy as np
from jaxtyping import Float64, Int64
from numba import njit

from sclitmus.models.masking import cells_of
from sclitmus.models.tokens import Tokens

LEVELS_OF_RANK = 64  # ranks are counted in so many steps
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
            return np.asarray(sums / np.maximum(n, 1))[at]

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
    """How often each gene has which rank.

    Attributes
    ----------
    of_rank
        Probability of each gene at each step of ranks, shrunk as in `OfBins`.
    often
        Of each gene at any rank.
    """

    of_rank: Float64[np.ndarray, "n_genes n_steps"]
    often: Float64[np.ndarray, "n_genes"]
    n_ranks: int
    mean: ClassVar[str] = "rank_unseen"

    @classmethod
    def of(cls, cells: Iterable[Tokens], n_genes: int, n_ranks: int) -> Self:
        """Count the training cells' tokens, of at most `n_ranks` each."""
        counts = np.zeros((n_genes, min(LEVELS_OF_RANK, n_ranks)), dtype=np.int64)
        for tokens in cells:
            gene = tokens.columns["gene"]
            real = gene >= 0
            steps = _steps(tokens.columns["position"], n_ranks, counts.shape[1])
            _count(counts, gene[real], steps[real])
        often = (counts.sum(axis=1) + 1e-3) / (counts.sum() + 1e-3 * n_genes)
        return cls(np.ascontiguousarray(shrunk(counts.T).T), often, n_ranks)

    def measured(self, tokens: Tokens) -> Measured:
        masked, gene = tokens.columns["masked"], tokens.columns["gene"]
        visible = (gene >= 0) & ~masked
        step = _steps(tokens.columns["position"], self.n_ranks, self.of_rank.shape[1])
        truth, steps = gene[masked], step[masked]
        seen, best = _seen(tokens.offsets, gene, step, visible, masked, self.of_rank)
        tiny = np.finfo(float).tiny
        at_rank = self.of_rank[truth, steps]
        return {
            "mean": {
                "cross_entropy": -np.log(self.often[truth]),
                "error": (self.often.argmax() != truth).astype(np.float64),
            },
            "rank": {
                "cross_entropy": -np.log(at_rank),
                "error": (self.of_rank.argmax(axis=0)[steps] != truth).astype(np.float64),
            },
            "rank_unseen": {
                "cross_entropy": -np.log(at_rank / np.maximum(1.0 - seen, tiny)),
                "error": (best != truth).astype(np.float64),
            },
        }


def shrunk(counts: Int64[np.ndarray, "n_rows n_levels"]) -> Float64[np.ndarray, "n_rows n_levels"]:
    """Return the distribution of each row, drawn towards that of all rows together.

    How strongly is chosen from `STRENGTHS`: as predicts best what is counted when it is left out.
    """
    total = counts.sum()
    common = (counts.sum(axis=0) + 1e-3) / (total + 1e-3 * counts.shape[1])
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


@njit(cache=True, nogil=True)
def _count(counts, rows, levels):  # type: ignore[no-untyped-def]
    for i in range(len(rows)):
        counts[rows[i], levels[i]] += 1


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
def _seen(offsets, gene, step, visible, masked, of_rank):  # type: ignore[no-untyped-def]
    """Return, for every hidden token, the probability at its rank of the genes that the cell shows,
    and the likeliest gene among the others."""
    n = 0
    for at in range(len(masked)):
        n += masked[at]
    seen, best = np.zeros(n), np.zeros(n, dtype=np.int64)
    n_genes, n_steps = of_rank.shape
    shown = np.zeros(n_genes, dtype=np.bool_)
    i = 0
    for cell in range(len(offsets) - 1):
        a, b = offsets[cell], offsets[cell + 1]
        shown[:] = False
        for at in range(a, b):
            if visible[at]:
                shown[gene[at]] = True
        total, top = np.full(n_steps, -1.0), np.zeros(n_steps, dtype=np.int64)
        for at in range(a, b):
            if not masked[at]:
                continue
            s = step[at]
            if total[s] < 0:  # once per cell and step
                total[s] = 0.0
                likeliest = -1.0
                for g in range(n_genes):
                    if shown[g]:
                        total[s] += of_rank[g, s]
                    elif of_rank[g, s] > likeliest:
                        likeliest = of_rank[g, s]
                        top[s] = g
            seen[i], best[i] = total[s], top[s]
            i += 1
    return seen, best
