"""What the zero-shot tasks share: their references, and one scored embedding per split."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.metric import Metric
from sclitmus.core.split import Split
from sclitmus.metrics.suite import METRICS, ScoredEmbedding
from sclitmus.tasks.before import before

REFERENCES = (
    "random_embedding",
    "random_projection",
    "hvg",
    "pca",
    "harmony",
    "scvi",
    "label_oracle",
    "label_canary",
)


def scales(
    ids: Sequence[str], extra: Sequence[Metric], compat: Literal["", "scib"]
) -> Mapping[str, Metric]:
    """Return a task's metrics; scib's definitions are versions of their own."""
    table = {id: METRICS[id] for id in ids} | {metric.id: metric for metric in extra}
    if not compat:
        return table
    return {id: replace(m, version=f"{m.version}+{compat}") for id, m in table.items()}


@dataclass(frozen=True)
class _Shared:
    """The last scored embedding, and the very objects it was made from."""

    embedding: np.ndarray
    dataset: Dataset
    split_key: str
    compat: Literal["", "scib"]
    scored: ScoredEmbedding


_last: _Shared | None = None


def scored_embedding(
    embedding: Float32[np.ndarray, "n_cells d"],
    dataset: Dataset,
    split: Split,
    compat: Literal["", "scib"],
) -> ScoredEmbedding:
    """Return the split's cells of an embedding, ready to be scored.

    Two tasks that score the same cells of the same embedding one after the other get the same
    object, so that its neighbour graph and distances are computed once. Seeds of clusterings come
    from the split, so that every method is clustered alike and a score does not depend on which
    other tasks ran.
    """
    global _last
    last = _last
    if (
        last is not None
        and last.embedding is embedding
        and last.dataset is dataset
        and last.split_key == split.key
        and last.compat == compat
    ):
        return last.scored
    rows = split.test
    label = dataset.role("label").take(rows)
    batch = None
    if "batch" in dataset.roles:
        column = dataset.roles["batch"].take(rows)
        # A cell of unknown batch can be neither mixed nor unmixed.
        batch = None if (column.codes < 0).any() else column.codes
    scored = ScoredEmbedding(
        z=np.ascontiguousarray(embedding[rows]),
        label=label.codes,
        label_names=label.names,
        batch=batch,
        before=before(dataset)[rows],
        seed=int(split.key[:8], 16),
        compat=compat,
    )
    _last = _Shared(embedding, dataset, split.key, compat, scored)
    return scored
