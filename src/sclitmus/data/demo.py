"""Real cells that are on every machine: they come inside the scanpy wheel."""

from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path

from sclitmus.core.dataset import Categories, Dataset
from sclitmus.data.cards import card
from sclitmus.data.read import read
from sclitmus.errors import DataError

FILE = "scanpy/datasets/10x_pbmc68k_reduced.h5ad"


def pbmc68k_reduced() -> Dataset:
    """Return 700 blood cells x 765 genes with 10 types; the eight 10x channels are the batches.

    The file holds log-normalised values rounded to three decimals and each cell's total, from
    which the counts are had back exactly. Its own PCA and UMAP come along as ready-made
    embeddings, so that a demonstration has something to judge.

    Raises
    ------
    DataError
        If the installed scanpy no longer brings the file along.
    """
    # Not importlib.resources: that imports scanpy, which takes seconds.
    path = Path(str(distribution("scanpy").locate_file(FILE)))
    if not path.is_file():
        raise DataError(
            f"the installed scanpy has no {FILE}",
            "scanpy 1.10 or 1.11 from PyPI",
            "pip install 'scanpy>=1.10,<1.12', or give a file of your own to `sclitmus run`",
        )
    dataset = read(
        path,
        label="bulk_labels",
        invert_lognorm=True,
        organism="human",
        embeddings={"scanpy_pca": "obsm:X_pca", "scanpy_umap": "obsm:X_umap"},
        id="pbmc68k_reduced",
    )
    channel = Categories.of([f"lane{cell.rpartition('-')[2]}" for cell in dataset.cells])
    return replace(
        dataset,
        roles={**dataset.roles, "batch": channel},
        columns={**dataset.columns, "batch": "suffix of the barcode"},
        card=card("pbmc68k_reduced"),
    )
