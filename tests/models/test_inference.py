"""Cells through a network: batches, memory running out, interrupted runs, progress."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pytest
import torch
from scipy import sparse

from sclitmus.core import activity
from sclitmus.core.dataset import Dataset, Genes
from sclitmus.errors import MethodError
from sclitmus.models import inference
from sclitmus.models.gene_space import GeneSpace, known_entries
from sclitmus.models.inference import Compute, embed_cells
from sclitmus.models.port import Behaviour
from sclitmus.models.tokens import Batch, Tokens
from sclitmus.models.unfinished import Unfinished, set_stream, stream_state
from sclitmus.models.weights import Weights


@dataclass
class Sums:
    """A port whose embedding is known: sum and number of a cell's counts, plus one draw."""

    behaviour: Behaviour = "fixed"
    network: Any = field(default_factory=torch.nn.Identity)
    space: GeneSpace = field(default_factory=lambda: GeneSpace(tuple("ABCDEFGH"), "symbol"))
    together: int | None = None
    room: int = 10**9  # tokens that "memory" holds
    draws: bool = False
    dies_at: int | None = None  # block
    passes: list[int] = field(default_factory=list)
    blocks: int = 0

    @classmethod
    def load(cls, weights: Weights, behaviour: Behaviour) -> Self:
        raise NotImplementedError

    @classmethod
    def build(
        cls, config: Mapping[str, Any], genes: Genes, weights: Any, behaviour: Any, seed: int
    ) -> Self:
        raise NotImplementedError

    def tokenise(
        self, counts: sparse.csr_matrix, lookup: np.ndarray, rng: np.random.Generator
    ) -> Tokens:
        self.blocks += 1
        if self.dies_at is not None and self.blocks > self.dies_at:
            raise KeyboardInterrupt
        offsets, rows, values = known_entries(counts, lookup)
        drawn = (
            rng.spawn(1)[0].random(len(offsets) - 1) if self.draws else np.zeros(len(offsets) - 1)
        )
        return Tokens(offsets, {"gene": rows, "value": values}, {"drawn": drawn})

    def cells(self, batch: Batch) -> torch.Tensor:
        if batch.offsets[-1] > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        self.passes.append(batch.n_cells)
        pairs = zip(batch.offsets, batch.offsets[1:], strict=False)
        rows = [[float(batch.columns["value"][a:b].sum()), b - a] for a, b in pairs]
        return torch.cat([torch.tensor(rows), batch.cells["drawn"][:, None].float()], dim=1)

    def gene_states(self, batch: Batch) -> torch.Tensor:
        return batch.columns["value"][:, None]

    def gene_table(self) -> np.ndarray:
        raise NotImplementedError

    def partition(self, cells: Dataset) -> Iterable[np.ndarray] | None:
        return None


def cells_of(n: int, seed: int = 0) -> Dataset:
    counts = np.random.default_rng(seed).poisson(1.0, (n, 8)).astype(np.float32)
    counts[:, 0] += 1
    genes = Genes(tuple("ABCDEFGH"), ("",) * 8, "human")
    return Dataset("d", sparse.csr_matrix(counts), genes, tuple(map(str, range(n))))


def expected(cells: Dataset) -> np.ndarray:
    dense = cells.counts.toarray()
    return np.stack([dense.sum(1), (dense > 0).sum(1)], axis=1)


def embed(
    port: Sums, cells: Dataset, unfinished: Unfinished | None = None, **settings: Any
) -> np.ndarray:
    compute = Compute(device="cpu", rng=np.random.default_rng(3), **settings)
    return embed_cells(port, cells, port.space.match(cells.genes), compute, unfinished)


@pytest.mark.parametrize("tokens", [1, 7, 100, 10**6])
def test_rows_are_the_cells_in_order_however_they_are_batched(tokens: int) -> None:
    cells = cells_of(200)
    assert np.array_equal(embed(Sums(), cells, batch_tokens=tokens)[:, :2], expected(cells))


def test_no_batch_holds_more_tokens_than_allowed_unless_one_cell_does() -> None:
    port = Sums()
    embed(port, cells_of(100), batch_tokens=20)
    assert max(port.passes) <= 20
    assert sum(port.passes) == 100


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    cells = cells_of(300)
    port = Sums(room=50)
    assert np.array_equal(embed(port, cells, batch_tokens=10_000)[:, :2], expected(cells))
    assert "out of memory on cpu" in caplog.text
    # It learned: a batch of that size is not tried again.
    assert len(caplog.records) <= 7  # 2600 tokens halved until they are 50 or fewer


def test_a_cell_that_does_not_fit_alone_is_an_error_that_says_so() -> None:
    with pytest.raises(MethodError, match=r"a single cell with \d tokens in all do not fit"):
        embed(Sums(room=2), cells_of(5))


def test_other_runtime_errors_are_not_taken_for_memory() -> None:
    port = Sums()
    port.cells = lambda batch: (_ for _ in ()).throw(RuntimeError("shapes differ"))  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="shapes differ"):
        embed(port, cells_of(5))


def test_cells_that_belong_together_are_never_split_or_sorted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inference, "BLOCK_CELLS", 64)
    port = Sums(together=25)
    embed(port, cells_of(130), batch_tokens=1)
    assert port.passes == [25, 25, 25, 25, 25, 5]


@pytest.mark.parametrize("draws", [False, True])
def test_an_interrupted_run_goes_on_from_the_last_finished_block(
    draws: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path))
    monkeypatch.setattr(inference, "BLOCK_CELLS", 50)
    cells = cells_of(240)
    whole = embed(Sums(draws=draws), cells)
    with pytest.raises(KeyboardInterrupt):
        embed(Sums(draws=draws, dies_at=3), cells, Unfinished("me"))
    assert list(tmp_path.rglob("*.npz"))
    port = Sums(draws=draws)
    assert np.array_equal(embed(port, cells, Unfinished("me")), whole)
    assert port.blocks == 5 - 3
    assert not list(tmp_path.rglob("*.npz"))  # finished: nothing is left behind


@pytest.mark.parametrize("damage", ["cut", "zip version"])
def test_a_damaged_block_is_made_again(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path))
    monkeypatch.setattr(inference, "BLOCK_CELLS", 50)
    cells = cells_of(200)
    with pytest.raises(KeyboardInterrupt):
        embed(Sums(dies_at=3), cells, Unfinished("me"))
    for path in tmp_path.rglob("*.npz"):
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x01\x02") + 6] = 247
        path.write_bytes(data[:100] if damage == "cut" else data)
    assert np.array_equal(embed(Sums(), cells, Unfinished("me"))[:, :2], expected(cells))


def test_a_cache_that_cannot_be_written_costs_only_the_resuming(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path / "file"))
    cells = cells_of(20)
    assert np.array_equal(embed(Sums(), cells, Unfinished("me"))[:, :2], expected(cells))


def test_a_stream_is_put_back_to_the_draw_and_to_the_child() -> None:
    rng = np.random.default_rng(5)
    rng.random(3)
    rng.spawn(2)
    state = stream_state(rng)
    a, b = rng.random(4), rng.spawn(1)[0].random(4)
    other = np.random.default_rng(5)
    set_stream(other, state)
    assert np.array_equal(other.random(4), a)
    assert np.array_equal(other.spawn(1)[0].random(4), b)


def test_progress_is_told_in_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "BLOCK_CELLS", 50)
    heard: list[tuple[str, int, int]] = []
    with activity.heard_by(lambda *word: heard.append(word)):
        embed(Sums(), cells_of(120))
    assert heard == [("embedding", 50, 120), ("embedding", 100, 120), ("embedding", 120, 120)]


def test_unknown_devices_and_precisions_are_refused() -> None:
    with pytest.raises(MethodError, match="device 'gpu' cannot be used"):
        _ = Compute(device="gpu").place
    with pytest.raises(MethodError, match="precision 'half'"):
        _ = Compute(device="cpu", precision="half").dtype


def test_tokens_made_in_parts_are_those_made_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    cells = cells_of(1000)
    port = Sums()
    lookup = port.space.match(cells.genes).lookup
    rng = np.random.default_rng(0)
    parts = inference.tokenised(port, cells.counts, lookup, rng)
    assert port.blocks == 3
    whole = port.tokenise(cells.counts, lookup, rng)
    assert np.array_equal(parts.offsets, whole.offsets)
    for name in whole.columns:
        assert np.array_equal(parts.columns[name], whole.columns[name])
    official = Sums(behaviour="official")
    inference.tokenised(official, cells.counts, lookup, rng)
    assert official.blocks == 1  # its random numbers come in order
