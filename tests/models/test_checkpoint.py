"""Reading checkpoints: nothing runs, nothing is loaded in part, and what is wrong is named."""

import collections
import os
import pickle
import random
import subprocess
import sys
import tarfile
import zipfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sclitmus.errors import WeightsError
from sclitmus.models.checkpoint import (
    fill,
    read_pickle,
    read_safetensors,
    read_torch,
    tensors_of,
    without_prefix,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4)


class Evil:
    """Its pickle makes a file when it is opened carelessly."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.trace),)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn_like(t.float()) for name, t in Net().state_dict().items()} | {
        "norm.num_batches_tracked": torch.tensor(7)
    }


def meta() -> Net:
    with torch.device("meta"):
        return Net()


def filled(network: nn.Module) -> bool:
    return not any(t.is_meta for t in network.state_dict().values())


def same(network: nn.Module, tensors: dict[str, torch.Tensor]) -> bool:
    state = network.state_dict()
    return state.keys() == tensors.keys() and all(torch.equal(state[n], tensors[n]) for n in state)


# Files of torch.save


@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_are_read(tmp_path: Path, zipped: bool) -> None:
    path = tmp_path / "w.pt"
    torch.save({"state": weights()}, path, _use_new_zipfile_serialization=zipped)
    network = meta()
    report = fill(network, tensors_of(read_torch(path), path, "state"), path)
    assert same(network, weights())
    assert (report.loaded, report.renamed, report.unused) == (7, {}, {})
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not network.training


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_run_and_what_it_names_is_named(tmp_path: Path, zipped: bool) -> None:
    path, trace = tmp_path / "w.pt", tmp_path / "trace"
    content = {"w": torch.zeros(2), "e": Evil(trace)}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(WeightsError, match=r"refers to (posix|os|nt)\.mkdir") as refused:
        read_torch(path)
    assert "weights_only" not in str(refused.value)  # torch's text says how to run it all the same
    assert not trace.exists()
    if zipped:
        for inert in ("any", ["posix.mkdir"]):
            with pytest.raises(WeightsError, match=r"posix\.mkdir"):
                read_torch(path, inert=inert)
    assert not trace.exists()


def test_harmless_types_can_be_read_as_dead_objects(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    hyper = {"args": Namespace(lr=0.1), "scale": np.float64(2.5), "genes": np.arange(3)}
    torch.save({"w": torch.ones(2), "hyper": hyper}, path)
    with pytest.raises(WeightsError, match=r"refers to [\w.]+"):
        read_torch(path)
    state = read_torch(path, inert="any")
    assert state["hyper"]["args"].state == {"lr": 0.1}
    assert not isinstance(state["hyper"]["args"], Namespace)
    assert state["hyper"]["scale"] == 2.5
    np.testing.assert_array_equal(state["hyper"]["genes"], [0, 1, 2])
    torch.save({"w": torch.ones(2), "args": Namespace(lr=0.1)}, path)
    assert read_torch(path, inert=["argparse.Namespace"])["args"].state == {"lr": 0.1}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"<!DOCTYPE html><html>Sign in</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "LFS pointer"),
        (b"\x1f\x8b\x08\x00 packed", "a gzip archive"),
        (b"no checkpoint at all, but text", "cannot be read"),
        (b"\x80\x02}q\x00.", "cannot be read"),
    ],
)
def test_other_files_are_told_apart(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "w.pt"
    path.write_bytes(content)
    for read in (read_torch, read_safetensors):
        with pytest.raises(WeightsError, match=words) as refused:
            read(path)
        assert str(path) in refused.value.seen


def test_archives_and_other_formats_are_told_apart(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2)}, tmp_path / "s")
    with zipfile.ZipFile(tmp_path / "z", "w") as archive:
        archive.writestr("best_model.pt", "x")
    with tarfile.open(tmp_path / "t", "w") as tar:
        tar.add(tmp_path / "s", "best_model.pt")
    for name, words in (("s", "safetensors"), ("z", "zip archive of"), ("t", "tar archive")):
        with pytest.raises(WeightsError, match=words):
            read_torch(tmp_path / name)
    torch.save({"w": torch.ones(2)}, tmp_path / "p")
    with pytest.raises(WeightsError):
        read_safetensors(tmp_path / "p")


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    for read in (read_torch, read_safetensors, read_pickle):
        for path in (tmp_path, tmp_path / "absent"):
            with pytest.raises(WeightsError, match="cannot be opened"):
                read(path)


def spoiled(whole: bytes, seed: int) -> list[bytes]:
    """Every kind of damage: cut at 60 places, and bytes changed."""
    draw = random.Random(seed)
    cuts = [whole[: len(whole) * i // 60] for i in range(60)]
    changed = []
    for _ in range(120):
        copy = bytearray(whole)
        for _ in range(draw.choice((1, 1, 4, 16))):
            copy[draw.randrange(len(copy))] = draw.randrange(256)
        changed.append(bytes(copy))
    return cuts + changed


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch remarks on some of the damage
@pytest.mark.parametrize("kind", ["zip", "old", "safetensors", "pickle"])
def test_a_damaged_file_raises_one_kind_of_error_and_a_cut_one_always_does(
    tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "whole"
    read: Any = {"safetensors": read_safetensors, "pickle": read_pickle}.get(kind, read_torch)
    if kind == "safetensors":
        save_file(weights(), path)
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": np.arange(5), "b": [1, "x"], "c": np.float32(2)}))
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=kind == "zip")
    read(path)
    refused = 0
    for i, content in enumerate(spoiled(path.read_bytes(), seed=1)):
        (tmp_path / "x").write_bytes(content)
        try:
            read(tmp_path / "x")
        except WeightsError:
            refused += 1
        else:
            assert i >= 60, f"cut after {len(content)} bytes and read all the same"
    assert refused > 70


# Tensors of every kind


def test_tensors_of_every_kind_become_float32_of_the_same_values(tmp_path: Path) -> None:
    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    variants = {
        "half": base.half(),
        "bfloat": base.bfloat16(),
        "double": base.double(),
        "transposed": torch.arange(12.0).reshape(4, 3).T.clone().T.contiguous().T,
        "slice": torch.arange(24, dtype=torch.float32).reshape(3, 8)[:, ::2],
        "expanded": torch.arange(4.0).expand(3, 4),
    }
    assert not variants["transposed"].is_contiguous()
    for zipped in (True, False):
        torch.save(variants, tmp_path / "w", _use_new_zipfile_serialization=zipped)
        for name, tensor in tensors_of(read_torch(tmp_path / "w"), tmp_path / "w").items():
            network = nn.ParameterDict({"w": nn.Parameter(torch.empty(3, 4, device="meta"))})
            fill(network, {"w": tensor}, tmp_path / "w")
            assert network["w"].dtype == torch.float32, name
            assert network["w"].is_contiguous(), name
            torch.testing.assert_close(network["w"].data, variants[name].float(), rtol=0, atol=0)


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    network = meta()
    fill(network, weights(), tmp_path)
    assert network.norm.num_batches_tracked.dtype == torch.int64
    assert network.norm.num_batches_tracked == 7
    broken = weights() | {"first.bias": torch.arange(4)}
    with pytest.raises(WeightsError, match=r"type: first\.bias is torch\.int64"):
        fill(meta(), broken, tmp_path)


def test_views_of_one_storage_are_separate_tensors(tmp_path: Path) -> None:
    storage = torch.arange(10.0)
    torch.save({"a": storage[:4], "b": storage[4:]}, tmp_path / "w")
    tensors = tensors_of(read_torch(tmp_path / "w"), tmp_path / "w")
    assert tensors["a"].tolist() == [0, 1, 2, 3]
    assert tensors["b"].tolist() == [4, 5, 6, 7, 8, 9]


def test_the_file_is_mapped_and_never_written_to(tmp_path: Path) -> None:
    """A network may change what was loaded, the file may not."""
    for name, read in (("w.pt", read_torch), ("w.safetensors", read_safetensors)):
        path = tmp_path / name
        if name == "w.pt":
            torch.save(weights(), path)
        else:
            save_file(weights(), path)
        before = path.read_bytes()
        network = meta()
        fill(network, read(path), path)
        network.first.weight.data.zero_()
        del network
        assert path.read_bytes() == before
        path.unlink()


LOADING = """
import sys, torch
from pathlib import Path
from torch import nn
from sclitmus.models.checkpoint import fill, read_safetensors, read_torch

def own():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1000

networks = []
for name, read in (("w.pt", read_torch), ("w.safetensors", read_safetensors)):
    path = Path(sys.argv[1]) / name
    with torch.device("meta"):
        networks.append(nn.Sequential(*(nn.Linear(3000, 1000, bias=False) for _ in range(10))))
    before = own()
    fill(networks[-1], read(path), path)
    print(own() - before)
    assert float(networks[-1][9].weight[0, 0]) == 9.0
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_loading_takes_no_memory_of_its_own(tmp_path: Path) -> None:
    """120 MB of weights, read and filled in: less than 30 MB of memory that is not the file's."""
    tensors = {f"{i}.weight": torch.full((1000, 3000), float(i)) for i in range(10)}
    torch.save(tensors, tmp_path / "w.pt")
    save_file(tensors, tmp_path / "w.safetensors")
    told = subprocess.run(
        [sys.executable, "-c", LOADING, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert [float(line) < 30 for line in told.stdout.split()] == [True, True], told.stdout


# Pickles


def test_plain_pickles_are_read(tmp_path: Path) -> None:
    path = tmp_path / "d.pkl"
    content = {
        "names": ["a", "b"],
        "table": np.arange(6, dtype=np.float32).reshape(2, 3),
        "text": np.array(["x", "y"], dtype=object),
        "one": np.float64(1.5),
        "set": {1, 2},
        "ordered": collections.OrderedDict(a=1),
        "bytes": b"raw",
    }
    for protocol in (0, 2, 4, 5):
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        found = read_pickle(path)
        np.testing.assert_array_equal(found.pop("table"), content["table"])
        np.testing.assert_array_equal(found.pop("text"), content["text"])
        assert found == {k: v for k, v in content.items() if k not in ("table", "text")}


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_would_run_something_is_refused(tmp_path: Path, protocol: int) -> None:
    path, trace = tmp_path / "d.pkl", tmp_path / "trace"
    hidden = [Evil(trace), np.array([Evil(trace)], dtype=object), {"a": Evil(trace)}]
    for content in hidden:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
        with pytest.raises(WeightsError, match=r"refers to \w+\.mkdir"):
            read_pickle(path)
    for text in (b"cbuiltins\neval\n(S'1'\ntR.", b"cos\nsystem\n(S'true'\ntR.", b"cnumpy\nload\n."):
        path.write_bytes(text)
        with pytest.raises(WeightsError, match=r"refers to \w+\.\w+"):
            read_pickle(path)
    assert not trace.exists()


def test_a_type_can_be_allowed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "d.pkl"
    path.write_bytes(pickle.dumps(Path("x")))
    with pytest.raises(WeightsError, match="pathlib"):
        read_pickle(path)
    kinds = ("pathlib.PosixPath", "pathlib._local.PosixPath")
    assert read_pickle(path, dict.fromkeys(kinds, lambda *parts: parts)) == ("x",)


# Tables of tensors


@pytest.mark.parametrize(
    ("state", "keys", "words"),
    [
        ({"model": {}}, ("state",), "no 'state'; it has model"),
        ([1], ("state",), "no 'state'; it holds a list"),
        ({"state": [1]}, ("state",), "it holds a list"),
        ({}, (), "it has nothing"),
        ({"w": torch.ones(1), "epoch": 3}, (), "'epoch' is a int"),
        ({"w": torch.ones(1), 5: torch.ones(1)}, (), "5 is a Tensor"),
    ],
)
def test_what_is_no_table_of_tensors_is_described(state: Any, keys: Any, words: str) -> None:
    with pytest.raises(WeightsError, match=words):
        tensors_of(state, Path("w.pt"), *keys)


def test_prefixes_of_wrappers_are_stripped_only_where_all_have_them() -> None:
    t = torch.ones(1)
    assert without_prefix({"module.model.a": t, "module.model.b": t}).keys() == {"a", "b"}
    assert without_prefix({"module.a": t, "b": t}).keys() == {"module.a", "b"}
    assert without_prefix({"bert.a": t}, ["bert."]).keys() == {"a"}
    assert without_prefix({}) == {}


# Filling a network


def test_every_kind_of_misfit_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    tensors = weights()
    tensors["first.weight"] = torch.zeros(4, 5)
    tensors["extra.weight"] = tensors.pop("norm.bias")
    network = Net()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError) as refused:
        fill(network, tensors, tmp_path / "w.pt")
    for words in (
        "missing: norm.bias",
        "unexpected: extra.weight",
        "shape: first.weight is (4, 5), needed (4, 3)",
        "w.pt does not fit Net",
    ):
        assert words in refused.value.seen
    assert same(network, before)
    assert network.training


def test_many_missing_keys_are_counted(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"missing: first\.weight.* and 2 more"):
        fill(meta(), {}, tmp_path)


def test_keys_are_renamed_or_left_out_by_rule_and_reported(tmp_path: Path) -> None:
    tensors = {f"old.{name}": t for name, t in weights().items()} | {"head.weight": torch.ones(1)}
    network = meta()
    report = fill(
        network,
        tensors,
        tmp_path,
        rename={r"old\.(.*)": r"\1", r"(.*)": r"never.\1"},
        unused={r"head\..*": "classifies"},
    )
    assert same(network, weights())
    assert report.loaded == 7
    assert report.renamed["old.first.weight"] == "first.weight"
    assert report.unused == {"head.weight": "classifies"}


def test_two_keys_for_one_place_are_refused(tmp_path: Path) -> None:
    tensors = weights() | {"alias.weight": torch.ones(4, 3)}
    with pytest.raises(WeightsError, match=r"twice: first\.weight and alias\.weight both are"):
        fill(meta(), tensors, tmp_path, rename={r"alias\.(.*)": r"first.\1"})


def test_a_rule_that_leaves_out_too_much_shows_as_missing(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="missing: first"):
        fill(meta(), weights(), tmp_path, unused={r"first\..*": "wrongly"})


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)
        self.out = nn.Linear(3, 5, bias=False)
        self.out.weight = self.table.weight


@pytest.mark.parametrize("given", [("table",), ("out",), ("table", "out")])
def test_shared_weights_stay_shared_whichever_of_their_names_the_file_has(
    tmp_path: Path, given: tuple[str, ...]
) -> None:
    with torch.device("meta"):
        network = Tied()
    table = torch.randn(5, 3)
    fill(network, {f"{name}.weight": table.clone() for name in given}, tmp_path)
    assert network.out.weight is network.table.weight
    assert torch.equal(network.table.weight, table)


def test_shared_weights_that_differ_in_the_file_are_refused(tmp_path: Path) -> None:
    with torch.device("meta"):
        network = Tied()
    tensors = {"table.weight": torch.zeros(5, 3), "out.weight": torch.ones(5, 3)}
    with pytest.raises(WeightsError, match="different although the network shares them"):
        fill(network, tensors, tmp_path)
    assert not filled(network)


def test_a_zip_of_a_version_that_does_not_exist_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "weights.pt"
    torch.save({"a": torch.zeros(3)}, path)
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 6] = 247  # "version needed" of the first entry
    data[data.index(b"\x80\x02") + 2] = 255  # and a pickle whose first instruction is none
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="cannot be read"):
        read_torch(path, inert="any")
