"""Frozen scVI beside what scvi-tools 1.4.2 gives for the same saved models.

Three models of 40 genes that scvi-tools trained for a few epochs and saved: `plain` (its defaults,
gene symbols), `arches` (encoder reads the batch, layer norm, taken to a query with two more batches
and trained there; Ensembl ids), `scanvi` (encoder reads the batch in its first layer, batch norm).
"""

import os
import shutil
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core.dataset import Categories, Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.scvi_frozen import Config, FrozenScVI, Network

FIXTURE = Path(__file__).parent / "fixtures" / "scvi_frozen"
SYMBOLS = tuple(f"GENE{i}" for i in range(40))
IDS = tuple(f"ENSG{i:011d}" for i in range(1, 41))
NONE = ("",) * 40
MODELS = ("plain", "arches", "scanvi")


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


def dataset(counts: np.ndarray, genes: Genes, batch: Any = None) -> Dataset:
    roles = {} if batch is None else {"batch": Categories.of([str(name) for name in batch])}
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    cells = tuple(f"c{i}" for i in range(len(counts)))
    return Dataset("small", matrix, genes, cells, roles=roles)


def cells_of(name: str, official: dict[str, np.ndarray]) -> Dataset:
    symbol, ensembl = (SYMBOLS, NONE) if name == "plain" else (NONE, IDS)
    genes = Genes(symbol, ensembl, "human")
    return dataset(official[f"{name}_counts"], genes, official[f"{name}_batch"])


def folder_of(name: str, tmp_path: Path) -> Path:
    shutil.copy(FIXTURE / f"{name}.pt", tmp_path / "model.pt")
    return tmp_path


def fitted(
    folder: Path | None, cells: Dataset, behaviour: Any = "fixed", **more: Any
) -> FrozenModel:
    port = "sclitmus.models.scvi_frozen:FrozenScVI"
    model = FrozenModel("scvi_frozen", port, folder, behaviour, **more)
    return model.fit(cells, np.random.default_rng(0))


def changed(name: str, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A folder with the model after `change`; our own file, so it may be opened in full."""
    state = torch.load(FIXTURE / f"{name}.pt", weights_only=False)
    change(state)
    torch.save(state, tmp_path / "model.pt")
    return tmp_path


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
@pytest.mark.parametrize("name", MODELS)
def test_embeddings_are_those_of_scvi_tools(
    name: str, behaviour: str, official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of(name, official)
    z = fitted(folder_of(name, tmp_path), cells, behaviour).embed(cells)
    assert np.abs(z - official[f"{name}_z"]).max() <= 1e-5
    assert z.std(axis=0).min() > 1e-3  # not all alike


def test_missing_genes_are_zero_and_unknown_ones_ignored_as_scvi_tools_prepares_a_query(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    kept = official["plain_columns"]  # 30 of 40 genes, in another order
    counts = np.hstack([official["plain_counts"][:, kept], official["plain_extra"]])
    names = (*(SYMBOLS[i] for i in kept), "U1", "U2", "U3")
    cells = dataset(counts, Genes(names, ("",) * 33, "human"), official["plain_batch"])
    z = fitted(folder_of("plain", tmp_path), cells, "official").embed(cells)
    assert np.abs(z - official["plain_missing_z"]).max() <= 1e-5
    assert np.abs(z - official["plain_z"]).max() > 1e-2


def test_a_reference_cell_stays_where_it_was_when_the_model_is_extended(
    official: dict[str, np.ndarray],
) -> None:
    # What scArches promises; with it, the columns of old and new batches are told apart.
    assert np.abs(official["arches_ref_z"] - official["arches_z"][:20]).max() <= 1e-5
    assert {"r1", "r2", "r3", "q1", "q2"} == set(official["arches_batch"])


def test_runs_without_scvi_tools(
    official: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in [name for name in sys.modules if name.split(".")[0] in ("scvi", "anndata")]:
        monkeypatch.delitem(sys.modules, package)
    for package in ("scvi", "anndata"):
        monkeypatch.setitem(sys.modules, package, None)  # importing it now fails
    cells = cells_of("scanvi", official)
    assert np.isfinite(fitted(folder_of("scanvi", tmp_path), cells).embed(cells)).all()


@pytest.mark.parametrize("name", MODELS)
def test_fixed_depends_on_the_cell_alone(
    name: str, official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of(name, official)
    model = fitted(folder_of(name, tmp_path), cells)
    z = model.embed(cells)
    order = np.random.default_rng(0).permutation(cells.n_cells)
    assert np.abs(model.embed(cells.take(order)) - z[order]).max() < 2e-6
    for i in range(3):
        assert np.abs(model.embed(cells.take(np.array([i])))[0] - z[i]).max() < 2e-6
    columns = np.random.default_rng(1).permutation(40)
    names = [tuple(np.array(n)[columns]) for n in (cells.genes.symbol, cells.genes.ensembl)]
    turned = replace(
        cells, store=cells.counts[:, columns], genes=Genes(names[0], names[1], "human")
    )
    assert np.abs(fitted(model.weights, turned).embed(turned) - z).max() < 2e-6  # type: ignore[arg-type]


def test_an_unknown_batch_is_the_mean_of_the_known_ones(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of("scanvi", official)
    key = "z_encoder.encoder.fc_layers.Layer 0.0.weight"

    def same_columns(state: dict[str, Any]) -> None:
        weight = state["model_state_dict"][key]
        weight[:, 40:] = weight[:, 40:].mean(dim=1, keepdim=True)

    elsewhere = replace(cells, roles={"batch": Categories.of(["new"] * cells.n_cells)})
    z = fitted(folder_of("scanvi", tmp_path), cells).embed(elsewhere)
    (tmp_path / "mean").mkdir()
    mean = fitted(changed("scanvi", tmp_path / "mean", same_columns), cells)
    assert np.abs(mean.embed(elsewhere) - z).max() < 2e-6
    assert np.abs(mean.embed(cells) - z).max() < 2e-6  # a column of the mean is the mean
    assert np.abs(mean.embed(cells.without("batch")) - z).max() < 2e-6  # nor is none known
    assert np.abs(z - official["scanvi_z"]).max() > 1e-3


def test_official_with_an_unknown_batch_is_not_applicable(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of("arches", official)
    model = fitted(folder_of("arches", tmp_path), cells, "official")
    names = np.where(np.arange(cells.n_cells) == 3, "lab 7", official["arches_batch"])
    with pytest.raises(NotApplicable, match=r"lab 7.*scArches"):
        model.embed(replace(cells, roles={"batch": Categories.of(list(names))}))
    with pytest.raises(NotApplicable, match="some cells"):
        model.embed(cells.without("batch"))
    # An encoder that does not read the batch needs none.
    (tmp_path / "plain").mkdir()
    plain = cells_of("plain", official).without("batch")
    z = fitted(folder_of("plain", tmp_path / "plain"), plain, "official").embed(plain)
    assert np.abs(z - official["plain_z"]).max() <= 1e-5


def test_kind_of_names_is_told_by_their_look(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of("arches", official)
    assert fitted(folder_of("arches", tmp_path), cells).loaded.space.kind == "ensembl"  # type: ignore[union-attr]

    def rename(state: dict[str, Any]) -> None:
        versioned = [f"{name}.{i}" for i, name in enumerate(IDS)]
        state["var_names"] = np.array([*versioned[:-2], "FOO", "BAR"], dtype=object)

    (tmp_path / "mixed").mkdir()
    named = (("",) * 38 + ("FOO", "BAR"), (*IDS[:38], "", ""))
    mixed = replace(cells, genes=Genes(*named, "human"))
    model = fitted(changed("arches", tmp_path / "mixed", rename), mixed)
    assert model.match(mixed.genes).n_matched == 40
    assert np.abs(model.embed(mixed) - official["arches_z"]).max() <= 1e-5


def test_columns_of_one_gene_are_added(official: dict[str, np.ndarray], tmp_path: Path) -> None:
    counts = official["plain_counts"]
    halves = np.hstack([counts // 2, counts - counts // 2])
    cells = dataset(halves, Genes(SYMBOLS + SYMBOLS, NONE + NONE, "human"))
    z = fitted(folder_of("plain", tmp_path), cells).embed(cells)
    assert np.abs(z - official["plain_z"]).max() <= 1e-5


def test_poor_cells(official: dict[str, np.ndarray], tmp_path: Path) -> None:
    counts = np.zeros((3, 41))
    counts[0, 5] = 1  # one gene
    counts[1, 40] = 9  # none that the model knows
    counts[2] = 60000
    cells = dataset(counts, Genes((*SYMBOLS, "U"), ("",) * 41, "human"))
    z = fitted(folder_of("plain", tmp_path), cells).embed(cells)
    assert np.isfinite(z).all()
    assert np.abs(z[0] - z[1]).max() > 1e-4


def test_has_no_gene_vectors(official: dict[str, np.ndarray], tmp_path: Path) -> None:
    cells = cells_of("plain", official)
    model = fitted(folder_of("plain", tmp_path), cells)
    for given in (None, cells):
        with pytest.raises(NotApplicable, match="gene"):
            model.gene_vectors(given)


def drop(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["model_state_dict"].pop(key)


def put(key: str, *shape: int) -> Callable[[dict[str, Any]], None]:
    return lambda state: state["model_state_dict"].update({key: torch.zeros(shape)})


def setting(where: str, name: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(state: dict[str, Any]) -> None:
        arguments = state["attr_dict"]["init_params_"]
        nested = next(iter(arguments["kwargs"].values()))
        (arguments["non_kwargs"] if where == "non_kwargs" else nested)[name] = value

    return change


def covariate(state: dict[str, Any]) -> None:
    fields = state["attr_dict"]["registry_"]["field_registries"]
    fields["extra_categorical_covs"] = {"state_registry": {"field_keys": ["chemistry"]}}


MEAN = "z_encoder.mean_encoder.weight"
FAULTS: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "missing": (drop(MEAN), f"missing: {MEAN}"),
    "unexpected": (put("z_encoder.more", 2), "unexpected: z_encoder.more"),
    "shape": (put(MEAN, 5, 7), rf"{MEAN} is \(5, 7\), needed \(5, 16\)"),
    "genes": (lambda s: s.update(var_names=s["var_names"][:39]), r"needed \(16, 41\)"),
    "kind": (
        lambda s: s["attr_dict"]["registry_"].update(model_name="TOTALVI"),
        "class TOTALVI",
    ),
    "no names": (lambda s: s.pop("var_names"), "lacks.*var_names"),
    "covariates": (covariate, "reads chemistry"),
    "latent": (setting("non_kwargs", "latent_distribution", "ln"), "is sampled"),
    "vectors": (setting("kwargs", "batch_representation", "embedding"), "batch vectors"),
    "encoder": (setting("kwargs", "extra_encoder_kwargs", {"bias": False}), "extra_encoder_kwargs"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_does_not_fit_is_refused_by_name(
    fault: str, official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    change, said = FAULTS[fault]
    name = "plain" if fault in ("missing", "unexpected", "shape", "kind") else "scanvi"
    folder = changed(name, tmp_path, change)
    with pytest.raises(WeightsError, match=said):
        fitted(folder, cells_of(name, official))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>sign in</html>", "web page"),
        (b"", "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "LFS"),
        ((FIXTURE / "plain.pt").read_bytes()[:20_000], "cut short"),
        (b"PK nonsense", "cannot be read"),
    ],
)
def test_another_file_is_refused(
    content: bytes, said: str, official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        fitted(tmp_path, cells_of("plain", official))


def test_nothing_in_a_model_file_is_run(official: dict[str, np.ndarray], tmp_path: Path) -> None:
    mark = tmp_path / "was run"
    cells = cells_of("plain", official)

    def trapped(call: Any, *arguments: str) -> Path:
        class Trap:
            def __reduce__(self) -> tuple[Any, ...]:
                return call, arguments

        return changed("plain", tmp_path, lambda state: state["attr_dict"].update(trap=Trap()))

    # Unknown types do nothing; some modules are refused outright.
    z = fitted(trapped(zipfile.ZipFile, str(mark), "w"), cells).embed(cells)
    assert np.abs(z - official["plain_z"]).max() <= 1e-5
    (tmp_path / "checksums.json").unlink()  # the file changes
    with pytest.raises(WeightsError, match=r"posix\.mkdir"):
        fitted(trapped(os.mkdir, str(mark)), cells)
    assert not mark.exists()


def test_without_a_file_it_is_not_applicable_and_says_how(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    with pytest.raises(NotApplicable, match=r"model\.pt.*model\.save"):
        fitted(tmp_path, cells_of("plain", official))


def test_random_weights_need_no_file_and_follow_the_seed(tmp_path: Path) -> None:
    cells = simulate(n_cells=30, n_genes=50)
    z = fitted(tmp_path, cells, random_init=True).embed(cells)
    assert z.shape == (30, 10)  # n_latent of scvi-tools
    assert np.array_equal(fitted(tmp_path, cells, random_init=True).embed(cells), z)
    other = fitted(tmp_path, cells, random_init=True, init_seed=1).embed(cells)
    assert np.abs(other - z).max() > 1e-2


def test_random_weights_take_genes_and_sizes_from_a_file_at_hand(
    official: dict[str, np.ndarray], tmp_path: Path
) -> None:
    cells = cells_of("arches", official)
    port = fitted(folder_of("arches", tmp_path), cells, random_init=True).loaded
    assert isinstance(port, FrozenScVI)
    assert port.space.names == IDS
    assert port.batches == ("r1", "r2", "r3", "q1", "q2")
    assert (port.config.n_hidden, port.config.n_latent, port.config.n_layers) == (16, 5, 2)


def test_size_is_that_of_the_official_class() -> None:
    # scvi.module.VAE(n_input=4000) of scvi-tools 1.4.2, z_encoder without its var_encoder.
    with torch.device("meta"):
        network = Network(Config(n_genes=4000))
    assert sum(p.numel() for p in network.parameters()) == 513_674
