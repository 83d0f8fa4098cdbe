"""Is it an embedding of these cells, in this order, made from what a method may see?"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from sclitmus.core.dataset import Categories
from sclitmus.errors import NotApplicable
from sclitmus.testing.report import ContractError, Finding
from sclitmus.testing.trial import TOLERANCE, Trial


def embed(trial: Trial) -> Finding:
    raw = trial.fitted.embed(trial.visible)
    if not isinstance(raw, np.ndarray) or raw.dtype != np.float32:
        raise ContractError(
            f"embed returned {getattr(raw, 'dtype', type(raw).__name__)}",
            "a NumPy array of float32",
            "return np.asarray(z, dtype=np.float32)",
        )
    n = trial.dataset.n_cells
    if raw.ndim != 2 or raw.shape[0] != n or raw.shape[1] < 1:
        raise ContractError(
            f"embed returned shape {raw.shape} for {n} cells",
            f"({n}, d)",
            "return one row per cell; drop none, add none",
        )
    bad = int((~np.isfinite(raw)).any(axis=1).sum())
    if bad:
        raise ContractError(
            f"{bad} of {n} rows hold NaN or infinity", "finite numbers", "find out why for them"
        )
    return f"{raw.shape[0]} cells in {raw.shape[1]} dimensions"


def _row_order(trial: Trial) -> Finding:
    order = np.random.default_rng(0).permutation(trial.dataset.n_cells)
    z = trial.fitted.embed(trial.visible.take(order))
    right = trial.difference(z, trial.z[order])
    if right <= TOLERANCE:
        return ""
    # A method may depend on a cell's neighbours in the matrix (`batch_mates` measures it) and
    # still keep the order: then a row is nearer to its own cell than to others.
    own, other = np.linalg.norm(z - trial.z[order], axis=1), np.linalg.norm(z - trial.z, axis=1)
    if own.mean() < 0.5 * other.mean():
        return f"order kept; values differ by up to {right:.2g} standard deviations"
    raise ContractError(
        f"embedding shuffled cells does not shuffle the rows: off by {right:.2g} deviations",
        "row i is cell i, and the same cell gives the same row wherever it stands",
        "do not sort or group cells; draw randomness in fit, or by cell id",
    )


def _dataset_unchanged(trial: Trial) -> Finding:
    cells = trial.visible
    before = replace(cells).content_hash  # a new object: the hash of the old one is remembered
    fitted = trial.fit(cells)
    z = fitted.embed(cells)
    if z.flags.writeable:
        z += 1.0
    if replace(cells).content_hash == before:
        return ""
    raise ContractError(
        "the dataset is not the same after fit and embed",
        "a dataset that is never written into",
        "copy what you change: counts.astype(np.float32, copy=True); return a new array",
    )


def _labels_unseen(trial: Trial) -> Finding:
    if trial.card.sees_labels:
        raise NotApplicable("the card says that it sees the labels")
    label = trial.dataset.role("label")
    other = Categories(np.roll(label.codes, len(label.codes) // 3), label.names)
    relabelled = replace(trial.dataset, roles={**trial.dataset.roles, "label": other})
    off = max(
        trial.difference(trial.fit_embed(cells), trial.z) for cells in (trial.dataset, relabelled)
    )
    if off <= TOLERANCE:
        return ""
    raise ContractError(
        f"with other labels the embedding is another, off by {off:.2g} standard deviations",
        "an embedding that does not depend on the labels it is scored on",
        'do not read cells.role("label")',
    )


def _needs(trial: Trial) -> Finding:
    for role in trial.card.needs:
        try:
            trial.fit_embed(trial.visible.without(role))
        except NotApplicable:
            continue
        raise ContractError(
            f"it runs without {role!r}, which the card says it needs",
            "NotApplicable without a role it needs",
            f"remove {role!r} from the card's needs, or ask for cells.role({role!r})",
        )
    optional = [name for name in trial.visible.roles if name not in trial.card.needs]
    trial.fit_embed(trial.visible.without(*optional))
    return f"without {', '.join(optional) or 'nothing'}: works"


def _no_files(trial: Trial) -> Finding:
    before = set(Path.cwd().iterdir())
    trial.fit_embed(trial.visible)
    new = sorted(path.name for path in set(Path.cwd().iterdir()) - before)
    if new:
        raise ContractError(
            f"files were left in the current directory: {', '.join(new)}",
            "no files outside a temporary directory",
            "write into tempfile.TemporaryDirectory(), or switch the logging off",
        )
    return ""


def _one_cell(trial: Trial) -> Finding:
    z = trial.fitted.embed(trial.visible.take(np.array([3])))
    if z.shape != (1, trial.z.shape[1]) or not np.isfinite(z).all():
        raise ContractError(
            f"embedding one of the cells gave shape {z.shape}, or not finite numbers",
            f"(1, {trial.z.shape[1]}), finite",
            "do not squeeze; do not scale by statistics of the cells at hand",
        )
    return ""


def _tiny(trial: Trial) -> Finding:
    said = []
    for n in (1, 2):
        cells = trial.visible.take(np.arange(n))
        try:
            z = trial.fit_embed(cells)
        except NotApplicable as absence:
            said.append(f"{n}: {absence.reason}")
            continue
        if z.ndim != 2 or len(z) != n or not np.isfinite(z).all():
            raise ContractError(
                f"fitted on {n} cells it gave shape {z.shape}, or not finite numbers",
                f"({n}, d), finite, or NotApplicable",
                'raise NotApplicable("why")',
            )
        said.append(f"{n}: works")
    return "cells " + "; ".join(said)


CHECKS: Mapping[str, Callable[[Trial], Finding]] = {
    "row_order": _row_order,
    "dataset_unchanged": _dataset_unchanged,
    "labels_unseen": _labels_unseen,
    "needs": _needs,
    "no_files": _no_files,
    "one_cell": _one_cell,
    "tiny_data": _tiny,
}
