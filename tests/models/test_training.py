"""The training loop beside plain torch, and what it does when it is interrupted or diverges."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sclitmus.core import activity
from sclitmus.errors import MethodError
from sclitmus.models.rates import Schedule
from sclitmus.models.training import History, Pass, Plan, Snapshot, Step, train

X = torch.from_numpy(np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32))
Y = (X[:, 0] + X[:, 1] ** 2 > 0.5).long()
N_STEPS = 5
Rows = np.ndarray


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Threads of a busy machine wait for each other longer than such networks compute."""
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path / "cache"))
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


def network(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 2))


def rows_of(epoch: int) -> list[Rows]:
    return np.array_split(np.random.default_rng(epoch).permutation(40), N_STEPS)


def whole(epoch: int) -> list[Step[Rows]]:
    return [[Pass(rows, len(rows))] for rows in rows_of(epoch)]


def loss(module: nn.Module, rows: Rows) -> Tensor:
    return nn.functional.cross_entropy(module(X[rows]), Y[rows])


def weights(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(weights(a), weights(b), strict=True))


def trained(plan: Plan, **settings: Any) -> tuple[nn.Module, History]:
    module = network()
    return module, train(module, settings.pop("steps", whole), N_STEPS, loss, plan, **settings)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_it_is_the_loop_that_one_would_write_in_torch(kind: Any) -> None:
    plan = Plan(kind, 0.01, 3, Schedule("decay", gamma=0.5), weight_decay=0.1, clip=0.3)
    module, history = trained(plan)
    own = network()
    make = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    optimiser = make(own.parameters(), lr=0.01, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, 1, 0.5)
    means = []
    for epoch in range(3):
        losses = []
        for rows in rows_of(epoch):
            optimiser.zero_grad()
            mean = loss(own, rows)
            mean.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(own.parameters(), 0.3)
            optimiser.step()
            losses.append(mean.item())
        schedule.step()
        means.append(np.mean(losses))
    for x, y in zip(weights(module), weights(own), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-7)
    np.testing.assert_allclose(history.losses, means, rtol=1e-6)
    assert (history.epochs, history.best, history.validation) == (3, 3, ())


def test_passes_of_a_step_add_up_to_the_step() -> None:
    def in_parts(epoch: int) -> list[Step[Rows]]:
        return [[Pass(part, len(part)) for part in (r[:1], r[1:4], r[4:])] for r in rows_of(epoch)]

    plan = Plan("adam", 0.01, 2)
    one, parts = trained(plan)[0], trained(plan, steps=in_parts)[0]
    for x, y in zip(weights(one), weights(parts), strict=True):
        torch.testing.assert_close(x, y, rtol=0, atol=1e-6)


def test_frozen_parameters_stay() -> None:
    module = network()
    next(module.children()).requires_grad_(False)
    train(module, whole, N_STEPS, loss, Plan("adam", 0.01, 1))
    before, after = weights(network()), weights(module)
    assert [torch.equal(x, y) for x, y in zip(before, after, strict=True)] == [True] * 2 + [
        False
    ] * 2


def test_the_best_epoch_is_taken_and_patience_ends_it() -> None:
    told = iter([3.0, 1.0, 2.0, 1.5, 0.1])
    module, history = trained(Plan("adam", 0.01, 5, patience=2), validate=lambda: next(told))
    assert (history.epochs, history.best, history.validation) == (4, 2, (3.0, 1.0, 2.0, 1.5))
    assert same(module, trained(Plan("adam", 0.01, 2))[0])
    told = iter([3.0, 1.0, 2.0, 1.5, 0.1])
    assert trained(Plan("adam", 0.01, 5), validate=lambda: next(told))[1].best == 5


def test_scbert_s_rates_are_those_of_its_scheduler() -> None:
    schedule = Schedule("cycles")
    rates = [1e-4 * schedule.factor(7 * epoch + 3, 7, 700) for epoch in range(10)]
    told = [1.0e-6, 2.1e-5, 4.1e-5, 6.0e-5, 8.0e-5, 1.0e-4, 9.8e-5, 9.1e-5, 8.0e-5, 6.6e-5]
    np.testing.assert_allclose(rates, told, rtol=0.02)
    assert schedule.factor(15, 1, 100) == pytest.approx(0.01)  # a new cycle …
    assert schedule.factor(20, 1, 100) == pytest.approx(0.9)  # … with a lower peak


def test_linear_rates_rise_and_fall_to_nothing() -> None:
    schedule = Schedule("linear", warmup=4)
    rates = [schedule.factor(step, 10, 100) for step in (0, 1, 2, 4, 52, 99, 100)]
    assert rates == pytest.approx([0, 0.25, 0.5, 1, 0.5, 1 / 96, 0])
    short = [Schedule("linear", warmup=500).factor(step, 5, 20) for step in (0, 1, 2)]
    assert short == pytest.approx([0, 0.5, 1])  # a tenth of 20 steps
    assert Schedule().factor(99, 10, 100) == 1


@pytest.mark.parametrize("where", ["loss", "validation loss"])
def test_divergence_is_named_and_leaves_nothing(where: str) -> None:
    def broken(module: nn.Module, rows: Rows) -> Tensor:
        mean = loss(module, rows)
        heard.append(0)
        return mean * math.nan if where == "loss" and len(heard) == 8 else mean

    heard: list[int] = []
    told = iter([1.0, math.inf if where == "validation loss" else 1.0, 1.0])
    snapshot = Snapshot("me")
    plan = Plan("adam", 0.01, 3)
    with pytest.raises(MethodError, match=rf"diverged at epoch 2: {where} is (nan|inf), learning"):
        train(network(), whole, N_STEPS, broken, plan, lambda: next(told), snapshot)
    assert not snapshot.file.exists()


class Killed(BaseException):
    pass


def killed_at(step: int) -> Callable[[str, int, int], None]:
    def listener(what: str, done: int, total: int) -> None:
        if done == step:
            raise Killed

    return listener


@pytest.mark.parametrize("step", [1, 5, 6, 13, 19, 20])
def test_an_interrupted_training_ends_with_the_same_bits(step: int) -> None:
    plan = Plan("adamw", 0.05, 4, Schedule("decay", gamma=0.7), weight_decay=0.01, clip=1.0)
    second = weights(trained(replace(plan, epochs=2))[0])

    def run(module: nn.Module, name: str) -> History:
        def distance() -> float:  # so that the second epoch is the best
            return sum(float((x - y).norm()) for x, y in zip(weights(module), second, strict=True))

        return train(module, whole, N_STEPS, loss, plan, distance, Snapshot(name))

    quiet, begun = network(), network()
    history = run(quiet, "quiet")
    assert history.best == 2
    with pytest.raises(Killed), activity.heard_by(killed_at(step)):
        run(begun, "killed")
    kept = step > N_STEPS  # an epoch was over
    assert Snapshot("killed").file.exists() == kept
    again = network(7 if kept else 0)  # the weights are kept too
    heard: list[int] = []
    with activity.heard_by(lambda what, done, total: heard.append(done)):
        assert run(again, "killed") == history
    assert same(again, quiet)
    assert heard[0] == (step - 1) // N_STEPS * N_STEPS + 1  # not from the beginning
    assert not Snapshot("killed").file.parent.exists()


def test_the_state_goes_on_to_the_last_bit_without_validation() -> None:
    plan = Plan("adamw", 0.05, 4, Schedule("linear", warmup=3))
    with pytest.raises(Killed), activity.heard_by(killed_at(13)):
        trained(plan, snapshot=Snapshot("me"))
    assert same(trained(plan, snapshot=Snapshot("me"))[0], trained(plan)[0])


@pytest.mark.parametrize("damage", ["cut", "text", "empty"])
def test_a_damaged_snapshot_is_begun_anew(damage: str) -> None:
    snapshot = Snapshot("me")
    with pytest.raises(Killed), activity.heard_by(killed_at(12)):
        train(network(), whole, N_STEPS, loss, Plan("adam", 0.01, 3), None, snapshot)
    data = snapshot.file.read_bytes()
    snapshot.file.write_bytes({"cut": data[: len(data) // 2], "text": b"no", "empty": b""}[damage])
    module = trained(Plan("adam", 0.01, 3), snapshot=snapshot)[0]
    assert same(module, trained(Plan("adam", 0.01, 3))[0])


def test_a_folder_that_cannot_be_written_costs_only_the_resuming(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCLITMUS_CACHE", str(tmp_path / "file"))
    assert trained(Plan("adam", 0.01, 2), snapshot=Snapshot("me"))[1].epochs == 2


def test_progress_is_told_in_steps_and_ends_even_when_it_stops_early() -> None:
    heard: list[tuple[str, int, int]] = []
    with activity.heard_by(lambda *word: heard.append(word)):
        trained(Plan("adam", 0.01, 9, patience=1), validate=iter([1.0, 2.0]).__next__)
    assert heard == [("training", step, 45) for step in [*range(1, 11), 45]]


def test_mixed_precision_trains_float32_weights() -> None:
    module, history = trained(Plan("adam", 0.05, 8, precision="bf16-mixed"))
    assert {p.dtype for p in module.parameters()} == {torch.float32}
    assert history.losses[-1] < history.losses[0]
    assert not same(module, trained(Plan("adam", 0.05, 8))[0])  # it was another precision


def test_the_process_is_left_as_it_was() -> None:
    seen: list[bool] = []

    def looking(module: nn.Module, rows: Rows) -> Tensor:
        seen.append(torch.are_deterministic_algorithms_enabled())
        return loss(module, rows)

    before = torch.get_rng_state()
    train(network(), whole, N_STEPS, looking, Plan("adam", 0.01, 1))
    assert seen == [True] * N_STEPS
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_an_unknown_precision_is_refused() -> None:
    with pytest.raises(MethodError, match=r"precision 'half'[\s\S]*bf16-mixed"):
        trained(Plan("adam", 0.01, 1, precision="half"))


def test_memory_that_runs_out_says_what_to_do() -> None:
    def too_large(module: nn.Module, rows: Rows) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(MethodError, match=r"out of memory on cpu[\s\S]*batch_tokens"):
        train(network(), whole, N_STEPS, too_large, Plan("adam", 0.01, 1))
