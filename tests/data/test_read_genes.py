"""Gene names are recognised; duplicates are reported and never merged."""

import numpy as np
import pandas as pd
import pytest
from five_cells import COUNTS, IDS, SYMBOLS

from sclitmus.data.genes import expression_columns, recognise
from sclitmus.data.read import read

MOUSE = [f"ENSMUSG000000{i:05d}" for i in range(12)]


def kinds(notes):
    return [note.kind for note in notes]


@pytest.mark.parametrize(
    ("index", "columns"),
    [
        (SYMBOLS, {"ensembl_id": IDS}),
        (SYMBOLS, {"gene_ids": IDS, "feature_types": ["Gene Expression"] * 4}),  # scanpy, 10x
        (IDS, {"gene_symbol": SYMBOLS}),
        (IDS, {"feature_name": SYMBOLS, "feature_biotype": ["gene"] * 4}),  # CELLxGENE
        (["0", "1", "2", "3"], {"Gene_Name": SYMBOLS, "Feature_ID": IDS}),
        (SYMBOLS, {"gene": SYMBOLS, "Accession": [f"{id}.7" for id in IDS]}),
        ([f"{id}.12" for id in IDS], {"gene_short_name": pd.Categorical(SYMBOLS)}),
    ],
)
def test_symbols_and_ids_are_found(index, columns):
    genes, notes = recognise(pd.DataFrame(columns, index=index))
    assert genes.symbol == tuple(SYMBOLS)
    assert genes.ensembl == tuple(IDS)
    assert genes.organism == "human"
    assert notes == ()


def test_names_of_one_kind_leave_the_other_empty():
    assert recognise(pd.DataFrame(index=IDS))[0].symbol == ("",) * 4
    assert recognise(pd.DataFrame(index=SYMBOLS))[0].ensembl == ("",) * 4


def test_a_column_whose_content_is_something_else_is_passed_over():
    var = pd.DataFrame({"gene_id": [5, 6, 7, 8], "gene_name": IDS}, index=SYMBOLS)
    genes, _ = recognise(var)
    assert genes.symbol == tuple(SYMBOLS)
    assert genes.ensembl == ("",) * 4


def test_ids_among_symbols_are_told_apart_one_by_one():
    """Cell Ranger names a gene without symbol by its id."""
    genes, _ = recognise(pd.DataFrame(index=["CD3D", "ENSG00000238009.6"]))
    assert genes.symbol == ("CD3D", "")
    assert genes.ensembl == ("", "ENSG00000238009")


def test_versions_are_stripped_from_ids_only():
    names = ["ENSG00000182378.14", "ENSG00000182378.14_PAR_Y", "RP11-206L10.9", "AC012345.1"]
    genes, notes = recognise(pd.DataFrame(index=names))
    assert genes.ensembl == ("ENSG00000182378", "ENSG00000182378_PAR_Y", "", "")
    assert genes.symbol == ("", "", "RP11-206L10.9", "AC012345.1")
    assert kinds(notes) == []


def test_duplicates_stay_and_are_counted(make_adata):
    var = pd.DataFrame(
        {"ensembl_id": [IDS[0] + ".1", IDS[0] + ".2", IDS[2], ""]},
        index=["CD3D", "MS4A1", "CD3D", "LYZ"],
    )
    with pytest.warns(UserWarning, match="not unique"):
        adata = make_adata(var=var)
    dataset = read(adata)
    assert np.array_equal(dataset.counts.toarray(), COUNTS)
    assert dataset.genes.symbol == ("CD3D", "MS4A1", "CD3D", "LYZ")
    assert dataset.genes.ensembl == (IDS[0], IDS[0], IDS[2], "")
    found = [note for note in dataset.notes if note.kind == "duplicate_genes"]
    assert [note.text.split(";")[0] for note in found] == [
        "1 symbols name more than one column (CD3D)",
        f"1 Ensembl ids name more than one column ({IDS[0]})",
    ]


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        (IDS, "human"),
        (MOUSE, "mouse"),
        ([id.replace("ENSMUSG", "ENSDARG") for id in MOUSE], "zebrafish"),
        ([id.replace("ENSMUSG", "ENSABCG") for id in MOUSE], "unknown"),
        (["0", "1"], "unknown"),
    ],
)
def test_organism_by_prefix(names, organism):
    assert recognise(pd.DataFrame(index=names))[0].organism == organism


@pytest.mark.parametrize(
    ("names", "organism"),
    [
        ("CD3D CD3E C1orf43 RP11-206L10.9 LYZ NKG7 MS4A1 GNLY CD8A CD8B CD4 FCER1A", "human"),
        ("Cd3d Cd3e Lyz2 Nkg7 Ms4a1 Gnly Cd8a Cd8b1 Cd4 Fcer1a Sox17 Actb", "mouse"),
        ("Cd3d CD3E", "unknown"),
    ],
)
def test_organism_by_case_is_a_guess_and_says_so(names, organism):
    genes, notes = recognise(pd.DataFrame(index=names.split()))
    assert genes.organism == organism
    assert kinds(notes) == ([] if organism == "unknown" else ["organism"])


def test_the_organism_given_wins_and_a_conflict_is_noted():
    genes, notes = recognise(pd.DataFrame(index=MOUSE), "Homo sapiens")
    assert genes.organism == "human"
    assert notes[0].text == "the organism was given as human, the Ensembl ids are of mouse"
    assert recognise(pd.DataFrame(index=MOUSE), "Mus musculus")[1] == ()


def test_two_organisms_are_noted():
    genes, notes = recognise(pd.DataFrame(index=IDS + MOUSE))
    assert genes.organism == "mouse"
    assert notes[0].text == "Ensembl ids of several organisms: 12 mouse, 4 human"


def test_numbers_for_names_are_noted():
    _, notes = recognise(pd.DataFrame(index=[str(i) for i in range(30)]))
    assert kinds(notes) == ["gene_names"]


def test_missing_names_are_empty():
    var = pd.DataFrame({"gene_symbol": ["CD3D", None, np.nan, "LYZ"]}, index=IDS)
    assert recognise(var)[0].symbol == ("CD3D", "", "", "LYZ")


def test_features_that_are_no_genes_are_left_out(make_adata):
    kinds = ["Gene Expression", "Antibody Capture", "Gene Expression", "CRISPR Guide Capture"]
    var = pd.DataFrame({"feature_types": kinds}, index=SYMBOLS)
    dataset = read(make_adata(var=var))
    assert dataset.genes.symbol == ("CD3D", "NKG7")
    assert dataset.cells == ("AAAC-0", "AAAC-2", "AAAC-3", "AAAC-4")  # AAAC-1 has none of these
    note = next(note for note in dataset.notes if note.kind == "features")
    assert note.count == 2
    assert "1 Antibody Capture, 1 CRISPR Guide Capture" in note.text


def test_a_table_of_peaks_only_is_left_alone():
    assert expression_columns(pd.DataFrame({"feature_types": ["Peaks"] * 3})) == (None, None)
