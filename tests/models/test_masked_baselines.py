"""Which genes are hidden, what averages predict of them, and how a model is compared with that."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sclitmus.models.masked_baselines import STRENGTHS, OfBins, OfRanks, shrunk
from sclitmus.models.masked_scores import PerCell, skill, together
from sclitmus.models.masking import cells_of, hide, with_columns
from sclitmus.models.tokens import Tokens


def tokens_of(lengths: list[int], **columns: Sequence[float]) -> Tokens:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Tokens(offsets, {name: np.array(values) for name, values in columns.items()})


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=6),
    st.sampled_from([0.15, 0.5, 0.99]),
    st.sampled_from(["down", "up"]),
    st.integers(0, 99),
)
def test_a_share_of_what_is_eligible_is_hidden(
    lengths: list[int], share: float, whole: Literal["down", "up"], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    tokens = tokens_of(lengths)
    eligible = rng.random(sum(lengths)) < 0.8
    masked = hide(tokens, eligible, [share], rng, whole)
    assert not (masked & ~eligible).any()
    for a, b in zip(tokens.offsets, tokens.offsets[1:], strict=False):
        n = int(eligible[a:b].sum())
        wanted = np.ceil(share * n) if whole == "up" else np.floor(share * n)
        assert masked[a:b].sum() == (max(1, wanted) if n > 1 else 0)


def test_every_token_is_hidden_as_often_as_any_other_and_of_several_shares_each_cell_draws() -> (
    None
):
    tokens = tokens_of([8] * 4000)
    masked = hide(tokens, np.ones(32_000, bool), [0.25, 0.75], np.random.default_rng(0))
    per_cell = masked.reshape(-1, 8).sum(axis=1)
    assert set(per_cell.tolist()) == {2, 6}
    assert abs((per_cell == 2).mean() - 0.5) < 0.03
    assert np.abs(masked.reshape(-1, 8).mean(axis=0) - 0.5).max() < 0.03
    again = hide(tokens, np.ones(32_000, bool), [0.25, 0.75], np.random.default_rng(0))
    assert np.array_equal(masked, again)


def test_averages_of_bins_are_those_computed_by_hand() -> None:
    # Two genes: A is in bins 1 1 3 of the training cells, B in 2 2; C is never seen.
    training = tokens_of([2, 2, 1], gene=[0, 1, 0, 1, 0], value=[1, 2, 1, 2, 3])
    bins = OfBins.of([training], n_genes=3, n_bins=4, column="value")
    assert bins.counts.tolist() == [[0, 2, 0, 1], [0, 0, 2, 0], [0, 0, 0, 0]]
    assert bins.overall == pytest.approx(9 / 5)
    # C is predicted by what all genes have in common.
    np.testing.assert_allclose(bins.of_gene[2] @ np.arange(4), 9 / 5, atol=1e-2)
    # A cell with -1 (<cls>), A hidden (3), B 3, B 3; one with only a hidden B (1).
    cells = tokens_of(
        [4, 1],
        gene=[-1, 0, 1, 1, 1],
        target=[-2.0, 3, 3, 3, 1],
        masked=[False, True, False, False, True],
    )
    measured = bins.measured(cells)
    means = bins.of_gene @ np.arange(4)
    np.testing.assert_allclose(measured["mean"]["mse"], [(1.8 - 3) ** 2, (1.8 - 1) ** 2])
    np.testing.assert_allclose(
        measured["gene_mean"]["mse"], [(means[0] - 3) ** 2, (means[1] - 1) ** 2]
    )
    np.testing.assert_allclose(measured["cell_mean"]["mse"], [0, (1.8 - 1) ** 2])
    np.testing.assert_allclose(measured["cell_mode"]["mse"][0], 0)
    shifted = means[0] + (3 - means[1])
    np.testing.assert_allclose(
        measured["gene_and_cell"]["mse"], [(shifted - 3) ** 2, (means[1] - 1) ** 2]
    )
    assert "cross_entropy" not in measured["mean"]  # scGPT predicts no probabilities


def test_probabilities_of_bins_are_judged_by_cross_entropy_and_by_the_mode() -> None:
    training = tokens_of([3, 3], gene=[0, 1, 2, 0, 1, 2], bin=[1, 2, 5, 1, 2, 5])
    bins = OfBins.of([training], n_genes=3, n_bins=6, column="bin")
    cells = tokens_of([3], gene=[0, 1, 2], target=[1, 2, 4], masked=[True, False, True])
    measured = bins.measured(cells)
    np.testing.assert_allclose(
        measured["gene_mean"]["cross_entropy"], -np.log(bins.of_gene[[0, 2], [1, 4]])
    )
    assert measured["gene_mean"]["error"].tolist() == [0, 1]
    assert measured["cell_mode"]["error"].tolist() == [1, 1]  # the visible one is 2
    np.testing.assert_allclose(bins.of_gene.sum(axis=1), 1)


def test_ranks_are_predicted_by_the_genes_that_have_them_and_that_the_cell_does_not_show() -> None:
    rng = np.random.default_rng(0)
    n_genes, n_cells = 6, 400
    order = np.argsort(rng.gumbel(size=(n_cells, n_genes)) - 0.8 * np.arange(n_genes), axis=1)
    training = tokens_of(
        [n_genes] * n_cells,
        gene=order.ravel().tolist(),
        position=np.tile(np.arange(n_genes), n_cells).tolist(),
    )
    ranks = OfRanks.of(lambda: [training], n_genes, n_ranks=n_genes)
    counted = np.zeros((n_genes, n_genes))
    np.add.at(counted, (order.ravel(), np.tile(np.arange(n_genes), n_cells)), 1)
    np.testing.assert_allclose(ranks.of_rank, counted.T / n_cells, atol=0.02)
    masked = np.zeros(n_genes, bool)
    masked[[1, 4]] = True
    cell = tokens_of(
        [n_genes],
        gene=order[0].tolist(),
        target=order[0].tolist(),
        position=list(range(n_genes)),
        masked=masked.tolist(),
    )
    measured = ranks.measured(cell)
    left = order[0][masked]
    for i, place in enumerate((1, 4)):
        p = ranks.of_rank[place]
        assert measured["rank"]["cross_entropy"][i] == pytest.approx(-np.log(p[order[0][place]]))
        among = p[order[0][place]] / p[left].sum()
        assert measured["rank_unseen"]["cross_entropy"][i] == pytest.approx(-np.log(among))
        best = left[p[left].argmax()]
        assert measured["rank_unseen"]["error"][i] == float(best != order[0][place])
    every = together([PerCell.of(np.zeros(2, np.int64), 1, measured["rank_unseen"])])
    assert every.mean("cross_entropy") < measured["mean"]["cross_entropy"].mean()


def test_an_ordered_list_gives_a_hidden_gene_away_by_its_neighbours() -> None:
    rng = np.random.default_rng(0)
    n_genes, n_cells = 48, 1500

    def measured(ordered: bool) -> dict[str, float]:
        """Cells with a third of the genes each, whichever: in one order, or in any."""
        shown = rng.random((n_cells, n_genes)) < 1 / 3
        lists = [np.flatnonzero(row) for row in shown]
        if not ordered:
            lists = [rng.permutation(genes) for genes in lists]
        lengths = [len(genes) for genes in lists]
        cells = tokens_of(
            lengths,
            gene=np.concatenate(lists).tolist(),
            target=np.concatenate(lists).tolist(),
            position=np.concatenate([np.arange(n) for n in lengths]).tolist(),
        )
        training, held = cells.take(np.arange(1000)), cells.take(np.arange(1000, n_cells))
        ranks = OfRanks.of(lambda: [training], n_genes, n_ranks=n_genes)
        masked = hide(held, np.ones(held.offsets[-1], bool), [0.15], rng)
        of = ranks.measured(with_columns(held, masked=masked))
        return {name: values["cross_entropy"].mean() for name, values in of.items()}

    given, kept = measured(ordered=True), measured(ordered=False)
    assert given["mean_rank"] < given["rank_unseen"] - 0.5 < given["rank"]
    assert kept["mean_rank"] == pytest.approx(kept["rank_unseen"], abs=0.05)
    # Any of the 48 genes that the cell does not show: about 34.
    assert kept["rank_unseen"] == pytest.approx(np.log(34), abs=0.1)


def test_how_much_is_shrunk_is_what_predicts_the_left_out() -> None:
    counts = np.random.default_rng(1).poisson(0.7, (30, 8)).astype(np.int64)
    counts[:, 3] += 2
    common = (counts.sum(axis=0) + 1e-3) / (counts.sum() + 8e-3)

    def left_out(strength: float) -> float:
        """Every count left out in its turn, one by one."""
        total = 0.0
        for row in counts:
            for level, n in enumerate(row):
                for _ in range(n):
                    without = row.copy()
                    without[level] -= 1
                    p = (without + strength * common) / (without.sum() + strength)
                    total += np.log(p[level])
        return total

    best = max(STRENGTHS, key=left_out)
    expected = (counts + best * common) / (counts.sum(axis=1, keepdims=True) + best)
    np.testing.assert_allclose(shrunk(counts), expected)
    assert best > STRENGTHS[0]  # rows that are alike are drawn together
    apart = np.diag([500, 500, 500])
    np.testing.assert_allclose(shrunk(apart), np.eye(3), atol=0.01)


def test_skill_is_one_minus_the_ratio_of_sums_with_the_bootstraps_interval() -> None:
    assert skill(np.array([1.0, 2.0]), np.zeros(2)) is None
    exact = skill(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    assert exact is not None
    assert (exact.value, exact.low, exact.high) == pytest.approx((0.5, 0.5, 0.5))
    rng = np.random.default_rng(0)
    average = rng.gamma(4.0, 2.0, 500)
    model = average * rng.uniform(0.5, 1.1, 500)
    own = skill(model, average)
    assert own is not None
    drawn = rng.integers(500, size=(4000, 500))
    ratios = 1 - model[drawn].sum(axis=1) / average[drawn].sum(axis=1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    assert own.low == pytest.approx(low, abs=0.004)
    assert own.high == pytest.approx(high, abs=0.004)
    assert str(own).startswith("skill 0.2")


def test_sums_are_per_cell_and_means_over_hidden_genes() -> None:
    first = PerCell.of(np.array([0, 0, 2]), 3, {"mse": np.array([1.0, 2.0, 6.0])})
    assert (first.n.tolist(), first.sums["mse"].tolist()) == ([2, 0, 1], [3.0, 0.0, 6.0])
    both = together([first, PerCell.of(np.array([0]), 1, {"mse": np.array([1.0])})])
    assert both.means == {"mse": 2.5}
    tokens = tokens_of([2, 1], gene=[0, 1, 2])
    assert cells_of(tokens).tolist() == [0, 0, 1]
    assert with_columns(tokens, value=np.ones(3)).columns.keys() == {"gene", "value"}
