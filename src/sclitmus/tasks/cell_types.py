"""Are the known cell types separable in the frozen embedding?

Protocol of Kedzierska et al. 2025 (doi:10.1186/s13059-025-03574-x): cluster the embedding, compare
the clusters and the distances with the labels, no training. Beside their AvgBIO, which picks the
clustering resolution with the labels in hand, stand the same scores at a fixed resolution, the
purity of each cell's neighbourhood, and the relation of types to each other, which a supervised
embedding distorts while its AvgBIO rises.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.metric import Metric
from sclitmus.core.record import Score
from sclitmus.core.split import Split
from sclitmus.core.task import Outcome, TaskCard
from sclitmus.errors import NotApplicable
from sclitmus.metrics import suite
from sclitmus.tasks.half_samples import half_samples
from sclitmus.tasks.zero_shot import REFERENCES, scales, scored_embedding

METRICS = (
    "avg_bio",
    "nmi_oracle",
    "ari_oracle",
    "asw",
    "avg_bio_fixed",
    "nmi",
    "ari",
    "nmi_kmeans",
    "ari_kmeans",
    "purity",
    "clisi",
    "isolated_labels",
    "relations",
)


@dataclass(frozen=True)
class CellTypes:
    """The task; `extra` are plugins' metrics, `compat` is ``""`` or ``"scib"``."""

    extra: tuple[Metric, ...] = ()
    compat: Literal["", "scib"] = ""

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="cell_types",
            question="Are the known cell types separable in the frozen embedding?",
            headline="avg_bio",
            beside=("avg_bio_fixed", "purity", "relations"),
            references=REFERENCES,
            needs=("label",),
            doi="10.1186/s13059-025-03574-x",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return scales(METRICS, self.extra, self.compat)

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Score the labelled cells: all of them, then random halves (`half_samples`).

        Raises
        ------
        NotApplicable
            Without a label column, or with fewer than two types among the labelled cells.
        """
        label = dataset.role("label")
        rows = np.flatnonzero(label.codes >= 0)
        n_types = len(np.unique(label.codes[rows]))
        if n_types < 2:
            raise NotApplicable(f"separating types needs two of them; the labels hold {n_types}")
        return half_samples(dataset, rows, rng)

    def run(
        self,
        embedding: Float32[np.ndarray, "n_cells d"],
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> Outcome:
        """Nothing is trained: the answer is the embedding of the split's cells and their labels."""
        return Outcome(split, scored_embedding(embedding, dataset, split, self.compat))

    def score(self, outcome: Outcome) -> list[Score]:
        return suite.score_all(outcome.answer, self.metrics)
