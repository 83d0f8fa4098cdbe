"""A foundation model trained further to name cell types, in the arms that say what earned it.

{published, random weights} × {head, last block, all of it} × {gene vectors kept, zeroed, shuffled}:
Boiarsky et al. 2024, doi:10.1038/s42256-024-00949-w. One arm is one method. Recipes are in
`recipes`, heads in `heads`, what is trained in `arms`, the loop in `training`.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from jaxtyping import Float32, Float64, Int64

from sclitmus.core.activity import say
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import MethodError, NotApplicable
from sclitmus.models.frozen import FrozenModel
from sclitmus.models.held_out import SHARE, HeldOut, held_out
from sclitmus.models.recipes import FOR_HEAD, LEAST_STEPS, RECIPES, Recipe

if TYPE_CHECKING:
    from sclitmus.models.heads import Classifier
    from sclitmus.models.inference import Compute
    from sclitmus.models.lessons import Course, Source
    from sclitmus.models.training import History, Plan

WORDS = {
    "head": "head on frozen encoder",
    "last": "last block and head trained",
    "full": "fine-tuned",
    "zeroed": "gene vectors zeroed",
    "shuffled": "gene vectors shuffled",
    "flatten": "published head",
}
# Names of number formats: those of Fabric -> those of inference.
FORMATS = {"32-true": "float32", "bf16-mixed": "bfloat16", "16-mixed": "float16"}
LOOKED_AT = 2048  # training cells, at most: for the scale of their vectors, and for collapse


@dataclass(frozen=True)
class Learned:
    """What fit leaves: the trained network and how it went.

    Attributes
    ----------
    model
        With the trained encoder.
    only
        The class that is predicted of every cell, if there is one.
    """

    model: FrozenModel
    classifier: "Classifier"
    held: HeldOut
    history: "History"
    repeats: int
    only: str


@dataclass(frozen=True, eq=False)
class FineTuned:
    """A foundation model as an annotator: encoder and head, trained on labelled cells.

    Parameters
    ----------
    model
        The encoder. With random weights these are drawn anew by every fit.
    train
        ``"head"``: the head alone. ``"last"``: also the last block and the normalisation behind
        it. ``"full"``: all.
    genes
        ``"kept"``; ``"zeroed"``: all static gene vectors are zero and stay so; ``"shuffled"``:
        exchanged among the genes before training.
    head
        ``"pooled"`` reads one vector per cell, by the head of the recipe; ``"flatten"`` is scBERT's
        published one, which reads every position.
    epochs, lr, batch_cells, clip
        None takes the recipe's (`recipes`).
    patience
        Epochs without a lower validation loss before it stops; 0 never stops; None: the recipe's.
    accumulate
        Batches per step of the optimiser.
    weighted
        Whether a cell of class c counts n / (n_classes n_c) in the loss, not 1.
    validation
        Share of the cells that is held out to choose the epoch; see `held_out`. 0 trains on all,
        for all epochs.
    least_steps
        An epoch passes over few cells several times, for at least so many steps in all.
    precision
        ``"32-true"``, ``"bf16-mixed"`` or ``"16-mixed"``; ``"auto"`` is bf16-mixed on a GPU and
        32-true elsewhere.
    device
        ``"auto"`` takes a GPU where there is one. Not part of the cache key.
    batch_tokens
        Positions per pass through the network; not part of the cache key.
    embed_once
        Whether the head alone is trained on vectors that are computed once; the same but for time.
    """

    model: FrozenModel
    train: Literal["head", "last", "full"]
    genes: Literal["kept", "zeroed", "shuffled"] = "kept"
    head: Literal["pooled", "flatten"] = "pooled"
    epochs: int | None = None
    lr: float | None = None
    batch_cells: int | None = None
    clip: float | None = None
    patience: int | None = None
    accumulate: int = 1
    weighted: bool = False
    validation: float = SHARE
    least_steps: int = LEAST_STEPS
    precision: str = "auto"
    device: str = "auto"
    batch_tokens: int | None = None
    embed_once: bool = True
    learned: Learned | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def recipe(self) -> Recipe:
        """What is published for this model, with this one's settings.

        Raises
        ------
        MethodError
            If the model cannot be trained here, or not in this way.
        """
        if self.model.port not in RECIPES or self.model.behaviour != "fixed":
            known = ", ".join(target.partition(":")[2] for target in RECIPES)
            raise MethodError(
                f"{self.model.card.id} was to be trained further",
                f"one of {known}, as `fixed`: batch-mates must not influence a cell",
                "take another model, leave out @official, or use its embedding as it is",
            )
        recipe = RECIPES[self.model.port]
        if self.head == "flatten" and recipe.head != "scbert":
            raise MethodError(
                f"{self.model.card.id} with the head flatten", "scBERT, whose head it is", "pooled"
            )
        if self.train == "head" and self.head == "pooled":
            recipe = replace(recipe, **FOR_HEAD)
        own = ("epochs", "lr", "batch_cells", "clip", "patience")
        return replace(recipe, **{n: x for n in own if (x := getattr(self, n)) is not None})

    @property
    def encoder(self) -> FrozenModel:
        """The model, read as fine-tuning reads it, not loaded yet."""
        config = {**self.recipe.config, **self.model.config}
        return replace(self.model, config=config, loaded=None, drawn=None)

    @property
    def unavailable(self) -> str:
        """Why it cannot run whatever the cells, or nothing."""
        return self.model.unavailable

    @property
    def untrained(self) -> "FineTuned | None":
        """The same arm from random weights; None where there is nothing to control."""
        twin = self.model.untrained
        return None if twin is None else replace(self, model=twin, learned=None)

    @property
    def card(self) -> MethodCard:
        recipe, model = self.recipe, self.encoder.card
        arm = [self.train, *(x for x in (self.genes, self.head) if x not in ("kept", "pooled"))]
        params = {n: x for n, x in model.params.items() if n not in ("precision", "init_seed")}
        schedule = recipe.schedule
        params |= {
            "head": recipe.head if self.head == "pooled" else self.head,
            "optimiser": recipe.optimiser,
            "lr": recipe.lr,
            "schedule": f"{schedule.kind} {schedule.gamma} {schedule.warmup}",
            "epochs": recipe.epochs,
            "batch_cells": recipe.batch_cells,
            "accumulate": self.accumulate,
            "weight_decay": recipe.weight_decay,
            "clip": recipe.clip,
            "patience": recipe.patience or None,
            "weighted": self.weighted,
            "validation": self.validation,
            "least_steps": self.least_steps,
            "precision": self.precision,
        }
        twin = "" if self.model.random_init else "@".join([self.model.id, "random_init", *arm])
        return replace(
            model,
            id="@".join([model.id, *arm]),
            twin=twin,
            title=", ".join([model.title, *(WORDS[part] for part in arm)]),
            deterministic=False,
            params=params,
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Train on cells that have a name in role "label".

        Draws the same random weights, head, held-out cells and order of cells for every arm.

        Raises
        ------
        NotApplicable
            If there is a single class, the weights are not there, or the model knows too few of
            the genes.
        MethodError
            If training diverges.
        """
        from sclitmus.models import training
        from sclitmus.models.unfinished import stream_state

        label = train.role("label")
        if len(label.names) < 2:
            raise NotApplicable(f"all cells are {' '.join(label.names)!r}: nothing to tell apart")
        compute = self._compute
        snapshot = training.Snapshot(
            train.content_hash,
            self.card.fingerprint,
            str(stream_state(rng)),
            f"{compute.place} {compute.dtype} {self._embeds_once}",
        )
        weights, head, genes, cells, order = rng.spawn(5)
        model = replace(self.encoder, init_seed=int(weights.integers(2**31))).fit(train, rng)
        classifier, unblock = self._classifier(model.loaded, len(label.names), head, genes)
        held = held_out(train, cells, self.validation)
        course = self._course(train, model, classifier, held, int(order.integers(2**31)))
        module = classifier.head if self._embeds_once else classifier
        history = training.train(
            module,
            course.steps,
            course.n_steps,
            course.loss,
            self._plan,
            (lambda: course.judged(module, held.held, compute)) if len(held.held) else None,
            snapshot,
        )
        unblock()
        classifier.requires_grad_(False)
        rows = held.held if len(held.held) else _spread(held.learned)
        named = np.unique(course.answers(module, rows, compute)[0].argmax(1))
        truly = np.unique(label.codes[rows])
        only = label.names[int(named[0])] if len(named) == 1 < len(truly) else ""
        return replace(
            self, learned=Learned(model, classifier, held, history, course.repeats, only)
        )

    def predict_scores(self, cells: Dataset) -> Float64[np.ndarray, "n_cells n_classes"]:
        """Return logits, the classes in the order of the training cells' label names."""
        learned = self._learned()
        logits = self._over(cells, learned.model, learned.classifier, "predicting")
        return logits.astype(np.float64)

    def features(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        """Return the pooled vector of each cell, after training."""
        model = self._learned().model
        port: Any = model.loaded
        return self._over(cells, model, port.pooled, "embedding")

    @property
    def collapsed(self) -> bool:
        """Whether it predicts one class whatever the cell; never retried, always said."""
        return bool(self._learned().only)

    def remarks(self, cells: Dataset) -> tuple[str, ...]:
        """Say what a reader must know: genes matched, cells held out, epochs, collapse."""
        learned = self._learned()
        n, history = len(learned.held.learned), learned.history
        chosen = "the best" if history.validation else "the last"
        said = [
            str(learned.model.match(cells.genes)),
            f"trained on {n} cells; {learned.held.said}",
            f"{history.epochs} of at most {self.recipe.epochs} epochs; "
            f"the weights are of {chosen}, {history.best}",
        ]
        if learned.repeats > 1:
            said.append(f"few cells: each epoch passes over them {learned.repeats} times")
        if learned.only:
            said.append(f"collapsed: predicts only {learned.only!r}")
        return tuple(said)

    def _learned(self) -> Learned:
        if self.learned is None:
            raise MethodError(
                f"{self.card.id} was asked before it was trained",
                "a fitted method",
                "ask what fit returns: method.fit(train, rng).predict_scores(cells)",
            )
        return self.learned

    def _classifier(
        self, port: Any, n_classes: int, for_head: np.random.Generator, for_genes: Any
    ) -> tuple["Classifier", Callable[[], None]]:
        """Put a head on the encoder as this arm has it; also return what ends a block of genes."""
        from sclitmus.models.arms import change_genes, open_up
        from sclitmus.models.heads import Classifier, make_head

        open_up(port, self.train)
        unblock = change_genes(port, self.genes, for_genes)
        kind = self.recipe.head if self.head == "pooled" else "flatten"
        length, seed = getattr(port, "length", 0), int(for_head.integers(2**31))
        head = make_head(kind, port.width, length, n_classes, seed)
        classifier = Classifier(port, head, frozen=self.train == "head")
        return classifier.to(self._compute.place), unblock

    def _course(
        self, train: Dataset, model: FrozenModel, classifier: "Classifier", held: HeldOut, seed: int
    ) -> "Course":
        """Plan which cells make which step."""
        from sclitmus.models.lessons import Course, Embedded, Tokenised, class_weights

        label, place = train.role("label"), self._compute.place
        codes = label.codes.astype(np.int64)
        weights = class_weights(codes[held.learned], len(label.names), self.weighted)
        vectors: np.ndarray | None = None
        if self._embeds_once:
            vectors = self._over(train, model, classifier.read, "embedding")
        if self.head == "pooled":
            some = _spread(held.learned)
            if vectors is not None:
                classifier.scale_by(vectors[some])
            else:
                classifier.scale_by(self._over(train.take(some), model, classifier.read, "scaling"))
        source: Source
        if vectors is not None:
            source = Embedded(vectors, codes, weights, place)
        else:
            lookup = model.match(train.genes).lookup
            port = model.loaded
            source = Tokenised(train, codes, weights, port, lookup, place, self.batch_tokens)
        step_cells = self.recipe.batch_cells * self.accumulate
        in_all = math.ceil(len(held.learned) / step_cells) * self.recipe.epochs
        repeats = max(1, math.ceil(self.least_steps / in_all))
        return Course(source, held.learned, step_cells, repeats, seed)

    def _over(
        self, cells: Dataset, model: FrozenModel, forward: Callable[[Any], Any], activity: str
    ) -> Float32[np.ndarray, "n_cells d"]:
        """Return what a forward pass gives for every cell, in memory bounded by a block of them."""
        from sclitmus.models.inference import BLOCK_CELLS, Passes, tokenised

        port: Any = model.loaded
        lookup = model.match(cells.genes).lookup
        passes = Passes(port, self._compute)
        out: list[np.ndarray] = []
        done = 0
        for counts in cells.blocks(BLOCK_CELLS):
            tokens = tokenised(port, counts, lookup, np.random.default_rng(0))  # draws none
            out.append(passes.over(tokens, forward))
            done += counts.shape[0]
            say(activity, done, cells.n_cells)
        return np.concatenate(out)

    @property
    def _embeds_once(self) -> bool:
        return self.embed_once and self.train == "head" and self.head == "pooled"

    @property
    def _compute(self) -> "Compute":
        from sclitmus.models.inference import Compute

        if self.precision not in ("auto", *FORMATS):
            raise MethodError(
                f"precision {self.precision!r}", f"auto, {', '.join(FORMATS)}", "choose one of them"
            )
        precision = FORMATS.get(self.precision, "auto")
        return Compute(self.device, precision, self.batch_tokens)

    @property
    def _plan(self) -> "Plan":
        import torch

        from sclitmus.models.inference import DTYPES
        from sclitmus.models.training import Plan

        recipe, compute = self.recipe, self._compute
        by_type: Mapping[torch.dtype, str] = {DTYPES[own]: name for name, own in FORMATS.items()}
        return Plan(
            recipe.optimiser,
            recipe.lr,
            recipe.epochs,
            recipe.schedule,
            recipe.weight_decay,
            recipe.clip,
            recipe.patience or None,
            str(compute.place),
            by_type[compute.dtype],
        )


def _spread(rows: Int64[np.ndarray, "n_rows"]) -> Int64[np.ndarray, "n_some"]:
    """Take some rows from everywhere: cells may lie sorted by type."""
    some = np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(np.int64)
    return rows[some]
