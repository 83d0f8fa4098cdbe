"""Maps of embeddings for the eye: UMAP as scanpy users know it, of the same cells for every method.

A map is no evidence, and no number is taken from it. It is drawn from a neighbour graph of the
embedding itself, never of its principal components.
"""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64

from sclitmus.core.record import Absent
from sclitmus.core.rng import rng_for
from sclitmus.errors import NotApplicable
from sclitmus.execution.attempt import attempt
from sclitmus.execution.identity import projection_key
from sclitmus.execution.store import Artifact, Store, npy

Word = tuple[str, int, int]  # activity, done, total: see events.JobProgress

MAX_CELLS = 20_000  # more points than a figure can show apart, and minutes of work per method
MIN_CELLS = 5  # fewer have no neighbourhood to speak of
N_NEIGHBOURS = 15  # scanpy.pp.neighbors; it counts the cell itself
MIN_DIST = 0.5  # scanpy.tl.umap
SPREAD = 1.0


@dataclass(frozen=True)
class Drawing:
    """Embeddings of one dataset to draw maps of, by their keys in the store."""

    store: Path
    dataset: str
    methods: tuple[str, ...]
    keys: tuple[str, ...]


def projected_rows(n_cells: int) -> Int64[np.ndarray, "n_shown"]:
    """Which cells a map shows: all, or `MAX_CELLS` drawn once for all methods."""
    if n_cells <= MAX_CELLS:
        return np.arange(n_cells)
    drawn = rng_for(0, "projection", n_cells).choice(n_cells, size=MAX_CELLS, replace=False)
    return np.sort(drawn).astype(np.int64)


def umap(z: Float32[np.ndarray, "n_cells d"]) -> Float32[np.ndarray, "n_cells 2"]:
    """Lay cells out in the plane (McInnes et al. 2018, doi:10.21105/joss.00861).

    15 neighbours, euclidean, min_dist 0.5, spectral start: what ``scanpy.pp.neighbors`` and
    ``scanpy.tl.umap`` do by default, given the embedding. The seed is 0.

    Raises
    ------
    NotApplicable
        With fewer than `MIN_CELLS` cells.
    """
    if len(z) < MIN_CELLS:
        raise NotApplicable(f"a map needs {MIN_CELLS} cells; there are {len(z)}")
    from umap.umap_ import find_ab_params, simplicial_set_embedding

    from sclitmus.metrics.neighbours import connectivities, nearest_neighbours

    graph = connectivities(nearest_neighbours(z, min(N_NEIGHBOURS, len(z)), seed=0))
    a, b = find_ab_params(SPREAD, MIN_DIST)
    xy, _ = simplicial_set_embedding(
        data=z,
        graph=graph.tocoo(),
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=None,  # 500 up to 10,000 cells, else 200
        init="spectral",
        random_state=np.random.RandomState(0),
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    return np.ascontiguousarray(xy, dtype=np.float32)


def draw(drawing: Drawing, say: Callable[[Word], object]) -> tuple[str, ...]:
    """Draw the maps that are not in the store; return, for each method, why there is none or "".

    Methods share the process because umap-learn takes seconds to import and compile.
    """
    store = Store(drawing.store)
    notes = []
    for i, key in enumerate(drawing.keys):
        say(("projecting", i, len(drawing.keys)))
        notes.append(_draw(store, key))
    return tuple(notes)


def _draw(store: Store, embedding_key: str) -> str:
    embedding = store.find("embedding", embedding_key)
    if not isinstance(embedding, Artifact):
        return f"the embedding is gone: {embedding.reason}"
    key = projection_key(embedding.sha256)
    with store.lock(key):
        if isinstance(store.find("projection", key), Artifact):
            return ""
        z = np.load(embedding.path, mmap_mode="r", allow_pickle=False)
        xy = attempt(lambda: umap(np.ascontiguousarray(z[projected_rows(len(z))])))
        if isinstance(xy, Absent):
            return xy.note
        store.put("projection", key, npy(xy))
    return ""


def read_projections(
    store: Store, embedding_keys: Sequence[str]
) -> list[Float32[np.ndarray, "n_shown 2"] | None]:
    """Read the maps of these embeddings; None where there is none."""
    maps: list[np.ndarray | None] = []
    for embedding_key in embedding_keys:
        embedding = store.find("embedding", embedding_key)
        found = (
            store.find("projection", projection_key(embedding.sha256))
            if isinstance(embedding, Artifact)
            else embedding
        )
        maps.append(
            np.load(io.BytesIO(found.path.read_bytes()), allow_pickle=False)
            if isinstance(found, Artifact)
            else None
        )
    return maps
