"""Small models pretrained on planted data: what they learn, what is written, what is resumed."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planted_corpus import made, planted, programs
from small_pretraining import settings

from sclitmus import catalog
from sclitmus.core.dataset import Dataset, DatasetCard, Genes
from sclitmus.errors import MethodError, WeightsError
from sclitmus.models.card import OWN_CARD, card_in, model_card
from sclitmus.models.checkpoint import read_safetensors, read_torch
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.inference import Compute, Passes
from sclitmus.models.masked_course import Epoch, MaskedCourse
from sclitmus.models.masked_scores import Skill
from sclitmus.models.objectives import GeneformerObjective, ScBERTObjective, ScGPTObjective
from sclitmus.models.prepared import Prepared, prepare
from sclitmus.models.pretraining import Pretrained, pretrain
from sclitmus.models.pretraining_settings import MODELS, PORTS, Settings
from sclitmus.models.tokens import Batch, on_device
from sclitmus.models.weights import Weights
from sclitmus.models.written import write_weights

ARCHS = ("scgpt", "geneformer", "scbert")
EPOCHS = {"scgpt": 7, "geneformer": 10, "scbert": 8}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """So small networks gain nothing by more, and lose much where cores are busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def trained(arch: str, data: Dataset, out: Path, **changes: dict[str, Any]) -> Pretrained:
    return pretrain([data], settings(arch, EPOCHS[arch], **changes), out, device="cpu")


def corpus(arch: str, low_rank: bool) -> Dataset:
    return programs(low_rank=low_rank) if arch == "geneformer" else planted(low_rank=low_rank)


@pytest.fixture(scope="module", params=ARCHS)
def learned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pretrained:
    """A model of each architecture, trained on cells of low rank."""
    arch: str = request.param
    return trained(arch, corpus(arch, True), tmp_path_factory.mktemp(arch) / "out")


def arch_of(result: Pretrained) -> str:
    arch: str = result.record["config"]["arch"]
    return arch


def own_skill(result: Pretrained) -> Skill:
    record = result.record
    return Skill(**record["validation"]["skill"][record["judged_by"]][record["mean"]])


def test_it_beats_the_mean_of_each_gene_where_there_is_more_to_learn(learned: Pretrained) -> None:
    assert own_skill(learned).low > 0.05
    assert learned.verdict.startswith("better than the mean of each gene")
    assert learned.record["warning"] == ""
    losses = [epoch["validation"] for epoch in learned.record["epochs"]]
    first = next(iter(losses[0]))
    best = learned.record["best_epoch"]
    assert min(range(len(losses)), key=lambda i: losses[i][first]) + 1 == best


@pytest.mark.parametrize("arch", ARCHS)
def test_it_does_not_where_genes_are_independent_and_says_so(
    arch: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        result = trained(arch, corpus(arch, False), tmp_path / "out")
    assert own_skill(result).value < 0.05
    assert result.verdict.startswith("no better than the mean of each gene")
    assert "no better than the mean of each gene" in result.record["warning"]
    assert "after 2 epochs it is no better" in caplog.text  # early, while it could be stopped


def prepared(arch: str, out: Path, **changes: dict[str, Any]) -> tuple[Prepared, MaskedCourse]:
    own = settings(arch, 1, **changes)
    ready = prepare([planted(60, 30)], own, out, 0)
    return ready, MaskedCourse(ready, own, 0, Compute("cpu", "float32"))


@pytest.mark.parametrize("arch", ["scgpt", "scbert"])
def test_without_gene_vectors_all_hidden_genes_of_a_cell_are_predicted_alike(
    arch: str, tmp_path: Path
) -> None:
    """A set of values is all that is left, so no loss is below that of the cell's best constant:
    neither a mode nor a mean per cell can be beaten."""
    ready, course = prepared(arch, tmp_path, objective={"share": 0.5, "kept": 0.0})
    objective = ready.objective
    tokens = next(iter(course._held()))
    batch = on_device(tokens, "cpu")
    masked = tokens.columns["masked"]
    cell = np.repeat(np.arange(tokens.n_cells), tokens.lengths)[masked]

    def spread() -> float:
        """Largest difference between two predictions of one cell."""
        with torch.no_grad():
            predicted = objective(batch).numpy()
        return max(float(np.ptp(predicted[cell == i], axis=0).max()) for i in np.unique(cell))

    assert spread() > 1e-2
    with torch.no_grad():
        objective.port.gene_embedding()[: -3 if arch == "scgpt" else None] = 0.0
    assert spread() < 1e-4
    scored = course.judged()
    target = tokens.columns["target"][masked].astype(np.float64)
    best = sum(((target[cell == i] - target[cell == i].mean()) ** 2).sum() for i in np.unique(cell))
    assert scored.sums["mse"].sum() >= best


def test_the_gradient_reaches_all_that_is_trained(tmp_path: Path) -> None:
    for arch in ARCHS:
        ready, course = prepared(arch, tmp_path / arch)
        step = next(iter(course.steps(0)))
        course.loss(ready.objective, step[0].batch).backward()  # type: ignore[no-untyped-call]
        still = [
            name
            for name, p in ready.objective.named_parameters()
            if p.requires_grad and (p.grad is None or not p.grad.abs().max() > 0)
        ]
        # scBERT's last layer norm and so on all move; BERT's second token type is never used.
        assert not still, (arch, still)


def test_given_gene_vectors_stay_as_they_are_and_choose_the_genes(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    path = tmp_path / "gene2vec.txt"
    lines = [f"G{i} {' '.join(map(str, row))}" for i, row in enumerate(vectors)]
    path.write_text("\n".join(["12 16", *lines]) + "\n")
    own = settings("scbert", 1, objective={"gene_vectors": str(path)})
    result = pretrain([planted(40, 30)], own, tmp_path / "out", device="cpu")
    assert result.record["genes"] == 12
    model = catalog.load_method("scbert", weights=tmp_path / "out")
    assert isinstance(model, FrozenModel)
    static = model.fit(planted(4, 30), np.random.default_rng(0)).gene_vectors()
    given = {f"G{i}": row for i, row in enumerate(vectors)}
    np.testing.assert_array_equal(static.vectors, [given[name] for name in static.names])
    own = settings("scbert", 1, objective={"gene_vectors": str(path)}, model={"dim": 8})
    with pytest.raises(MethodError, match=r"16 numbers, and model.dim 8"):
        pretrain([planted(40, 30)], own, tmp_path / "other", device="cpu")
    path.write_text("G0 1 2\nG1 1\n")
    with pytest.raises(MethodError, match="cannot be read"):
        pretrain([planted(40, 30)], own, tmp_path / "third", device="cpu")


def loaded(result: Pretrained, **config: Any) -> FrozenModel:
    id = MODELS[arch_of(result)]
    model = catalog.load_method(id, weights=result.folder, config=config)
    assert isinstance(model, FrozenModel)
    return model


def test_what_is_written_is_loaded_as_published_files_are(learned: Pretrained) -> None:
    """`checkpoint.fill` refuses a file with a tensor too many or too few."""
    arch = arch_of(learned)
    cells = corpus(arch, True)
    model = loaded(learned).fit(cells, np.random.default_rng(0))
    z = model.embed(cells)
    assert z.shape == (cells.n_cells, 16)
    assert np.isfinite(z).all()
    assert z.std(axis=0).max() > 1e-3
    port: Any = model.loaded
    read = learned.record["parameters"]["network"]
    assert sum(p.numel() for p in port.network.parameters()) == read
    named = [name for name in port.space.names if name]
    assert len(named) == learned.record["genes"]


def test_what_is_loaded_embeds_as_the_network_in_memory_does(tmp_path: Path) -> None:
    cells = planted(40, 30, seed=5)
    for arch in ARCHS:
        out = tmp_path / arch
        ready, _ = prepared(arch, out)
        port = ready.objective.port
        with torch.no_grad():  # away from what any loader could draw
            for p in ready.objective.parameters():
                p.add_(0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
        write_weights(ready.objective, arch, out, 1)  # type: ignore[arg-type]
        config = dict(settings(arch, 1).model)
        (out / OWN_CARD).write_text(json.dumps({"id": MODELS[arch], "config": config}))
        layer = {"emb_layer": 0} if arch == "geneformer" else {}
        model = FrozenModel(MODELS[arch], catalog.MODELS[MODELS[arch]], out, config=layer)
        z = model.fit(cells, np.random.default_rng(0)).embed(cells)
        tokens = port.tokenise(cells.counts, port.space.match(cells.genes).lookup, None)
        port.network.requires_grad_(False)
        own = Passes(port, Compute("cpu", "float32")).over(tokens, port.cells)
        np.testing.assert_array_equal(z, own)


def test_the_heads_are_written_under_their_published_names(learned: Pretrained) -> None:
    folder, arch = learned.folder, arch_of(learned)
    if arch == "scgpt":
        tensors = read_torch(folder / "best_model.pt")
        head = {name for name in tensors if "decoder." in name}
        assert head == {
            *(f"decoder.fc.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")),
            *("mvc_decoder.gene2query.weight", "mvc_decoder.gene2query.bias"),
            "mvc_decoder.W.weight",
        }
        args = json.loads((folder / "args.json").read_text())
        assert (args["embsize"], args["mask_value"], args["pad_value"]) == (16, -1, -2)
        vocabulary = json.loads((folder / "vocab.json").read_text())
        assert [vocabulary[name] for name in ("<pad>", "<cls>", "<eoc>")] == [60, 61, 62]
    elif arch == "geneformer":
        tensors = read_safetensors(folder / "model.safetensors")
        head = {name for name in tensors if name.startswith("cls.")}
        assert head == {
            "cls.predictions.bias",
            *(f"cls.predictions.transform.{part}.{kind}"
              for part in ("dense", "LayerNorm") for kind in ("weight", "bias")),
        }  # fmt: skip
        config = json.loads((folder / "config.json").read_text())
        assert (config["model_type"], config["tie_word_embeddings"]) == ("bert", True)
        assert config["vocab_size"] == 122
    else:
        state = read_torch(folder / "panglao_pretrain.pth")
        tensors = state["model_state_dict"]
        assert tensors["to_out.weight"].shape == (7, 16)
        assert "performer.net.layers.0.1.fn.fn.w1.weight" in tensors


@pytest.mark.parametrize("arch", ARCHS)
def test_heads_predict_as_the_official_classes_do(arch: str, tmp_path: Path) -> None:
    """The fixture is a checkpoint written here, and what scGPT's TransformerModel, BertForMaskedLM
    of transformers 4.57 and scBERT's PerformerLM, which loaded it, predicted of hidden genes."""
    folder = shutil.copytree(
        Path(__file__).parent / "fixtures" / "pretrained" / arch, tmp_path / "x"
    )
    official = np.load(folder / "official.npz")
    card = card_in(folder, model_card(MODELS[arch]))
    weights = Weights(replace(card, config={**card.config, "emb_layer": 0}), folder)
    module, _, name = PORTS[arch].partition(":")
    port = getattr(import_module(module), name).load(weights, "fixed")
    own = settings(arch, 1, objective={"tied": False}).objective
    objective: Any
    if arch == "scgpt":
        objective = ScGPTObjective(port, own, 0.0)
    else:
        objective = (GeneformerObjective if arch == "geneformer" else ScBERTObjective)(port, own)
    objective.fill_head(tensors_in(folder, arch), folder)
    known = ("offsets", "predicted")
    columns = {n: torch.from_numpy(official[n]) for n in official.files if n not in known}
    batch = Batch(official["offsets"].tolist(), columns, {})
    with torch.no_grad():
        predicted = objective(batch).numpy()
    np.testing.assert_allclose(predicted, official["predicted"], atol=5e-6)
    with pytest.raises(WeightsError, match="that predicts hidden genes"):
        objective.fill_head({}, folder)


def test_scbert_gene_names_are_an_h5ad_file_that_anndata_reads(tmp_path: Path) -> None:
    import anndata

    prepared("scbert", tmp_path)
    read = anndata.read_h5ad(tmp_path / "panglao_10000.h5ad")
    assert read.shape == (0, 30)
    assert list(read.var_names[:3]) == ["G0", "G1", "G2"]


def test_geneformer_dictionaries_hold_medians_and_both_names(tmp_path: Path) -> None:
    counts = np.random.default_rng(0).poisson(3.0, (200, 4)) + np.array([0, 0, 5, 50])
    source = made(counts)
    symbols = Genes(("G0", "G1", "LONE"), ("", "", ""), "human")
    other = replace(made(counts[:20, :3], "other"), genes=symbols)
    own = settings("geneformer", 1, genes={"min_cells": 1}, validation={"share": 0.05})
    ready = prepare([source, other], own, tmp_path, 0)
    port: Any = ready.objective.port
    rows = {name: row for row, name in enumerate(port.space.names) if name}
    assert list(rows) == [f"ENSG{i:011d}" for i in range(4)] + ["LONE"]
    assert ready.lookups[1].tolist() == [
        rows["ENSG00000000000"],
        rows["ENSG00000000001"],
        rows["LONE"],
    ]
    x = counts / counts.sum(axis=1, keepdims=True) * 1e4
    expected = np.median(x[:, 3])
    assert port.medians[rows["ENSG00000000003"]] == pytest.approx(expected, rel=0.05)


def test_the_card_says_that_it_is_not_the_published_model(
    learned: Pretrained, tmp_path: Path
) -> None:
    card = loaded(learned).card
    assert card.title.endswith(", pretrained here")
    assert card.corpora == (learned.record["data"][0]["id"],)
    assert not card.non_commercial
    assert card.id == MODELS[arch_of(learned)]
    published = catalog.load_method(card.id, weights=tmp_path).card
    assert card.fingerprint != published.fingerprint
    twin = loaded(learned).untrained
    assert twin is not None
    assert twin.card.corpora == ()
    z = twin.fit(corpus(arch_of(learned), True), np.random.default_rng(0))
    port: Any = z.loaded
    n = sum(p.numel() for p in port.network.parameters())
    assert n == learned.record["parameters"]["network"]  # the twin is of the same size


def test_a_file_that_changed_since_is_refused(learned: Pretrained, tmp_path: Path) -> None:
    copy = shutil.copytree(learned.folder, tmp_path / "copy")
    (copy / "checksums.json").unlink()
    name = model_card(MODELS[arch_of(learned)]).files[0].name
    with (copy / name).open("ab") as file:
        file.write(b"\n")
    with pytest.raises(WeightsError, match="checksum"):
        Weights(card_in(copy, model_card(MODELS[arch_of(learned)])), copy).file(name)


def test_a_card_beside_the_weights_is_checked(tmp_path: Path) -> None:
    card = model_card("scgpt")
    assert card_in(tmp_path, card) is card
    own = tmp_path / OWN_CARD
    own.write_text('{"id": "scgpt", "title": "mine", "config": {"embsize": 8}}')
    read = card_in(tmp_path, card)
    assert (read.title, read.corpora, read.config["embsize"]) == ("mine", (), 8)
    assert read.config["nlayers"] == card.config["nlayers"]
    assert all(not file.url and not file.sha256 for file in read.files)
    for text, said in (
        ("[1]", "card of"),
        ('{"id": "uce_4l"}', "card of 'uce_4l'"),
        ('{"id": "scgpt", "parameters": "many"}', "another kind of parameters"),
        ('{"id": "scgpt", "files": [1]}', "another kind of files"),
        ("{", "cannot be read"),
    ):
        own.write_text(text)
        with pytest.raises(WeightsError, match=said):
            card_in(tmp_path, card)


def test_all_that_was_measured_is_written(learned: Pretrained) -> None:
    record = json.loads((learned.folder / "training.json").read_text())
    assert record["verdict"] == learned.verdict
    assert len(record["epochs"]) == EPOCHS[arch_of(learned)]
    assert record["cells"] == {"training": 300, "validation": 100}
    assert record["data"][0]["hash"] == corpus(arch_of(learned), True).content_hash
    assert 0 < record["waiting_share"] < 1
    assert record["cells_per_second"] > 0
    results = record["validation"]
    final = record["epochs"][record["best_epoch"] - 1]["validation"]
    assert results["model"] == pytest.approx(final, rel=1e-5)
    mean = results["averages"][record["mean"]][record["judged_by"]]
    skill = results["skill"][record["judged_by"]][record["mean"]]["value"]
    assert skill == pytest.approx(1 - results["model"][record["judged_by"]] / mean)
    assert not (learned.folder / "unfinished.pt").exists()


def tensors_in(folder: Path, arch: str) -> dict[str, torch.Tensor]:
    if arch == "geneformer":
        return read_safetensors(folder / "model.safetensors")
    if arch == "scgpt":
        return dict(read_torch(folder / "best_model.pt"))
    return dict(read_torch(folder / "panglao_pretrain.pth")["model_state_dict"])


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def losses(result: Pretrained) -> list[tuple[float, Any]]:
    return [(epoch["loss"], epoch["validation"]) for epoch in result.record["epochs"]]


@pytest.mark.parametrize("arch", ARCHS)
def test_a_training_that_broke_off_ends_with_the_same_weights(arch: str, tmp_path: Path) -> None:
    class StopError(Exception):
        pass

    data, own = [planted(96, 30)], settings(arch, 4)
    whole = pretrain(data, own, tmp_path / "whole", seed=3, device="cpu")

    def stop(epoch: Epoch) -> None:
        if epoch.number == 3:
            raise StopError

    with pytest.raises(StopError):
        pretrain(data, own, tmp_path / "parts", seed=3, device="cpu", on_epoch=stop)
    seen: list[int] = []
    again = pretrain(
        data, own, tmp_path / "parts", seed=3, device="cpu",
        on_epoch=lambda epoch: seen.append(epoch.number),
    )  # fmt: skip
    assert seen == [3, 4]
    assert losses(again) == losses(whole)
    assert same(tensors_in(again.folder, arch), tensors_in(whole.folder, arch))
    other = pretrain(data, own, tmp_path / "other", seed=4, device="cpu")
    assert not same(tensors_in(other.folder, arch), tensors_in(whole.folder, arch))


def test_so_does_one_that_was_killed(tmp_path: Path) -> None:
    script = Path(__file__).with_name("small_pretraining.py")
    command = [sys.executable, str(script), "scgpt", str(tmp_path / "killed"), "2"]
    alone = os.environ | {"OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, check=False, capture_output=True, timeout=300, env=alone)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
    assert (tmp_path / "killed" / "unfinished.pt").exists()
    data, own = [planted(96, 30)], settings("scgpt", 4)
    seen: list[int] = []
    again = pretrain(
        data, own, tmp_path / "killed", seed=3, device="cpu",
        on_epoch=lambda epoch: seen.append(epoch.number),
    )  # fmt: skip
    assert seen == [3, 4]
    whole = pretrain(data, own, tmp_path / "whole", seed=3, device="cpu")
    assert losses(again) == losses(whole)
    assert same(tensors_in(again.folder, "scgpt"), tensors_in(whole.folder, "scgpt"))


def test_one_that_was_killed_while_it_wrote_writes_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, own = [planted(40, 30)], settings("scgpt", 2)

    def full(*_: Any) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("sclitmus.models.pretraining.write_card", full)
        with pytest.raises(OSError, match="no space left"):
            pretrain(data, own, tmp_path / "out", device="cpu")
    seen: list[Epoch] = []
    again = pretrain(data, own, tmp_path / "out", device="cpu", on_epoch=seen.append)
    assert seen == []  # all that was to be trained was
    whole = pretrain(data, own, tmp_path / "whole", device="cpu")
    assert again.record["validation"] == whole.record["validation"]
    assert same(tensors_in(again.folder, "scgpt"), tensors_in(whole.folder, "scgpt"))


def test_a_folder_belongs_to_one_training(tmp_path: Path) -> None:
    data, own = [planted(40, 30)], settings("scgpt", 1)
    first = pretrain(data, own, tmp_path / "out", device="cpu")
    assert pretrain(data, own, tmp_path / "out", device="cpu").record == first.record
    with pytest.raises(MethodError, match="another seed"):
        pretrain(data, own, tmp_path / "out", seed=1, device="cpu")
    with pytest.raises(MethodError, match="another data"):
        pretrain([planted(41, 30)], own, tmp_path / "out", device="cpu")
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "best_model.pt").touch()
    with pytest.raises(MethodError, match=r"holds best_model.pt already"):
        pretrain(data, own, tmp_path / "published", device="cpu")
    (tmp_path / "published" / "training.json").write_text("{")
    with pytest.raises(MethodError, match="cannot be read"):
        pretrain(data, own, tmp_path / "published", device="cpu")


def test_an_epoch_may_be_a_part_of_the_corpus(tmp_path: Path) -> None:
    own = settings("scgpt", 3, training={"epoch_cells": 32, "batch_cells": 8})
    result = pretrain([planted(64, 30)], own, tmp_path / "out", device="cpu")
    assert [epoch["n_cells"] for epoch in result.record["epochs"]] == [32, 32, 32]


def test_memory_does_not_change_the_step(tmp_path: Path) -> None:
    """Cells pass through the network in more parts, and the gradient is the same."""
    gradients = []
    for n, tokens in enumerate((100_000, 120)):
        ready, course = prepared("scgpt", tmp_path / str(n), training={"batch_tokens": tokens})
        step = next(iter(course.steps(0)))
        weight = sum(part.weight for part in step)
        for part in step:
            (course.loss(ready.objective, part.batch) * part.weight / weight).backward()  # type: ignore[no-untyped-call]
        gradients.append([p.grad for p in ready.objective.parameters()])
        assert (len(step) == 1) == (n == 0)
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_whole_donors_are_held_out(tmp_path: Path) -> None:
    own = settings("scgpt", 1, validation={"by": "obs:donor", "share": 0.2})
    assert own.validation.column == "donor"
    ready = prepare([planted(64, 30)], own, tmp_path, 0)
    assert (ready.corpus.n_train, ready.corpus.n_held) == (48, 16)  # 2 of 8


def test_settings_are_read_strictly(tmp_path: Path) -> None:
    read = Settings.of("geneformer", {"training": {"epochs": 2, "lr": 1}})
    assert (read.training.lr, read.training.batch_cells) == (1.0, 144)  # the rest as published
    assert read.objective.kept == 0.1
    for tables, said in (
        ({"trainings": {}}, "no setting trainings"),
        ({"model": {"embsize": 8}}, r"no setting model\.embsize"),
        ({"training": {"rate": 1.0}}, r"no setting training\.rate"),
        ({"training": {"epochs": "two"}}, r"training\.epochs is 'two'"),
        ({"training": {"epochs": 0}}, r"training\.epochs = 0"),
        ({"objective": {"share": 1.5}}, r"objective\.share"),
        ({"validation": {"by": "donor"}}, r"validation\.by = 'donor'"),
        ({"model": {"special_token": True}}, r"model\.special_token"),
    ):
        with pytest.raises(MethodError, match=said):
            Settings.of("geneformer", tables)
    with pytest.raises(MethodError, match="no 'uce'"):
        Settings.of("uce", {})
    path = tmp_path / "own.toml"
    path.write_text('[genes]\nlist = "genes.txt"\n')
    assert Settings.read("scgpt", path).genes.list == str(tmp_path / "genes.txt")
    with pytest.raises(MethodError, match="cannot be read"):
        Settings.read("scgpt", tmp_path / "none.toml")


def test_the_examples_are_settings_and_a_small_network() -> None:
    studies = Path(__file__).parents[2] / "studies" / "pretrain"
    for arch in ARCHS:
        read = Settings.read(arch, studies / f"{arch}_tiny.toml")
        assert read.training.epochs <= 10


def test_corpora_and_licences_of_the_data_are_on_the_card(tmp_path: Path) -> None:
    card = DatasetCard(licence="CC BY 4.0", corpora=("GSE12345",))
    data = replace(planted(40, 30), card=card)
    pretrain([data], settings("scgpt", 1), tmp_path / "out", device="cpu")
    own = catalog.load_method("scgpt", weights=tmp_path / "out").card
    assert own.corpora == ("planted", "GSE12345")
    assert "CC BY 4.0" in own.licence
