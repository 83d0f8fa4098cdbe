"""How the authors of each model, and those who compared them, fine-tune it: numbers, one place."""

from dataclasses import dataclass, field
from typing import Any, Literal

from sclitmus.models.rates import Schedule


@dataclass(frozen=True)
class Recipe:
    """Settings of a model's fine-tuning.

    Attributes
    ----------
    head
        Which head reads the pooled vector; see `heads.make_head`.
    config
        What fine-tuning changes in the model's card.
    """

    head: Literal["scbert", "scgpt", "bert"]
    optimiser: Literal["adam", "adamw"]
    lr: float
    epochs: int
    batch_cells: int
    schedule: Schedule
    weight_decay: float = 0.0
    clip: float | None = None
    patience: int | None = None
    config: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    # Cui et al. 2024, Tutorial_Annotation; the same in Boiarsky et al. 2024 (sc-foundation-eval):
    # lr 1e-4, StepLR 0.9 per epoch, 32 cells, the epoch with the lowest validation loss of 20,
    # gradients clipped to 1. Adam's eps there is 1e-4 in mixed precision; here it is torch's 1e-8.
    "sclitmus.models.scgpt:ScGPT": Recipe(
        head="scgpt",
        optimiser="adam",
        lr=1e-4,
        epochs=20,
        batch_cells=32,
        schedule=Schedule("decay", gamma=0.9),
        clip=1.0,
    ),
    # Theodoris et al. 2023, examples/cell_classification.ipynb: lr 5e-5, linear after 500 steps of
    # warm-up, 12 cells, 10 epochs, weight decay 0.001; clipped to 1 by default of transformers'
    # Trainer. BertForSequenceClassification reads the last layer, where the embedding is of the
    # one before.
    "sclitmus.models.geneformer:Geneformer": Recipe(
        head="bert",
        optimiser="adamw",
        lr=5e-5,
        epochs=10,
        batch_cells=12,
        schedule=Schedule("linear", warmup=500),
        weight_decay=0.001,
        clip=1.0,
        config={"emb_layer": 0},
    ),
    # Yang et al. 2022, finetune.py (lr 1e-4 in cycles, patience 10), with the 32 cells and 10
    # epochs of Boiarsky et al. 2024. Clipped to 1e6 there, which is not at all.
    "sclitmus.models.scbert:ScBERT": Recipe(
        head="scbert",
        optimiser="adam",
        lr=1e-4,
        epochs=10,
        batch_cells=32,
        schedule=Schedule("cycles"),
        patience=10,
    ),
}

# Ours, for the head alone on a frozen encoder, which nobody publishes: at the rates above it has
# not moved far when the epochs are over.
FOR_HEAD: dict[str, Any] = {
    "optimiser": "adam",
    "lr": 1e-3,
    "epochs": 50,
    "schedule": Schedule(),
    "weight_decay": 0.0,
    "patience": 10,
}
LEAST_STEPS = 500  # ours, of a training on few cells: its epochs pass over them several times
