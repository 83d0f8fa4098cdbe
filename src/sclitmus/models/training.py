"""One loop in which every network is trained: steps, rates, the best epoch, exact resuming.

What is trained, on what and for which loss is given. Lightning's Fabric does precision and device.
A loss that is no number ends a training at once, by name. After every epoch all that the rest
depends on is written down, so that a killed training goes on and ends, on a CPU in float32, with
the same bits.
"""

import logging
import math
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import Tensor, nn

from sclitmus.core.activity import say
from sclitmus.errors import MethodError
from sclitmus.models.checkpoint import DAMAGE
from sclitmus.models.rates import Schedule
from sclitmus.models.unfinished import Unfinished

PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")  # as Fabric calls them

B = TypeVar("B")


@dataclass(frozen=True)
class Plan:
    """How a network is trained.

    Parameters
    ----------
    optimiser
        ``"adam"``, or ``"adamw"``, whose weight decay is apart from the gradient.
    lr
        Learning rate, which `schedule` changes.
    epochs
        At most.
    clip
        Longest gradient: a longer one is shortened to this norm. None shortens none.
    patience
        Epochs without a lower validation loss after which training stops; None goes on to the end.
        Either way the weights of the best epoch are taken.
    device
        ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
    precision
        One of `PRECISIONS`.
    """

    optimiser: Literal["adam", "adamw"]
    lr: float
    epochs: int
    schedule: Schedule = field(default_factory=Schedule)
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = None
    device: str = "cpu"
    precision: str = "32-true"


@dataclass(frozen=True)
class Pass(Generic[B]):
    """What goes through the network at once, and its weight in the mean loss of its step."""

    batch: B
    weight: float


Step = Sequence[Pass[B]]  # passes whose gradients make one step of the optimiser
Loss = Callable[[nn.Module, B], Tensor]  # the mean over a batch, a scalar with a gradient


@dataclass(frozen=True)
class History:
    """What happened: losses per epoch, and the epoch (from 1) whose weights the network has."""

    best: int
    losses: tuple[float, ...]
    validation: tuple[float, ...] = ()

    @property
    def epochs(self) -> int:
        """Epochs that were run."""
        return len(self.losses)


class Snapshot:
    """Where a training stands after its last whole epoch, in the folder of unfinished work.

    Where the folder cannot be written, nothing is kept and nothing fails.

    Parameters
    ----------
    identity
        Everything that the training depends on: cells, model, settings, random stream.
    """

    def __init__(self, *identity: str) -> None:
        self._unfinished = Unfinished("training", *identity)
        self.file = self._unfinished.folder / "training.pt"

    def find(self) -> dict[str, Any] | None:
        """Return what was kept, if it is there and whole."""
        try:
            return dict(torch.load(self.file, map_location="cpu", weights_only=True))
        except DAMAGE:
            return None

    def keep(self, state: Mapping[str, Any]) -> None:
        """Write it down, whole or not at all."""
        written = self.file.with_name(f"training.{os.getpid()}.new")
        try:
            written.parent.mkdir(parents=True, exist_ok=True)
            torch.save(dict(state), written)
            written.replace(self.file)
        except (OSError, RuntimeError):  # torch's writer says RuntimeError where a disk is full
            with suppress(OSError):
                written.unlink()

    def drop(self) -> None:
        """Forget it: the training is over."""
        self._unfinished.drop()


def train(
    module: nn.Module,
    steps: Callable[[int], Iterable[Step[B]]],
    n_steps: int,
    loss: Loss[B],
    plan: Plan,
    validate: Callable[[], float] | None = None,
    snapshot: Snapshot | None = None,
) -> History:
    """Train those parameters of a network that require a gradient, in place.

    Parameters
    ----------
    module
        Its mode (train or eval) stays as it is.
    steps
        Epoch (from 0) -> its steps. The same epoch must give the same steps, or a resumed training
        is another one.
    n_steps
        Number of steps of an epoch.
    loss
        Gets the network and a batch, in the precision of the plan.
    validate
        Returns the loss on cells that are not trained on, of the network as it is then. The weights
        of the epoch where it is lowest are put back in the end.
    snapshot
        Where to keep the state between epochs, and to look for one to go on from.

    Raises
    ------
    MethodError
        If the loss stops being a number, or the device has too little memory.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    fabric = _fabric(plan)
    # With several orders of a sum the last bits differ; on a CPU the one that repeats costs little.
    with _repeatable(fabric.device):
        fabric.to_device(module)
        optimiser = fabric.setup_optimizers(_optimiser(plan, trained.values()))
        run = _Run(fabric, module, optimiser, trained, plan, n_steps, loss)
        run.go_on_from(snapshot.find() if snapshot is not None else None)
        try:
            while not run.over:
                run.epoch(steps)
                if validate is not None:
                    run.judge(validate())
                if snapshot is not None:
                    snapshot.keep(run.state())
        except MethodError:
            if snapshot is not None:  # it would end in the same way
                snapshot.drop()
            raise
    run.take_best()
    say("training", plan.epochs * n_steps, plan.epochs * n_steps)
    if snapshot is not None:
        snapshot.drop()
    return History(run.best, tuple(run.losses), tuple(run.validation))


class _Run(Generic[B]):
    """A training under way: all of its state, in `state`."""

    def __init__(
        self,
        fabric: Any,
        module: nn.Module,
        optimiser: Any,
        trained: Mapping[str, nn.Parameter],
        plan: Plan,
        n_steps: int,
        loss: Loss[B],
    ) -> None:
        self.fabric, self.module, self.optimiser = fabric, module, optimiser
        self.trained, self.plan, self.n_steps, self.loss = trained, plan, n_steps, loss
        self.losses: list[float] = []
        self.validation: list[float] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best(self) -> int:
        """Epoch, from 1, with the lowest validation loss; the last where there is none."""
        if not self.validation:
            return len(self.losses)
        return 1 + min(range(len(self.validation)), key=self.validation.__getitem__)

    @property
    def over(self) -> bool:
        done = len(self.losses)
        tired = self.plan.patience is not None and done - self.best >= self.plan.patience
        return done >= self.plan.epochs or (bool(self.validation) and tired)

    def epoch(self, steps: Callable[[int], Iterable[Step[B]]]) -> None:
        epoch, n_total = len(self.losses), self.plan.epochs * self.n_steps
        total = 0.0
        for at, step in enumerate(steps(epoch)):
            number = epoch * self.n_steps + at
            rate = self.plan.lr * self.plan.schedule.factor(number, self.n_steps, n_total)
            total += self._step(step, rate)
            say("training", number + 1, n_total)
        self.losses.append(total / self.n_steps)

    def _step(self, step: Step[B], rate: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad()
        weight = sum(part.weight for part in step)
        mean = 0.0
        for part in step:
            try:
                with self.fabric.autocast():
                    loss = self.loss(self.module, part.batch) * (part.weight / weight)
                mean += self._number(loss.item(), rate, "loss")
                self.fabric.backward(loss)
            except torch.OutOfMemoryError as error:
                raise MethodError(
                    f"training runs out of memory on {self.fabric.device}",
                    "room for the cells of one pass and what their gradients need",
                    "set batch_tokens lower: the result stays the same but for rounding",
                ) from error
        if self.plan.clip is not None:
            self.fabric.clip_gradients(
                self.module, self.optimiser, max_norm=self.plan.clip, error_if_nonfinite=False
            )
        self.optimiser.step()
        return mean

    def judge(self, loss: float) -> None:
        self.validation.append(self._number(loss, self.plan.lr, "validation loss"))
        if self.best == len(self.losses):
            self.best_weights = _copied(self.trained)

    def _number(self, loss: float, rate: float, what: str) -> float:
        if not math.isfinite(loss):
            epoch = len(self.losses) + (what == "loss")
            raise MethodError(
                f"training diverged at epoch {epoch}: {what} is {loss}, learning rate {rate:.3g}",
                "a finite loss",
                "count this seed as failed; another lr or precision is another method",
            )
        return loss

    def take_best(self) -> None:
        with torch.no_grad():
            for name, weights in self.best_weights.items():
                self.trained[name].copy_(weights)

    def state(self) -> dict[str, Any]:
        return {
            "trained": _copied(self.trained),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.fabric.strategy.precision.state_dict(),  # of 16-mixed
            "losses": self.losses,
            "validation": self.validation,
            "best": self.best_weights,
        }

    def go_on_from(self, state: Mapping[str, Any] | None) -> None:
        if state is None:
            return
        with torch.no_grad():
            for name, weights in state["trained"].items():
                self.trained[name].copy_(weights)
        self.optimiser.load_state_dict(state["optimiser"])
        self.fabric.strategy.precision.load_state_dict(state["scaler"])
        self.losses, self.validation = list(state["losses"]), list(state["validation"])
        self.best_weights = dict(state["best"])


def _copied(parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}


def _optimiser(plan: Plan, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    kind: type[torch.optim.Adam] = (
        torch.optim.AdamW if plan.optimiser == "adamw" else torch.optim.Adam
    )
    return kind(list(parameters), lr=plan.lr, weight_decay=plan.weight_decay)


def _fabric(plan: Plan) -> Any:
    from lightning.fabric import Fabric

    if plan.precision not in PRECISIONS:
        raise MethodError(
            f"precision {plan.precision!r} in training", ", ".join(PRECISIONS), "choose one of them"
        )
    place = torch.device(plan.device)
    devices = 1 if place.index is None else [place.index]
    precision: Any = plan.precision
    # It would tell of the precision on the terminal.
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        return Fabric(accelerator=place.type, devices=devices, precision=precision)
    finally:
        logger.setLevel(level)


@contextmanager
def _repeatable(device: torch.device) -> Iterator[None]:
    """Have gradients of shared rows added in one order, on a CPU; it is a switch of the process."""
    if device.type != "cpu":
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warns)
