"""Time and memory of the regressions that stand beside every model where labels are learned.

    python benchmarks/annotation.py                       # 68,000 cells x 17,000 genes, 11 types
    python benchmarks/annotation.py --cells 10000 --sklearn-cells 2000 --groups

The cells are simulated after Zheng68K: its shares of types (30% to 0.1%), about 1,300 counts of
530 genes per cell, types of one lineage that differ little, and one T cell in eight with the label
of another. Figures:

grid        wall and processor seconds and peak memory of choosing C among nine by five-fold
            cross-validation and fitting on all cells; each in a process of its own, compiled before
scikit      beside it, on a part of the cells: one fit per C, no cross-validation, with liblinear
            (one against the rest) and lbfgs as scikit-learn has them by default. The objective is
            that of each definition, least is best: liblinear penalises the intercept as well.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy import sparse

from sclitmus.learning import logistic, sparse_logistic
from sclitmus.learning.tuning import GRID

# Share of each type in Zheng68K (percent), and its lineage and branch.
TYPES = {
    "CD8+ cytotoxic T": (30.3, "T/NK", "CD8"),
    "CD8+ naive cytotoxic": (24.3, "T/NK", "CD8"),
    "CD56+ NK": (12.8, "T/NK", "NK"),
    "CD4+ regulatory T": (9.0, "T/NK", "CD4"),
    "B": (8.6, "B", "B"),
    "CD4+ memory T": (4.5, "T/NK", "CD4"),
    "CD14+ monocyte": (4.2, "myeloid", "myeloid"),
    "dendritic": (3.1, "myeloid", "myeloid"),
    "CD4+ naive T": (2.7, "T/NK", "CD4"),
    "CD34+": (0.4, "progenitor", "progenitor"),
    "CD4+ Th2": (0.1, "T/NK", "CD4"),
}
N_LANES = 8
N_TEST = 4000
SOLVERS = {"l1": sparse_logistic, "l2": logistic}


def simulated(n: int, n_genes: int, seed: int = 0) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Draw counts, and return their log1p per 10,000 with the labels."""
    rng = np.random.default_rng(seed)
    shares = np.array([share for share, _, _ in TYPES.values()])
    y = rng.choice(len(TYPES), n, p=shares / shares.sum())
    base = rng.normal(0, 2.6, n_genes)

    def shift(strength: float, affected: float) -> np.ndarray:
        return rng.normal(0, strength, n_genes) * (rng.random(n_genes) < affected)

    places = {place for _, *both in TYPES.values() for place in enumerate(both)}
    of_place = {place: shift((0.5, 0.24)[place[0]], 0.2) for place in sorted(places)}
    log_mean = [
        base + of_place[0, lineage] + of_place[1, branch] + shift(0.18, 0.15)
        for _, lineage, branch in TYPES.values()
    ]
    cumulative = np.cumsum(np.exp(log_mean), axis=1)
    cumulative /= cumulative[:, -1:]
    depth = np.maximum(200, rng.lognormal(np.log(1300), 0.4, n)).astype(np.int64)
    blocks, order = [], np.argsort(y, kind="stable")
    for start in range(0, n, 1000):
        rows = order[start : start + 1000]
        drawn = [np.searchsorted(cumulative[y[i]], rng.random(depth[i])) for i in rows]
        starts = np.concatenate([[0], np.cumsum(depth[rows])])
        genes = np.minimum(np.concatenate(drawn), n_genes - 1).astype(np.int32)
        ones = np.ones(len(genes), np.float32)
        block = sparse.csr_matrix((ones, genes, starts), shape=(len(rows), n_genes))
        block.sum_duplicates()
        blocks.append(block)
    x = sparse.csr_matrix(sparse.vstack(blocks, format="csr")[np.argsort(order)])
    total = np.asarray(x.sum(axis=1)).ravel()
    x.data = np.log1p(x.data * np.repeat(1e4 / total, np.diff(x.indptr))).astype(np.float32)
    t_cells = np.flatnonzero([lineage == "T/NK" for _, lineage, _ in TYPES.values()])
    wrong = np.isin(y, t_cells) & (rng.random(n) < 1 / 8)
    y[wrong] = rng.permutation(y[wrong])
    return x, y


# ---- the whole grid, in a process of its own


def measure(solver: str, data: Path, groups: bool) -> dict[str, Any]:
    x, y = sparse.load_npz(data / "x.npz"), np.load(data / "y.npy")
    train = slice(0, x.shape[0] - N_TEST)
    lane = np.random.default_rng(1).integers(0, N_LANES, len(y)) if groups else None
    few = np.arange(1500)
    SOLVERS[solver].path(x[few], y[few], len(TYPES), GRID[:2])  # compiles
    fit_tuned = SOLVERS[solver].fit_tuned
    wall, cpu = time.perf_counter(), time.process_time()
    rng, of_group = np.random.default_rng(0), None if lane is None else lane[train]
    tuned = fit_tuned(x[train], y[train], len(TYPES), of_group, rng)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    hits = tuned.scores(x[-N_TEST:]).argmax(axis=1) == y[-N_TEST:]
    return {
        "wall": wall,
        "cpu": cpu,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "C": tuned.choice.value,
        "scores": tuned.choice.scores,
        "remarks": tuned.remarks,
        "accuracy": float(hits.mean()),
    }


def grid_table(data: Path, groups: bool) -> None:
    print("| penalty | wall s | CPU s | peak MB | C | test accuracy | cross-validated, by C |")
    print("|---|---|---|---|---|---|---|")
    for solver in SOLVERS:
        command = [sys.executable, __file__, "--measure", solver, "--data", str(data)]
        command += ["--groups"] if groups else []
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found = json.loads(output.splitlines()[-1])
        scores = " ".join(f"{score:.3f}" for score in found["scores"])
        print(
            f"| {solver} | {found['wall']:.0f} | {found['cpu']:.0f} | {found['peak_mb']:.0f} "
            f"| {found['C']:g} | {found['accuracy']:.4f} | {scores} |"
        )
        for remark in found["remarks"]:
            print(f"\n{solver}: {remark}\n")


# ---- beside scikit-learn


def objective(solver: str, x: Any, y: np.ndarray, w: np.ndarray, b: np.ndarray, c: float) -> float:
    z = x @ w + b
    if solver == "l2":
        of_truth = z[np.arange(len(y)), y]
        return float(c * (np.logaddexp.reduce(z, axis=1) - of_truth).sum() + (w**2).sum() / 2)
    sign = np.where(y[:, None] == np.arange(w.shape[1]), -1, 1)
    return float(c * np.logaddexp(0, sign * z).sum() + np.abs(w).sum())


def peer(solver: str, x: Any, y: np.ndarray, c: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights and intercepts of scikit-learn with its default tolerance."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.multiclass import OneVsRestClassifier

    if solver == "l2":
        found = LogisticRegression(C=c, max_iter=5000).fit(x, y)
        return found.coef_.T, found.intercept_
    one = LogisticRegression(C=c, l1_ratio=1.0, solver="liblinear", max_iter=1000)
    rest = OneVsRestClassifier(one, n_jobs=1).fit(x, y)
    return (
        np.stack([e.coef_[0] for e in rest.estimators_], axis=1),
        np.array([e.intercept_[0] for e in rest.estimators_]),
    )


def peer_table(x: Any, y: np.ndarray, n: int) -> None:
    rows = np.arange(n)
    for missing in np.setdiff1d(np.arange(len(TYPES)), y[:n]):  # every type has a cell
        rows = np.append(rows, np.flatnonzero(y == missing)[0])
    some, code = x[rows], y[rows]
    test, truth = x[-N_TEST:], y[-N_TEST:]
    print(f"\n{n} cells, one fit per C: ours | scikit-learn\n")
    print("| penalty | C | seconds | objective | accuracy | largest difference of a probability |")
    print("|---|---|---|---|---|---|")
    for solver, ours in SOLVERS.items():
        start = time.perf_counter()
        models = ours.path(some, code, len(TYPES))
        spent, theirs = time.perf_counter() - start, 0.0
        for c, model in zip(GRID, models, strict=True):
            start = time.perf_counter()
            w, b = peer(solver, some, code, c)
            seconds = time.perf_counter() - start
            theirs += seconds
            twin = type(model)(w, b)
            p, q = (np.exp(logits) for logits in (log_p(model, test), log_p(twin, test)))
            a, o = (objective(solver, some, code, m.weights, m.intercept, c) for m in (model, twin))
            print(
                f"| {solver} | {c:g} | – | {seconds:.1f} | {a:.5g} | {o:.5g} "
                f"| {(p.argmax(axis=1) == truth).mean():.4f} "
                f"| {(q.argmax(axis=1) == truth).mean():.4f} | {np.abs(p - q).max():.1e} |",
                flush=True,
            )
        print(f"| {solver} | all | {spent:.1f} | {theirs:.1f} | | | | | |", flush=True)


def log_p(model: Any, x: Any) -> np.ndarray:
    z = model.scores(x)
    return np.asarray(z - np.logaddexp.reduce(z, axis=1, keepdims=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cells", type=int, default=68_000)
    parser.add_argument("--genes", type=int, default=17_000)
    parser.add_argument("--sklearn-cells", type=int, default=5_000, help="0 for none")
    parser.add_argument("--groups", action="store_true", help="keep eight lanes whole")
    parser.add_argument("--measure", choices=SOLVERS, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    if args.measure:
        print(json.dumps(measure(args.measure, args.data, args.groups)))
        return
    with tempfile.TemporaryDirectory() as folder:
        x, y = simulated(args.cells + N_TEST, args.genes)
        genes = x.nnz / x.shape[0]
        print(f"{args.cells} cells x {args.genes} genes, {genes:.0f} genes per cell\n", flush=True)
        sparse.save_npz(Path(folder) / "x.npz", x, compressed=False)
        np.save(Path(folder) / "y.npy", y)
        grid_table(Path(folder), args.groups)
    if args.sklearn_cells:
        peer_table(x, y, args.sklearn_cells)


if __name__ == "__main__":
    main()
