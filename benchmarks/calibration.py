"""Does the verdict keep its promises? Simulated studies whose truth is known.

    python benchmarks/calibration.py [--reps 2000] [--only NAME ...]

Each line is a promise of `sclitmus.stats`, what it should be, and how often it held over
simulated studies. Nothing here needs data or a network. The quick tests in
``tests/stats/test_calibration.py`` run the same functions with fewer repetitions.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.stats.decisions import judge, judge_floor
from sclitmus.stats.draws import Estimates, estimates_over_units
from sclitmus.stats.effects import adjusted, compare, effect_row
from sclitmus.stats.intervals import half_width
from sclitmus.stats.ranks import rank
from sclitmus.stats.skill import _skills
from sclitmus.tasks.half_samples import half_samples

N_DRAWS = 2_000  # a fifth of the default, to do more repetitions; costs a little Monte Carlo noise
Statistic = Callable[[np.ndarray], np.ndarray]  # (n_cells, n_columns) -> one score per method


@dataclass(frozen=True)
class Line:
    """One measured promise."""

    what: str
    wanted: str
    rate: float
    n: int

    @property
    def error(self) -> float:
        """Standard error of the rate."""
        return float(np.sqrt(max(self.rate * (1 - self.rate), 1e-4) / self.n))

    def holds(self) -> bool:
        """Whether the rate is what is wanted, to within 4 standard errors of that."""
        if self.wanted == "—" or "(not used)" in self.what or "(wrong)" in self.what:
            return True
        *sign, number = self.wanted.split()
        wanted = float(number)
        slack = 4 * np.sqrt(wanted * (1 - wanted) / self.n)
        below, above = self.rate < wanted - slack, self.rate > wanted + slack
        return not ((below and "≤" not in sign) or (above and "≥" not in sign))


# --- simulated studies -------------------------------------------------------------------------


def study(
    cells: np.ndarray,
    statistic: Statistic,
    rng: np.random.Generator,
    n_splits: int = 20,
    donor: np.ndarray | None = None,
    label: np.ndarray | None = None,
    seed_sd: float = 0.0,
    n_seeds: int = 1,
) -> Estimates:
    """Score cells and half-samples of them, or of donors; of the task's own if labels are given."""
    unit = np.arange(len(cells)) if donor is None else donor
    n = int(unit.max()) + 1
    if label is None:
        chosen = [np.isin(unit, rng.permutation(n)[: n // 2]) for _ in range(n_splits)]
        weight = (n // 2) / (n - n // 2)
    else:
        chosen, weight = task_halves(label, rng)
        n_splits = len(chosen)
    halves = [statistic(cells[rows]) for rows in chosen]
    half = np.array(halves).T
    full = statistic(cells)
    n_methods = len(full)
    by_seed = full[:, None] + rng.normal(0, seed_sd, (n_methods, n_seeds))
    a, b = 1 / (n_splits - 1), 1 / (n - 1)
    return Estimates(
        tuple(f"method {i}" for i in range(n_methods)),
        by_seed.mean(axis=1),
        (half - half.mean(axis=1, keepdims=True)) * np.sqrt(weight / (n_splits - 1)),
        1 / (a + b + 2 * a * b),
        by_seed.std(axis=1, ddof=1) / np.sqrt(n_seeds) if n_seeds > 1 else np.zeros(n_methods),
        np.full(n_methods, max(n_seeds - 1, 1.0)),
    )


def task_halves(label: np.ndarray, rng: np.random.Generator) -> tuple[list[np.ndarray], float]:
    """The half-samples that the zero-shot tasks draw, stratified by label."""
    n = len(label)
    cells = Dataset(
        "simulated",
        sparse.csr_matrix((n, 1), dtype=np.float32),
        Genes(("gene",), ("",), "unknown"),
        tuple(map(str, range(n))),
        {"label": Categories.of([f"type {code}" for code in label])},
    )
    halves = half_samples(cells, np.arange(n), rng)[1:]
    return [split.test for split in halves], float(np.mean([split.weight for split in halves]))


def means(cells: np.ndarray) -> np.ndarray:
    return cells.mean(axis=0)


def correlations(cells: np.ndarray) -> np.ndarray:
    """Correlation of each further column with the first: smooth, not linear, bounded."""
    centred = cells - cells.mean(axis=0)
    cross = centred.T @ centred[:, 0]
    return cross[1:] / np.sqrt((centred[:, 1:] ** 2).sum(axis=0) * cross[0])


def correlated(rng: np.random.Generator, n: int, n_methods: int, rho: float) -> np.ndarray:
    """Per-cell scores of methods that find the same cells hard."""
    shared = rng.normal(size=(n, 1)) * np.sqrt(rho)
    return shared + rng.normal(size=(n, n_methods)) * np.sqrt(1 - rho)


def interval(joint: Estimates, row: int = 0) -> tuple[float, float]:
    """The 95% interval of one score, as `sclitmus.stats.intervals` makes it."""
    sampling = np.array([(joint.deviations[row] ** 2).sum()])
    seeds = np.array([joint.seed_sd[row] ** 2])
    half = half_width(
        (sampling, seeds), (np.array([joint.df]), np.array([joint.seed_df[row]])), 0.95
    )[0]
    return joint.value[row] - half, joint.value[row] + half


def decide(
    joint: Estimates,
    contenders: list[int],
    bars: list[int],
    rng: np.random.Generator,
    margin: float = 0.0,
    floors: tuple[int, ...] = (),
) -> list[str]:
    """Verdicts on contenders, corrected together."""
    drawn = joint.draw(rng, N_DRAWS)
    rows = []
    for one in contenders:
        about = {
            "dataset": "d",
            "task": "t",
            "metric": "m",
            "method": str(one),
            "part": "contender",
        }
        for kind, rivals in (("bar", bars), ("floor", list(floors))):
            if rivals:
                found = compare(drawn, one, rivals)
                rows.append(effect_row(about, f"best {kind}", joint, rivals, found, margin))
    table = {(row["method"], row["against"]): row for row in adjusted(rows).to_dicts()}
    return [
        judge(table.get((str(one), "best bar")), table.get((str(one), "best floor")))
        if bars
        else judge_floor(table[(str(one), "best floor")])
        for one in contenders
    ]


# --- promises ----------------------------------------------------------------------------------


def coverage(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """A 95% interval covers the expected score in 95% of studies."""
    for n_splits in (5, 10, 20, 30):
        hit = 0
        for _ in range(reps):
            low, high = interval(study(rng.normal(size=(300, 1)), means, rng, n_splits))
            hit += low <= 0 <= high
        yield Line(f"95% interval, mean over 300 cells, R = {n_splits}", "0.95", hit / reps, reps)
    hit = 0
    for _ in range(reps):
        low, high = interval(study(rng.exponential(size=(300, 1)), means, rng))
        hit += low <= 1 <= high
    yield Line("95% interval, mean of skewed values, 300 cells", "0.95", hit / reps, reps)
    hit = 0
    for _ in range(reps):
        x = rng.normal(size=(300, 1))
        y = 0.8 * x + 0.6 * rng.normal(size=(300, 1))
        low, high = interval(study(np.hstack([x, y]), correlations, rng))
        hit += low <= 0.8 <= high
    yield Line("95% interval, correlation 0.8 (not linear), 300 cells", "0.95", hit / reps, reps)


def coverage_donors(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """With donors as units the interval speaks about further donors."""
    for n_donors in (4, 6, 12, 30):
        hit = blind = 0
        for _ in range(reps):
            donor = np.repeat(np.arange(n_donors), 20)
            cells = rng.normal(0, 0.5, n_donors)[donor, None] + rng.normal(size=(len(donor), 1))
            low, high = interval(study(cells, means, rng, donor=donor))
            hit += low <= 0 <= high
            low, high = interval(study(cells, means, rng))
            blind += low <= 0 <= high
        yield Line(f"95% interval, {n_donors} donors as units", "≥ 0.95", hit / reps, reps)
        yield Line("the same, cells taken as units (wrong)", "0.95", blind / reps, reps)


def coverage_seeds(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """Seeds add an independent error; share is the part of the variance they have."""
    for n_seeds in (2, 3, 5):
        for share in (0.1, 0.5, 0.9):
            hit = 0
            seed_sd = np.sqrt(n_seeds / 300 * share / (1 - share))
            for _ in range(reps):
                cells = rng.normal(size=(300, 1))
                low, high = interval(
                    study(cells, means, rng, seed_sd=float(seed_sd), n_seeds=n_seeds)
                )
                hit += low <= 0 <= high
            what = f"95% interval, {n_seeds} seeds with {share:.0%} of the variance"
            yield Line(what, "≥ 0.95", hit / reps, reps)


def null(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """A model exactly as good as the bars must not clear them, nor be put below them."""
    for n_bars in (1, 2, 5):
        for rho in (0.0, 0.8):
            clears = below = naive = covered = 0
            for _ in range(reps):
                joint = study(correlated(rng, 300, 1 + n_bars, rho), means, rng)
                bars = list(range(1, 1 + n_bars))
                (verdict,) = decide(joint, [0], bars, rng)
                clears += verdict == "clears the bar"
                below += verdict == "below the bar"
                drawn = joint.draw(rng, N_DRAWS)
                found = compare(drawn, 0, bars)
                covered += found.low <= 0 <= found.high
                scores = drawn.scores
                naive += np.quantile(scores[0] - scores[1:].max(axis=0), 0.975) < 0
            name = f"model = {n_bars} bar{'s' * (n_bars > 1)}, correlation {rho}"
            yield Line(f"{name}: falsely clears the bar", "≤ 0.025", clears / reps, reps)
            yield Line(f"{name}: falsely below the bar", "≤ 0.025", below / reps, reps)
            yield Line(f"{name}: interval covers 0", "≥ 0.95", covered / reps, reps)
            what = f"{name}: falsely below by percentiles of score − max(bars) (not used)"
            yield Line(what, "≤ 0.025", naive / reps, reps)
    clears = covered = 0
    for _ in range(reps):
        cells = correlated(rng, 300, 4, 0.5) + np.array([0.0, 0.0, -0.15, -1.0])
        joint = study(cells, means, rng)
        (verdict,) = decide(joint, [0], [1, 2, 3], rng)
        clears += verdict == "clears the bar"
        found = compare(joint.draw(rng, N_DRAWS), 0, [1, 2, 3])
        covered += found.low <= 0 <= found.high
    yield Line("model = best of 3 unequal bars: falsely clears", "≤ 0.025", clears / reps, reps)
    yield Line("model = best of 3 unequal bars: covers 0", "≥ 0.95", covered / reps, reps)
    below = 0
    for _ in range(reps):
        joint = study(correlated(rng, 300, 6, 0.5), means, rng, n_splits=10)
        below += decide(joint, [0], [1, 2, 3, 4, 5], rng) == ["below the bar"]
    yield Line("model = 5 bars, R = 10: falsely below", "≤ 0.025", below / reps, reps)


def power(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """A planted difference of the stated minimal detectable effect is found 4 times in 5."""
    se = np.sqrt(2 * (1 - 0.5) / 300)
    # What the mde is on average at the true standard error, 19 degrees of freedom.
    mde = (2.093 + 0.861) * se
    for n_bars in (1, 5):
        found = dict.fromkeys((0.5, 1.0, 1.5), 0)
        for factor in found:
            for _ in range(reps):
                cells = correlated(rng, 300, 1 + n_bars, 0.5)
                cells[:, 0] += factor * mde
                (verdict,) = decide(study(cells, means, rng), [0], [*range(1, 1 + n_bars)], rng)
                found[factor] += verdict == "clears the bar"
            wanted = "0.8" if (n_bars, factor) == (1, 1.0) else "—"
            what = f"power at {factor} × mde, {n_bars} bar{'s' * (n_bars > 1)} equally good"
            yield Line(what, wanted, found[factor] / reps, reps)


def equivalence(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """At a true difference of one margin, "on the bar" is an error."""
    se = np.sqrt(2 * (1 - 0.5) / 300)
    for n_bars in (1, 3):
        for factor, wanted in ((-1.0, "≤ 0.05"), (1.0, "≤ 0.05"), (0.0, "—")):
            margin = 4 * float(se)
            said = 0
            for _ in range(reps):
                cells = correlated(rng, 300, 1 + n_bars, 0.5)
                cells[:, 0] += factor * margin
                (verdict,) = decide(
                    study(cells, means, rng), [0], [*range(1, 1 + n_bars)], rng, margin
                )
                said += verdict == "on the bar"
            what = f"on the bar at a true difference of {factor:+.0f} margin (4 se), {n_bars} bars"
            yield Line(what, wanted, said / reps, reps)


def floor(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """Two floors; a model as good as they are, and one better by exactly the margin."""
    se = np.sqrt(2 * (1 - 0.5) / 300)
    margin = 4 * float(se)

    for factor, verdict, wanted in (
        (0.0, "clears the floor", "≤ 0.025"),
        (0.0, "below the floor", "—"),
        (1.0, "below the floor", "≤ 0.025"),
    ):
        said = 0
        for _ in range(reps):
            cells = correlated(rng, 300, 3, 0.5)
            cells[:, 0] += factor * margin
            (got,) = decide(study(cells, means, rng), [0], [], rng, margin, floors=(1, 2))
            said += got == verdict
        what = f"{verdict} at a true difference of {factor:.0f} margin (4 se)"
        yield Line(what, wanted, said / reps, reps)


def holm(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """Of several models as good as the bar, none may clear it, all together."""
    for n_models in (3, 8):
        clears = any_ = 0
        for _ in range(reps):
            joint = study(correlated(rng, 300, 1 + n_models, 0.3), means, rng)
            said = decide(joint, [*range(1, 1 + n_models)], [0], rng)
            clears += "clears the bar" in said
            any_ += "clears the bar" in said or "below the bar" in said
        yield Line(f"any of {n_models} equal models clears", "≤ 0.025", clears / reps, reps)
        yield Line(f"any of {n_models} clears or is below", "≤ 0.05", any_ / reps, reps)


def ranking(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """All rank intervals of a table cover the true ranks together; ties share a range of ranks."""
    ladders = {
        "8 equal methods": np.zeros(8),
        "8 methods, two groups of 4": np.repeat([0.3, 0.0], 4),
        "8 methods, evenly spaced": np.linspace(0, 0.7, 8),
    }
    for name, truth in ladders.items():
        covered = naive = 0
        width = 0.0
        # With ties, each rank a method could have when ties are broken anyhow must be covered.
        best = 1 + (truth[None, :] > truth[:, None]).sum(axis=1)
        worst = (truth[None, :] >= truth[:, None]).sum(axis=1)
        for _ in range(reps):
            joint = study(correlated(rng, 300, 8, 0.5) + truth, means, rng)
            drawn = joint.draw(rng, N_DRAWS)
            got = rank(drawn)
            covered += bool(((got.low <= best) & (got.high >= worst)).all())
            width += float((got.high - got.low).mean())
            ranks = 1 + (-drawn.scores).argsort(axis=0).argsort(axis=0)
            low, high = np.quantile(ranks, [0.025, 0.975], axis=1)
            naive += bool(((low <= best) & (high >= worst)).all())
        what = f"{name}: all rank intervals cover (mean width {width / reps:.1f})"
        yield Line(what, "≥ 0.95", covered / reps, reps)
        yield Line(f"{name}: percentiles of drawn ranks (not used)", "≥ 0.95", naive / reps, reps)
    covered = 0
    for _ in range(reps):
        joint = study(correlated(rng, 300, 12, 0.5), means, rng, n_splits=10)
        got = rank(joint.draw(rng, N_DRAWS))
        covered += bool((got.low == 1).all() and (got.high == 12).all())
    yield Line("12 equal methods, R = 10: all cover", "≥ 0.95", covered / reps, reps)


def pooling(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """Datasets as units: Student's t over them, against the percentiles of a bootstrap."""
    for n_datasets in (5, 8, 20):
        covered = naive = 0
        for _ in range(reps):
            values = rng.normal(0, 0.1, (1, n_datasets)) + rng.normal(0, 0.03, (2, n_datasets))
            joint = estimates_over_units(values, ("model", "bar"))
            found = compare(joint.draw(rng, N_DRAWS), 0, [1])
            covered += found.low <= 0 <= found.high
            picks = rng.integers(n_datasets, size=(N_DRAWS, n_datasets))
            boot = (values[0] - values[1])[picks].mean(axis=1)
            low, high = np.quantile(boot, [0.025, 0.975])
            naive += low <= 0 <= high
        yield Line(f"mean difference over {n_datasets} datasets", "0.95", covered / reps, reps)
        what = f"the same, bootstrap percentiles over {n_datasets} datasets (not used)"
        yield Line(what, "0.95", naive / reps, reps)


def skills(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """The interval of the skill covers the true skill."""
    part = {"method 0": "contender", "method 1": "floor", "method 2": "ceiling"}
    covered = 0
    for _ in range(reps):
        cells = correlated(rng, 300, 3, 0.3) + np.array([0.5, 0.0, 1.0])
        row = _skills(study(cells, means, rng), "higher", part, rng, N_DRAWS)[0]
        covered += row["low"] <= 0.5 <= row["high"]
    yield Line("skill 0.5: interval covers", "0.95", covered / reps, reps)


def zero_shot(cells: np.ndarray) -> np.ndarray:
    """Scores as a task has them, of two embeddings side by side after the label column.

    ARI and NMI of k-means, silhouette, and the share of a cell's 15 neighbours with its label;
    first all of one embedding, then all of the other.
    """
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

    label = cells[:, 0].astype(int)
    scores = []
    for z in np.split(cells[:, 1:], 2, axis=1):
        found = KMeans(label.max() + 1, n_init=3, random_state=0).fit_predict(z)
        scores += [
            adjusted_rand_score(label, found),
            normalized_mutual_info_score(label, found),
            silhouette_score(z, label),
            label_purity(z, label),
        ]
    return np.array(scores)


def label_purity(z: np.ndarray, label: np.ndarray) -> float:
    from sklearn.neighbors import NearestNeighbors

    near = NearestNeighbors(n_neighbors=16).fit(z).kneighbors(return_distance=False)
    return float((label[near[:, 1:]] == label[:, None]).mean())


def embedded_cells(rng: np.random.Generator, n: int = 400) -> np.ndarray:
    """Cells of 5 types of unequal size, and two embeddings of them that share most noise."""
    centres = np.random.default_rng(7).normal(size=(5, 6)) * 1.3
    label = rng.choice(5, size=n, p=[0.35, 0.25, 0.2, 0.12, 0.08])
    signal = centres[label] + rng.normal(size=(n, 6))
    other = 0.9 * signal + 0.5 * rng.normal(size=(n, 6))
    return np.column_stack([label, signal, other])


def headlines(cells: np.ndarray) -> np.ndarray:
    """What the two zero-shot tasks judge, with the two sides of integration: of two embeddings.

    Cells have one of three batches by their last digit, which shifts the second embedding.
    """
    from sclitmus.metrics.suite import METRICS, ScoredEmbedding

    label = cells[:, 0].astype(np.int32)
    batch = (np.abs(cells[:, 1] * 1e6).astype(np.int64) % 3).astype(np.int32)
    first, second = np.split(cells[:, 1:], 2, axis=1)
    shifted = second + 0.7 * (batch[:, None] == np.arange(6) % 3)
    scores = []
    for z in (first, shifted):
        scored = ScoredEmbedding(np.ascontiguousarray(z, dtype=np.float32), label, batch)
        for metric in ("avg_bio", "mixing", "integration"):
            value = METRICS[metric].compute(scored)
            scores.append(value if isinstance(value, float) else value["dataset"])
    return np.array(scores)


def headline_scores(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """The headlines themselves: Leiden at the best of ten resolutions, silhouettes, LISI."""
    names = ("AvgBIO", "mixing", "integration")
    reps = min(reps, 100)  # several seconds each
    yield from against_fresh_data(names, headlines, reps, rng, (20,), stratified=True)


def zero_shot_scores(reps: int, rng: np.random.Generator) -> Iterator[Line]:
    """Scores one by one, on the half-samples that the tasks draw, and on plain ones."""
    names = ("ARI of k-means", "NMI of k-means", "silhouette", "label purity of neighbours")
    reps = min(reps, 300)  # a second each
    for stratified in (True, False):
        yield from against_fresh_data(names, zero_shot, reps, rng, (5, 10, 20), stratified)


def against_fresh_data(
    names: tuple[str, ...],
    statistic: Statistic,
    reps: int,
    rng: np.random.Generator,
    n_splits: tuple[int, ...],
    stratified: bool,
) -> Iterator[Line]:
    """Coverage of the mean score over fresh datasets, and of the difference of two embeddings."""
    studies = []
    for _ in range(reps):
        cells = embedded_cells(rng)
        label = cells[:, 0].astype(int) if stratified else None
        studies.append(study(cells, statistic, rng, label=label))
    kind = "" if stratified else ", not stratified"
    truth = np.mean([joint.value for joint in studies], axis=0)
    spread = np.std([joint.value for joint in studies], axis=0, ddof=1)
    for n in n_splits:
        cut = [first_splits(joint, n) for joint in studies]
        for i, name in enumerate(names):
            ends = np.array([interval(joint, i) for joint in cut])
            hit = np.mean((ends[:, 0] <= truth[i]) & (truth[i] <= ends[:, 1]))
            width = np.mean(ends[:, 1] - ends[:, 0]) / (2 * 1.96 * spread[i])
            what = f"{name}, R = {n}{kind} ({width:.2f} × ideal width)"
            yield Line(what, "≥ 0.95", float(hit), reps)
            other = i + len(names)
            found = [compare(joint.draw(rng, N_DRAWS), i, [other]) for joint in cut]
            gap = truth[i] - truth[other]
            hit = np.mean([d.low <= gap <= d.high for d in found])
            what = f"{name}, R = {n}{kind}: difference of two embeddings"
            yield Line(what, "≥ 0.95", float(hit), reps)


def first_splits(joint: Estimates, n_splits: int) -> Estimates:
    """Estimates from the first half-samples only."""
    of = joint.deviations.shape[1]
    half = joint.deviations[:, :n_splits] * np.sqrt((of - 1) / (n_splits - 1))
    half = half - half.mean(axis=1, keepdims=True)
    return replace(joint, deviations=half, df=n_splits - 1.0)


EXPERIMENTS = {
    "coverage": coverage,
    "donors": coverage_donors,
    "seeds": coverage_seeds,
    "null": null,
    "power": power,
    "equivalence": equivalence,
    "floor": floor,
    "holm": holm,
    "ranks": ranking,
    "pooling": pooling,
    "skill": skills,
    "zero_shot": zero_shot_scores,
    "headline": headline_scores,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reps", type=int, default=2000)
    parser.add_argument("--only", nargs="*", choices=list(EXPERIMENTS), default=list(EXPERIMENTS))
    given = parser.parse_args()
    print("| promise | wanted | measured | studies |\n|---|---|---|---|")
    for name in given.only:
        start = time.perf_counter()
        for line in EXPERIMENTS[name](given.reps, np.random.default_rng(20260101)):
            print(
                f"| {line.what} | {line.wanted} | {line.rate:.3f} ± {line.error:.3f} | {line.n} |",
                flush=True,
            )
        print(f"<!-- {name}: {time.perf_counter() - start:.0f} s -->", flush=True)


if __name__ == "__main__":
    main()
