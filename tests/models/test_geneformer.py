"""Geneformer beside the numbers that the official code gave for the same small checkpoints.

The fixtures hold checkpoints of random weights, saved by transformers' BertForMaskedLM (V1: 2
layers and ``pytorch_model.bin``, V2: 3 layers and ``model.safetensors``; 32 dimensions, at most 40
genes), small dictionaries, counts, and what the official tokenizer and EmbExtractor made of them.
"""

import json
import pickle
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse

from sclitmus.core.dataset import Dataset, Genes
from sclitmus.data.simulate import simulate
from sclitmus.errors import NotApplicable, WeightsError
from sclitmus.models.card import ModelCard, model_card
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.geneformer import Config, Geneformer, Network
from sclitmus.models.port import Behaviour
from sclitmus.models.ranking import ranked, summed
from sclitmus.models.weights import Weights

FIXTURE = Path(__file__).parent / "fixtures" / "geneformer"
PORT = "sclitmus.models.geneformer:Geneformer"
IDS = {"v1": "geneformer_v1_40m", "v2": "geneformer_v2_104m"}  # a .bin and a .safetensors file


@pytest.fixture(scope="module")
def official() -> dict[str, np.ndarray]:
    return dict(np.load(FIXTURE / "official.npz"))


@pytest.fixture(autouse=True)
def small_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published cards without the checksums of the published files."""
    monkeypatch.setattr("sclitmus.models.frozen.model_card", small_card)


def small_card(id: str, **config: object) -> ModelCard:
    card = model_card(id)
    files = tuple(replace(file, sha256="", size=0) for file in card.files)
    return replace(card, files=files, config={**card.config, **config})


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Path]:
    for version in IDS:
        shutil.copytree(FIXTURE / version, tmp_path / version)
    return {version: tmp_path / version for version in IDS}


def cells_of(counts: np.ndarray, ensembl: list[str], symbol: list[str] | None = None) -> Dataset:
    genes = Genes(tuple(symbol or [""] * len(ensembl)), tuple(ensembl), "human")
    matrix = sparse.csr_matrix(counts.astype(np.float32))
    return Dataset("small", matrix, genes, tuple(f"c{i}" for i in range(len(counts))))


def cells(official: dict[str, np.ndarray], version: str) -> Dataset:
    return cells_of(official[f"{version}_counts"], official[f"{version}_names"].tolist())


def fitted(folder: Path, cells: Dataset, behaviour: Behaviour = "fixed") -> FrozenModel:
    model = FrozenModel(IDS[folder.name], PORT, folder, behaviour)
    return model.fit(cells, np.random.default_rng(0))


def port_of(folder: Path, behaviour: Behaviour = "fixed", **config: object) -> Geneformer:
    weights = Weights(small_card(IDS[folder.name], **config), folder)
    return Geneformer.load(weights, behaviour)


def tokens_of(port: Geneformer, cells: Dataset) -> list[list[int]]:
    lookup = port.space.match(cells.genes).lookup
    tokens = port.tokenise(cells.counts, lookup, np.random.default_rng(0))
    return [tokens.columns["row"][a:b].tolist() for a, b in pairwise(tokens.offsets)]


def rewrite(path: Path, **changes: torch.Tensor | None) -> None:
    """Change, add or remove (None) tensors of a .safetensors file; "/" stands for "."."""
    state = load_file(path)
    for name, tensor in changes.items():
        state.pop(name.replace("/", "."), None)
        if tensor is not None:
            state[name.replace("/", ".")] = tensor
    save_file(state, path)


def rank_values(port: Geneformer, cells: Dataset, tokens: list[list[int]]) -> list[np.ndarray]:
    """Count over median of every gene in the order of the tokens, by plain sums."""
    lookup = port.space.match(cells.genes).lookup
    values = []
    for row, cell in zip(cells.counts.toarray(), tokens, strict=True):
        sums = np.zeros(len(port.tokens))
        np.add.at(sums, lookup[lookup >= 0], row[lookup >= 0])
        kept = [token for token in cell if not np.isnan(port.medians[token])]
        values.append(sums[kept] / port.medians[kept])
    return values


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_official_tokens_are_those_of_the_official_code(
    folders: dict[str, Path], official: dict[str, np.ndarray], version: str
) -> None:
    port, data = port_of(folders[version], "official"), cells(official, version)
    found, expected = tokens_of(port, data), published_tokens(official, version)
    assert [len(a) for a in found] == [len(a) for a in expected]
    values = rank_values(port, data, found)
    n_certain = 0
    for ours, theirs, value, other in zip(
        found, expected, values, rank_values(port, data, expected), strict=True
    ):
        assert np.allclose(value, other, rtol=1e-12)
        # numpy's order of equal values depends on the processor, and the fixture is of one.
        if len(np.unique(value)) == len(value) and len(value) < port.config.room:
            assert ours == theirs
            n_certain += 1
    assert n_certain >= 10
    assert max(len(a) for a in found) == port.config.max_position_embeddings  # one is cut off


def published_tokens(official: dict[str, np.ndarray], version: str) -> list[list[int]]:
    ends = np.cumsum(official[f"{version}_lengths"])[:-1]
    return [part.tolist() for part in np.split(official[f"{version}_tokens"], ends)]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_official_order_is_that_of_numpy_on_this_machine(
    folders: dict[str, Path], official: dict[str, np.ndarray], version: str
) -> None:
    port, data = port_of(folders[version], "official"), cells(official, version)
    lookup = port.space.match(data.genes).lookup
    # The order in the original: as the columns, genes of several columns behind the others.
    known = lookup[lookup >= 0].tolist()
    order = [row for row in known if known.count(row) == 1]
    order += dict.fromkeys(row for row in known if known.count(row) > 1)
    for row, tokens in zip(data.counts.toarray(), tokens_of(port, data), strict=True):
        sums = np.zeros(len(port.tokens))
        np.add.at(sums, lookup[lookup >= 0], row[lookup >= 0])
        there = np.array([token for token in order if sums[token]])
        value = sums[there] * (1 / row.sum(dtype=float)) * 10_000 * (1 / port.medians[there])
        expected = there[np.argsort(-value)][: port.config.room].tolist()
        assert tokens == ([2, *expected, 3] if version == "v2" else expected)


@pytest.mark.parametrize(
    ("version", "mode", "layer"),
    [
        (v, m, layer)
        for v, m in (("v1", "cell"), ("v2", "cls"), ("v2", "cell"))
        for layer in (-1, 0)
    ],
)
def test_official_embeddings_are_those_of_the_official_code(
    folders: dict[str, Path],
    official: dict[str, np.ndarray],
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    mode: str,
    layer: int,
) -> None:
    monkeypatch.setattr(
        "sclitmus.models.frozen.model_card",
        lambda id: small_card(id, emb_mode=mode, emb_layer=layer),
    )
    data = cells(official, version)
    model = fitted(folders[version], data, "official")
    assert isinstance(model.loaded, Geneformer)
    pairs = zip(tokens_of(model.loaded, data), published_tokens(official, version), strict=True)
    same = [a == b for a, b in pairs]
    assert sum(same) >= 10  # all where the fixture was made, see above
    z = model.embed(data)
    assert np.abs(z - official[f"{version}_{mode}{layer}"])[same].max() <= 1e-5


def test_cards_ask_for_the_settings_of_each_version() -> None:
    """V1: mean over the genes, no special tokens; V2: <cls>; both the second-to-last layer."""
    for id in ("v1_10m", "v1_40m", "v2_38m", "v2_104m", "v2_316m"):
        config = model_card(f"geneformer_{id}").config
        assert config["emb_layer"] == -1
        assert config["emb_mode"] == ("cell" if id[:2] == "v1" else "cls")
        assert config["special_token"] == (id[:2] == "v2")


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_gene_vectors_are_those_of_the_official_code(
    folders: dict[str, Path], official: dict[str, np.ndarray], version: str
) -> None:
    data = cells(official, version)
    model = fitted(folders[version], data, "official")
    assert isinstance(model.loaded, Geneformer)
    static = model.gene_vectors()
    tokens = [model.loaded.tokens[name] for name in static.names]
    assert static.kind == "ensembl"
    assert len(tokens) == (60 if version == "v1" else 50)  # no special tokens
    assert np.array_equal(static.vectors, official[f"{version}_table"][tokens])
    if tokens_of(model.loaded, data) == published_tokens(official, version):
        contextual = model.gene_vectors(data)
        row = {name: i for i, name in enumerate(official[f"{version}_gene_names"].tolist())}
        expected = official[f"{version}_gene_states"][[row[name] for name in contextual.names]]
        assert np.abs(contextual.vectors - expected).max() <= 1e-5


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_fixed_depends_on_the_cell_alone(
    folders: dict[str, Path], official: dict[str, np.ndarray], version: str
) -> None:
    data = cells(official, version)
    model = fitted(folders[version], data)
    z = model.embed(data)
    assert np.array_equal(fitted(folders[version], data).embed(data), z)
    order = np.random.default_rng(0).permutation(data.n_cells)
    assert np.abs(model.embed(data.take(order)) - z[order]).max() < 5e-6
    for i in (0, 1, 5):
        assert np.abs(model.embed(data.take(np.array([i])))[0] - z[i]).max() < 5e-6
    columns = np.random.default_rng(1).permutation(data.n_genes)
    names = [data.genes.ensembl[i] for i in columns]
    turned = cells_of(data.counts.toarray()[:, columns], names)
    assert tokens_of(port_of(folders[version]), turned) == tokens_of(
        port_of(folders[version]), data
    )
    assert np.abs(fitted(folders[version], turned).embed(turned) - z).max() < 5e-6


def test_official_depends_on_the_order_of_columns(
    folders: dict[str, Path], official: dict[str, np.ndarray]
) -> None:
    data = cells(official, "v1")
    names = list(data.genes.ensembl[::-1])
    turned = cells_of(data.counts.toarray()[:, ::-1], names)
    port = port_of(folders["v1"], "official")
    assert tokens_of(port, turned) != tokens_of(port, data)


def test_columns_of_one_gene_are_added_up(folders: dict[str, Path]) -> None:
    port = port_of(folders["v2"])
    ids = [f"ENSG{i:011d}" for i in range(1, 7)]
    old = "ENSG90000000000"  # an old id of the first gene
    split = cells_of(np.array([[2, 0, 5, 1, 4, 0, 3]]), [*ids, old])
    whole = cells_of(np.array([[5, 0, 5, 1, 4, 0]]), ids)
    assert tokens_of(port, split) == tokens_of(port, whole)


def test_symbols_stand_in_only_where_there_is_no_ensembl_id(
    folders: dict[str, Path], official: dict[str, np.ndarray]
) -> None:
    for version in IDS:
        port = port_of(folders[version])
        ids = [f"ENSG{i:011d}" for i in range(1, 41)]
        symbols = [f"Gene{i}" for i in range(40)]
        counts = np.random.default_rng(2).integers(0, 5, (3, 40))
        by_id = tokens_of(port, cells_of(counts, ids))
        assert tokens_of(port, cells_of(counts, [""] * 40, symbols)) == by_id
        mouse = cells_of(counts, [f"ENSMUSG{i:011d}" for i in range(40)], symbols)
        assert port.space.match(mouse.genes).n_matched == 0


def test_the_last_layer_is_not_computed(
    folders: dict[str, Path], official: dict[str, np.ndarray]
) -> None:
    data = cells(official, "v2")
    model = fitted(folders["v2"], data)
    z = model.embed(data)
    assert isinstance(model.loaded, Geneformer)
    for parameter in model.loaded.network.bert.get_submodule("encoder.layer.2").parameters():
        parameter.fill_(torch.nan)
    assert np.array_equal(model.embed(data), z)


def test_a_cell_without_known_genes(
    folders: dict[str, Path], official: dict[str, np.ndarray]
) -> None:
    for version in IDS:
        data = cells(official, version)
        counts = data.counts.toarray()
        counts[2] = 0
        counts[2, [name.startswith("ENSG8") for name in data.genes.ensembl]] = 4
        changed = cells_of(counts, list(data.genes.ensembl))
        model = fitted(folders[version], changed)
        if version == "v1":  # the mean over no genes
            with pytest.raises(NotApplicable, match="1 of 24 cells express none of the genes"):
                model.embed(changed)
        else:
            assert tokens_of(model.loaded, changed)[2] == [2, 3]  # type: ignore[arg-type]
            assert np.isfinite(model.embed(changed)).all()


def test_ranks_are_those_of_a_full_sort() -> None:
    rng = np.random.default_rng(4)
    lengths = [0, 1, 2, 700, 3000]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.concatenate([rng.permutation(70_000)[:n] for n in lengths]).astype(np.int32)
    values = rng.integers(1, 9, len(rows)) / rng.choice([1.0, 1.0 + 1e-15, 3.3], len(rows))
    found = ranked(offsets, rows, values)
    for a, b in pairwise(offsets):
        assert np.array_equal(found[a:b], rows[a:b][np.lexsort((rows[a:b], -values[a:b]))])


def test_shared_rows_are_summed_behind_the_others() -> None:
    lookup = np.array([3, 1, 3, -1, 0, 1], dtype=np.int32)
    entries = (
        np.array([0, 4, 5]),
        np.array([3, 1, 3, 0, 1], dtype=np.int32),
        np.array([1, 2, 4, 8, 16], dtype=np.float32),
    )
    offsets, rows, values = summed(lookup, entries)
    assert offsets.tolist() == [0, 3, 4]
    assert rows.tolist() == [0, 3, 1, 1]
    assert values.tolist() == [8, 5, 2, 16]


def test_missing_weights_are_not_applicable_and_say_how_to_get_them(
    tmp_path: Path, official: dict[str, np.ndarray]
) -> None:
    with pytest.raises(
        NotApplicable, match=r"model\.safetensors.*sclitmus fetch geneformer_v2_104m"
    ):
        fitted(tmp_path / "v2", cells(official, "v2"))


def test_a_key_too_few_too_many_or_of_another_shape_is_named(folders: dict[str, Path]) -> None:
    path = folders["v2"] / "model.safetensors"
    bias = "bert.encoder.layer.2.output.LayerNorm.bias"
    rewrite(path, **{bias.replace(".", "/"): None})
    with pytest.raises(WeightsError, match=f"missing: {bias}"):
        port_of(folders["v2"])
    fresh(folders)
    rewrite(path, **{"bert/pooler/dense/bias": torch.zeros(32)})
    with pytest.raises(WeightsError, match=r"unexpected: bert\.pooler\.dense\.bias"):
        port_of(folders["v2"])
    fresh(folders)
    rewrite(path, **{bias.replace(".", "/"): torch.zeros(31)})
    with pytest.raises(WeightsError, match=r"LayerNorm\.bias is \(31,\), needed \(32,\)"):
        port_of(folders["v2"])


def fresh(folders: dict[str, Path]) -> None:
    for version, folder in folders.items():
        shutil.copytree(FIXTURE / version, folder, dirs_exist_ok=True)
        (folder / "checksums.json").unlink(missing_ok=True)


def test_a_cut_off_or_foreign_file_is_refused(folders: dict[str, Path]) -> None:
    for version, name in (("v1", "pytorch_model.bin"), ("v2", "model.safetensors")):
        path = folders[version] / name
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(WeightsError, match="cannot be read"):
            port_of(folders[version])
        (folders[version] / "checksums.json").unlink()
        path.write_bytes(b"<!DOCTYPE html><html>Sign in</html>")
        with pytest.raises(WeightsError, match="a web page"):
            port_of(folders[version])


def test_a_file_other_than_the_published_one_is_refused(folders: dict[str, Path]) -> None:
    weights = Weights(model_card(IDS["v2"]), folders["v2"])
    with pytest.raises(WeightsError, match=r"config\.json has the checksum .*\n.* as published"):
        Geneformer.load(weights, "fixed")


@pytest.mark.parametrize(("weights", "dictionary"), [("v1", "v2"), ("v2", "v1")])
def test_the_dictionary_of_the_other_version_is_refused(
    folders: dict[str, Path], weights: str, dictionary: str
) -> None:
    names = {v: next(folders[v].glob("token_dictionary*")) for v in IDS}
    shutil.copy(names[dictionary], names[weights])
    n = {"v1": 62, "v2": 54}
    said = rf"has {n[weights]} tokens with .*the token dictionary has {n[dictionary]} with <pad>"
    with pytest.raises(WeightsError, match=said):
        port_of(folders[weights])


def test_weights_of_the_other_version_are_refused(folders: dict[str, Path]) -> None:
    shutil.copy(folders["v1"] / "pytorch_model.bin", folders["v2"])
    (folders["v2"] / "model.safetensors").unlink()
    with pytest.raises(
        WeightsError, match="vectors for 62 tokens, but the token dictionary has 54"
    ):
        port_of(folders["v2"])


def test_dictionaries_that_do_not_belong_together_are_refused(folders: dict[str, Path]) -> None:
    medians = next(folders["v1"].glob("gene_median*"))
    table = pickle.loads(medians.read_bytes())
    del table["ENSG00000000007"]
    medians.write_bytes(pickle.dumps(table))
    with pytest.raises(WeightsError, match=r"no median for 1 genes .* ENSG00000000007"):
        port_of(folders["v1"])
    fresh(folders)
    shutil.copy(next(folders["v1"].glob("token_dictionary*")), medians)  # whole numbers: tokens
    with pytest.raises(WeightsError, match="no median for 60 genes"):
        port_of(folders["v1"])
    fresh(folders)
    tokens = next(folders["v1"].glob("token_dictionary*"))
    shutil.copy(next(FIXTURE.glob("v1/gene_median*")), tokens)  # such a copy circulates
    with pytest.raises(WeightsError, match="the token dictionary has 60 with no special tokens"):
        port_of(folders["v1"])


def test_a_dictionary_that_would_run_something_is_refused(folders: dict[str, Path]) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("never",)

    next(folders["v2"].glob("token_dictionary*")).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(WeightsError, match=r"refers to builtins\.print, which is not data"):
        port_of(folders["v2"])


def test_a_configuration_of_another_network_is_refused(folders: dict[str, Path]) -> None:
    path = folders["v2"] / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"position_embedding_type": "relative_key"}))
    with pytest.raises(WeightsError, match="relative_key"):
        port_of(folders["v2"])
    (folders["v2"] / "checksums.json").unlink()
    path.write_text(json.dumps(config)[:-20])
    with pytest.raises(WeightsError, match="no JSON"):
        port_of(folders["v2"])
    del config["hidden_size"]
    with pytest.raises(WeightsError, match=r"config\.json has no hidden_size, no special_token"):
        Config.of(config, "config.json")


@pytest.mark.parametrize("behaviour", ["official", "fixed"])
def test_random_weights_need_no_files_and_follow_their_seed(behaviour: Behaviour) -> None:
    few = simulate(3, 60)

    def embed(seed: int) -> np.ndarray:
        id = "geneformer_v1_10m"
        model = FrozenModel(id, PORT, "/nowhere", behaviour, random_init=True, init_seed=seed)
        return model.fit(few, np.random.default_rng(0)).embed(few)

    assert embed(0).shape == (3, 256)
    assert np.array_equal(embed(0), embed(0))
    assert np.abs(embed(0) - embed(1)).max() > 1e-3


def test_random_weights_keep_the_published_dictionaries_where_they_are(
    folders: dict[str, Path], official: dict[str, np.ndarray]
) -> None:
    config = json.loads((folders["v2"] / "config.json").read_text())
    card = small_card(IDS["v2"], **config)
    data = cells(official, "v2")
    weights = Weights(card, folders["v2"])
    port = Geneformer.build(card.config, data.genes, weights, "fixed", 0)
    assert tokens_of(port, data) == tokens_of(port_of(folders["v2"]), data)


@pytest.mark.parametrize("id", ["v1_10m", "v1_40m", "v2_38m", "v2_104m", "v2_316m"])
def test_the_full_size_has_the_published_number_of_parameters(id: str) -> None:
    card = model_card(f"geneformer_{id}")
    with torch.device("meta"):
        network = Network(Config.of(card.config, "card"))
    d, n = card.config["hidden_size"], card.config["vocab_size"]
    head = {"bias": (n,), "transform.dense.weight": (d, d)}
    head |= dict.fromkeys(("transform.dense.bias", "transform.LayerNorm.bias"), (d,))
    head["transform.LayerNorm.weight"] = (d,)
    shapes = {name: tuple(t.shape) for name, t in network.state_dict().items()}
    shapes |= {f"cls.predictions.{name}": shape for name, shape in head.items()}
    if id == "v1_10m":  # converted from a file of an old version of transformers
        shapes["bert.embeddings.position_ids"] = (1, 2048)
    entries, end = {"__metadata__": {"format": "pt"}}, 0
    for name in sorted(shapes, key=lambda name: (not name.endswith("position_ids"), name)):
        whole = name.endswith("position_ids")
        begin, end = end, end + int(np.prod(shapes[name])) * (8 if whole else 4)
        kind = "I64" if whole else "F32"
        entries[name] = {"dtype": kind, "shape": shapes[name], "data_offsets": (begin, end)}  # type: ignore[dict-item]
    n_parameters = sum(p.numel() for p in network.parameters())
    assert n_parameters + sum(int(np.prod(shape)) for shape in head.values()) == card.parameters
    # The published file (V1-40M: a zip, not this format) has exactly this many bytes: a length,
    # a table of the tensors, the tensors.
    if id != "v1_40m":
        table = len(json.dumps(entries, separators=(",", ":")))
        assert 8 + table + -table % 8 + end == next(
            file.size for file in card.files if file.name == "model.safetensors"
        )
