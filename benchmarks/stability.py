"""What each model's embedding depends on besides the cell: docs/models/stability.md.

    python benchmarks/stability.py                       # every model, on 700 real blood cells
    python benchmarks/stability.py --models scgpt uce_4l --weights ~/weights

With --weights the published weights are measured, without them the same networks with random
weights; the sizes are those published except where a table's heading says otherwise. Each figure is
the mean distance that 32 cells move, as a share of the median distance between two of them.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from sclitmus import catalog
from sclitmus.core.dataset import Dataset
from sclitmus.core.rng import rng_for
from sclitmus.data.read import read
from sclitmus.errors import NotApplicable
from sclitmus.execution.stability import Effect, stability

# A model that takes minutes per cell on a CPU is measured with fewer layers: setting -> value.
SMALLER: dict[str, dict[str, Any]] = {
    "scfoundation": {"encoder": {"depth": 2}},
    "uce_4l": {"nlayers": 1},
    "transcriptformer_sapiens": {"model_config": {"num_layers": 1}},
    "state_se_600m": {"model": {"nlayers": 1}},
}


def measure(id: str, behaviour: str, cells: Dataset, weights: str | None) -> tuple[Effect, ...]:
    if weights:
        model = catalog.load_method(f"{id}@{behaviour}", weights=weights)
    else:
        config = SMALLER.get(id, {})
        model = catalog.load_method(f"{id}@random_init@{behaviour}", config=config)
    rng = rng_for(0, "stability")
    return stability(model.fit(cells, rng), cells)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", default=list(catalog.MODELS))
    parser.add_argument("--data", default="pbmc68k_reduced")
    parser.add_argument("--weights")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    bundled = args.data in catalog.datasets()
    cells = catalog.load_dataset(args.data) if bundled else read(args.data)
    found: dict[str, Any] = {}
    for id in args.models:
        columns: dict[str, tuple[Effect, ...]] = {}
        for behaviour in ("official", "fixed"):
            try:
                columns[behaviour] = measure(id, behaviour, cells, args.weights)
            except NotApplicable as absence:
                print(f"\n## {id}\n\nNot applicable: {absence.reason}", flush=True)
                break
        if len(columns) < 2:
            continue
        smaller = ", ".join(f"{k} = {v}" for k, v in SMALLER.get(id, {}).items())
        print(f"\n## {id}" + (f" (with {smaller})" if smaller and not args.weights else ""))
        print("\n| changed | official | largest | fixed | largest |\n|---|---|---|---|---|")
        for a, b in zip(columns["official"], columns["fixed"], strict=True):
            print(f"| {a.change} | {_figures(a)} | {_figures(b)} |", flush=True)
        found[id] = {name: [vars(effect) for effect in e] for name, e in columns.items()}
        if args.json is not None:
            args.json.write_text(json.dumps(found, indent=1))


def _figures(effect: Effect) -> str:
    if effect.mean is None or effect.largest is None:
        return f"– ({effect.note}) | –"
    return f"{_short(effect.mean)} | {_short(effect.largest)}"


def _short(value: float) -> str:
    return "0" if value == 0 else f"{value:.0e}" if value < 5e-4 else f"{np.round(value, 3):g}"


if __name__ == "__main__":
    main()
