"""Every real dataset at hand is read, with the sizes and labels that its table states."""

import csv
from importlib.metadata import distribution

import anndata
import numpy as np
import pytest

from sclitmus.data.demo import FILE, pbmc68k_reduced
from sclitmus.data.read import read


@pytest.mark.data
def test_every_shared_file(shared_data):
    rows = {
        row["name"]: row for row in csv.DictReader((shared_data / "qc.tsv").open(), delimiter="\t")
    }
    paths = sorted(shared_data.glob("*.h5ad"))
    assert len(paths) >= 20
    for path in paths:
        measured = rows[path.stem]
        dataset = read(path, label=measured["label"], batch="batch")
        assert dataset.n_cells == int(measured["cells"]), path.stem
        assert dataset.n_genes == int(measured["genes"]), path.stem
        assert len(dataset.roles["label"].names) == int(measured["n_labels"]), path.stem
        assert len(dataset.roles["batch"].names) == int(measured["n_batches"]), path.stem
        assert dataset.genes.organism == measured["organism"], path.stem
        assert dataset.counts.data.max() == float(measured["max_count"]), path.stem
        per_cell = np.asarray(dataset.counts.sum(axis=1)).ravel()
        assert np.median(per_cell) == pytest.approx(float(measured["median_counts"]), abs=0.51)
        names = anndata.read_h5ad(path, backed="r").obs[measured["label"]].value_counts()
        found = dict(zip(dataset.roles["label"].names, dataset.roles["label"].counts, strict=True))
        assert found == {str(name): n for name, n in names.items() if n}, path.stem


@pytest.mark.data
def test_the_bundled_cells_have_the_counts_of_the_checked_file(shared_data):
    ours = pbmc68k_reduced()
    checked = anndata.read_h5ad(shared_data / "pbmc68k_reduced.h5ad")
    assert (ours.counts != checked.X).nnz == 0
    assert ours.cells == tuple(checked.obs_names)
    for role, column in (("label", "cell_type"), ("batch", "batch")):
        names = [ours.roles[role].names[code] for code in ours.roles[role].codes]
        assert names == list(checked.obs[column].astype(str))


def test_the_bundled_cells():
    dataset = pbmc68k_reduced()
    assert (dataset.n_cells, dataset.n_genes) == (700, 765)
    assert dataset.id == "pbmc68k_reduced"
    assert len(dataset.roles["label"].names) == 10
    assert dataset.roles["batch"].names == tuple(f"lane{i}" for i in range(1, 9))
    assert dataset.counts.data.max() == 259
    assert [note.kind for note in dataset.notes] == ["inverted"]
    assert {name: z.shape[0] for name, z in dataset.embeddings.items()} == {
        "scanpy_pca": 700,
        "scanpy_umap": 700,
    }
    assert dataset.card.licence.startswith("BSD-3-Clause")
    assert dataset.card.doi == "10.1038/ncomms14049"
    assert dataset.content_hash == pbmc68k_reduced().content_hash


@pytest.mark.filterwarnings("ignore")  # anndata, on the age of the file
def test_the_bundled_cells_invert_without_their_totals():
    adata = anndata.read_h5ad(distribution("scanpy").locate_file(FILE))
    del adata.obs["n_counts"]
    dataset = read(adata, invert_lognorm=True)
    assert (dataset.counts != pbmc68k_reduced().counts).nnz == 0
