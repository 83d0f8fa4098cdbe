"""Time and memory of scoring one embedding, beside scib-metrics 0.5.10, on the same arrays.

    python benchmarks/scoring.py                       # 5k and 20k cells, 50 and 512 dimensions
    python benchmarks/scoring.py --sizes 100000 --dims 50 --peer-limit 3600
    python benchmarks/scoring.py --skip-peer --peer-json peer.json   # peer's figures from before
    python benchmarks/scoring.py --million             # 1M x 50, every metric, ours alone

Both sides compute the metrics of scib-metrics' default `Benchmarker` with its definitions: kNN of
90, label silhouette, isolated labels, BRAS, iLISI, cLISI, graph connectivity, PCR comparison,
k-means NMI and ARI, kBET per label. *Fresh* is the wall time of a new process until the values are
there, imports included, and with an empty compilation cache, as on the first day (later processes
load our compiled loops from disk: *again*; JAX compiles in every process). *Warm* is a later call
in that process. Peak memory is the process's largest resident set over all calls. On a busy machine
look at *CPU*, the processor seconds of the fresh call. k-means draws its own numbers on either side
and the peer's neighbours are approximate, so equal is not to the last digit. Its 32-bit LISI
underflows in 512 dimensions, which moves iLISI and cLISI there (docs/metrics/clisi.md).
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

N_LABELS, N_BATCHES = 20, 6
# Our metric -> the row of scib-metrics' results table.
PEER_NAMES = {
    "isolated_labels": "isolated_labels",
    "nmi_kmeans": "nmi_ari_cluster_labels_kmeans_nmi",
    "ari_kmeans": "nmi_ari_cluster_labels_kmeans_ari",
    "asw": "silhouette_label",
    "clisi": "clisi_knn",
    "bras": "bras",
    "ilisi": "ilisi_knn",
    "kbet": "kbet_per_label",
    "graph_connectivity": "graph_connectivity",
    "pcr_comparison": "pcr_comparison",
}
PEER_LEIDEN = {
    "nmi_oracle": "nmi_ari_cluster_labels_leiden_nmi",
    "ari_oracle": "nmi_ari_cluster_labels_leiden_ari",
}


def make_arrays(n: int, d: int) -> dict[str, np.ndarray]:
    """Draw overlapping types with a batch shift; the same arrays for every call and machine."""
    rng = np.random.default_rng(n + d)
    label = rng.choice(N_LABELS, n, p=rng.dirichlet(np.full(N_LABELS, 2.0)))
    batch = rng.choice(N_BATCHES, n, p=rng.dirichlet(np.full(N_BATCHES, 4.0)))
    batch[label == 0] %= 2  # one type that only two batches have
    scale = np.sqrt(50 / d)  # equal overlap of types in any dimension
    types, shifts = rng.normal(size=(N_LABELS, d)), rng.normal(size=(N_BATCHES, d))
    signal = 0.6 * scale * types[label]
    shift = 0.15 * scale * shifts[batch]
    z = signal + shift + rng.normal(size=(n, d), scale=1.0)
    p = min(d, 50)
    before = (signal + 3 * shift)[:, :p] / scale + rng.normal(size=(n, p))
    return {
        "z": z.astype(np.float32),
        "before": before.astype(np.float32),
        "label": label.astype(np.int32),
        "batch": batch.astype(np.int32),
    }


# ---- in the measured process


def score_ours(arrays: dict[str, np.ndarray], which: str) -> dict[str, float | None]:
    from sclitmus.metrics.suite import METRICS, ScoredEmbedding, score_all

    if which == "all":
        ids, compat = list(METRICS), ""
    else:
        ids = [*PEER_NAMES, *(PEER_LEIDEN if which == "leiden" else {})]
        compat = "scib"
    embedding = ScoredEmbedding(**arrays, compat=compat)
    scores = score_all(embedding, ids)
    return {score.metric: score.value for score in scores if score.unit == "dataset"}


def score_peer(arrays: dict[str, np.ndarray], which: str) -> dict[str, float | None]:
    import anndata
    import pandas as pd
    from scib_metrics.benchmark import Benchmarker, BioConservation

    names = [str(i) for i in range(len(arrays["z"]))]
    cells = anndata.AnnData(
        obs=pd.DataFrame(
            {
                "label": pd.Categorical(arrays["label"].astype(str)),
                "batch": pd.Categorical(arrays["batch"].astype(str)),
            },
            index=names,
        ),
        obsm={"z": arrays["z"], "before": arrays["before"]},
    )
    benchmarker = Benchmarker(
        cells,
        batch_key="batch",
        label_key="label",
        embedding_obsm_keys=["z"],
        bio_conservation_metrics=BioConservation(nmi_ari_cluster_labels_leiden=which == "leiden"),
        pre_integrated_embedding_obsm_key="before",
        n_jobs=-1,
        progress_bar=False,
    )
    benchmarker.benchmark()
    found = benchmarker.get_results(clean_names=False).loc["z"]
    wanted = PEER_NAMES | (PEER_LEIDEN if which == "leiden" else {})
    return {ours: float(found[theirs]) for ours, theirs in wanted.items()}


def work(side: str, path: str, which: str, started: float, repeats: int) -> None:
    """Score twice and print the figures; `started` is when the parent made this process."""
    score = score_ours if side == "ours" else score_peer
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    values = score(arrays, which)
    fresh, cpu = time.time() - started, cpu_seconds()
    warm = []
    for _ in range(repeats):
        start = time.perf_counter()
        values = score(arrays, which)
        warm.append(time.perf_counter() - start)
    # Linux counts in kB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    figures = {"fresh": fresh, "cpu": cpu, "warm": min(warm, default=None), "peak_mb": peak}
    figures["values"] = values
    print("FIGURES " + json.dumps(figures))


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


# ---- in the measuring process


def measure(
    side: str, path: Path, which: str, limit: float | None, repeats: int = 1, cache: str = ""
) -> dict[str, Any] | None:
    """Run one side in a process of its own; None where it ran past the limit.

    `cache` is a folder for numba's compiled code instead of the usual one.
    """
    environment = os.environ | ({"NUMBA_CACHE_DIR": cache} if cache else {})
    arguments = [sys.executable, __file__, "--work", side, str(path), which]
    arguments += [repr(time.time()), str(repeats)]
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=limit, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        return None
    for line in done.stdout.splitlines():
        if line.startswith("FIGURES "):
            figures: dict[str, Any] = json.loads(line.removeprefix("FIGURES "))
            return figures
    raise SystemExit(f"{side} failed with status {done.returncode}:\n{done.stderr[-3000:]}")


def show(figures: dict[str, Any] | None, what: str) -> str:
    if figures is None:
        return "past the limit"
    value = figures.get(what)
    return "–" if value is None else f"{value:,.{0 if what == 'peak_mb' else 1}f}"


def print_tables(results: dict[str, dict[str, Any]]) -> None:
    """Print ours, the peer's and their ratio for each quantity; then how the values differ."""
    quantities = {"fresh": "fresh s", "cpu": "CPU s", "warm": "warm s", "peak_mb": "peak MB"}
    print(
        "\n| n × d | " + " | ".join(f"{q}: ours | peer | ratio" for q in quantities.values()),
        end="",
    )
    print(" | again s: ours |\n|---|" + "---|" * (3 * len(quantities) + 1))
    for size, sides in results.items():
        ours, peer = sides["ours"], sides["peer"]
        cells = [size]
        for what in quantities:
            known = peer is not None and ours.get(what) and peer.get(what)
            ratio = f"{peer[what] / ours[what]:.1f}×" if known else "–"
            cells += [show(ours, what), show(peer, what), ratio]
        print("| " + " | ".join([*cells, show(ours, "again")]) + " |")
    compared = {size: sides for size, sides in results.items() if sides["peer"] is not None}
    if not compared:
        return
    print("\n| metric: ours, difference to peer | " + " | ".join(compared) + " |")
    print("|---|" + "---|" * len(compared))
    for metric in next(iter(compared.values()))["ours"]["values"]:
        row = []
        for sides in compared.values():
            ours, peer = sides["ours"]["values"][metric], sides["peer"]["values"].get(metric)
            if ours is None or peer is None:
                row.append("–")
            else:
                row.append(f"{ours:.5f}, {ours - peer:+.1e}")
        print(f"| {metric} | " + " | ".join(row) + " |")


def run_million(folder: Path, n: int) -> dict[str, Any]:
    path = folder / "million.npz"
    np.savez(path, **make_arrays(n, 50))
    figures = measure("ours", path, "all", limit=None, repeats=0)
    assert figures is not None
    print(f"\n{n:,} × 50, every metric: {figures['fresh']:.0f} s, {figures['peak_mb']:.0f} MB\n")
    print("| metric | value |\n|---|---|")
    for metric, value in figures["values"].items():
        print(f"| {metric} | {'–' if value is None else f'{value:.4f}'} |")
    return figures


def main() -> None:
    if sys.argv[1:2] == ["--work"]:
        side, path, which, started, repeats = sys.argv[2:]
        work(side, path, which, float(started), int(repeats))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs="+", default=[5_000, 20_000])
    parser.add_argument("--dims", type=int, nargs="+", default=[50, 512])
    parser.add_argument("--leiden", action="store_true", help="also the scan of ten resolutions")
    parser.add_argument("--skip-peer", action="store_true", help="measure ours alone")
    parser.add_argument("--peer-limit", type=float, help="seconds the peer may take per size")
    parser.add_argument("--peer-json", type=Path, help="keep the peer's figures here, reuse them")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--million", action="store_true", help="1M x 50, every metric, ours alone")
    parser.add_argument("--million-cells", type=int, default=1_000_000)
    args = parser.parse_args()

    which = "leiden" if args.leiden else "default"
    kept: dict[str, Any] = {}
    if args.peer_json is not None and args.peer_json.exists():
        kept = json.loads(args.peer_json.read_text())
    try:
        peer_version = version("scib-metrics")
    except PackageNotFoundError:
        peer_version = "not installed"
        args.skip_peer = True
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}, scib-metrics {peer_version}")

    results: dict[str, dict[str, Any]] = {}
    output: dict[str, Any] = {"cores": os.cpu_count(), "scib_metrics": peer_version}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.million:
            output["million"] = run_million(folder, args.million_cells)
            args.sizes = []
        for n in args.sizes:
            for d in args.dims:
                size = f"{n} × {d}"
                path = folder / "arrays.npz"
                np.savez(path, **make_arrays(n, d))
                key = f"{size} {which}"
                if key not in kept and not args.skip_peer:
                    kept[key] = measure("peer", path, which, args.peer_limit)
                    if args.peer_json is not None:
                        args.peer_json.write_text(json.dumps(kept, indent=1))
                with tempfile.TemporaryDirectory() as cache:
                    ours = measure("ours", path, which, None, repeats=3, cache=cache)
                    again = measure("ours", path, which, None, repeats=0, cache=cache)
                if ours is not None and again is not None:
                    ours["again"] = again["fresh"]
                results[size] = {"ours": ours, "peer": kept.get(key)}
                print(f"{size}: done", file=sys.stderr)
    if results:
        print_tables(results)
    output["sizes"] = results
    if args.json is not None:
        args.json.write_text(json.dumps(output, indent=1))


if __name__ == "__main__":
    main()
