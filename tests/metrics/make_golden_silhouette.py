"""Write golden/silhouette.npz: inputs, and what scib-metrics 0.5.10 makes of them in float64.

Run by hand, never by the tests: ``pip install scib-metrics==0.5.10``, then
``python tests/metrics/make_golden_silhouette.py``. Inputs are stored with the values, so that the
tests do not hang on a random stream.
"""

import warnings
from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import scib_metrics  # noqa: E402 - reads jax's precision when imported
from scib_metrics.utils import principal_component_regression, silhouette_samples  # noqa: E402

GOLDEN = Path(__file__).parent / "golden" / "silhouette.npz"


def cases() -> dict[str, tuple[np.ndarray, ...]]:
    """Return (z, label, batch, before) by name; each adds one oddity to the same cells."""
    rng = np.random.default_rng(20250101)
    size = (60, 35, 20, 12)  # unequal labels
    label = np.repeat(np.arange(len(size)), size).astype(np.int32)
    n = len(label)
    batch = rng.integers(0, 3, n).astype(np.int32)
    centre, shift = rng.normal(size=(9, 6)), rng.normal(size=(140, 6))
    z = 1.5 * centre[label] + 0.4 * shift[batch] + rng.normal(size=(n, 6))
    before = z @ rng.normal(size=(6, 9)) + 1.5 * rng.normal(size=(140, 9))[batch]
    plain = (z, label, batch, before)

    def relabelled(rows: slice, new_label: int | None, new_batch: object) -> tuple[np.ndarray, ...]:
        other_label, other_batch = label.copy(), batch.copy()
        if new_label is not None:
            other_label[rows] = new_label
        if new_batch is not None:
            other_batch[rows] = new_batch
        return z, other_label, other_batch, before

    copies = np.r_[np.arange(n), np.arange(0, n, 3), np.arange(0, n, 9)]
    duplicates = tuple(part[copies] for part in plain)
    other_batch = np.r_[batch, rng.integers(0, 3, len(copies) - n)].astype(np.int32)
    return {
        "plain": plain,
        "label_in_one_batch": relabelled(slice(115, 127), None, 1),
        "label_of_one_cell": relabelled(slice(0, 1), 4, None),
        "label_of_two_cells_one_batch": relabelled(slice(0, 2), 4, 2),
        "label_of_two_cells_two_batches": relabelled(slice(0, 2), 4, [0, 1]),
        "label_of_one_cell_per_batch": relabelled(slice(115, 127), None, np.arange(12)),
        "duplicate_rows": (duplicates[0], duplicates[1], other_batch, duplicates[3]),
        "more_batch_than_before": (before, label, batch, z),
    }


def main() -> None:
    arrays: dict[str, np.ndarray] = {}
    for name, (z, label, batch, before) in cases().items():
        # The values are those of the float32 inputs the tests read.
        z, before = z.astype(np.float32), before.astype(np.float32)
        wide, wide_before = z.astype(np.float64), before.astype(np.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # says that it clips at 0
            comparison = scib_metrics.pcr_comparison(wide_before, wide, batch, categorical=True)
        values = {
            "widths": silhouette_samples(wide, label),
            "asw": scib_metrics.silhouette_label(wide, label),
            "batch_asw": scib_metrics.silhouette_batch(wide, label, batch),
            "isolated_labels": scib_metrics.isolated_labels(wide, label, batch),
            "bras": scib_metrics.bras(wide, label, batch),
            "pcr": principal_component_regression(wide, batch, categorical=True),
            "pcr_3": principal_component_regression(wide, batch, categorical=True, n_components=3),
            "pcr_comparison": comparison,
        }
        parts = {"z": z, "label": label, "batch": batch, "before": before} | values
        arrays |= {f"{name}/{key}": np.asarray(value) for key, value in parts.items()}
    np.savez_compressed(GOLDEN, **arrays)


if __name__ == "__main__":
    main()
