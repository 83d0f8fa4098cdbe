"""Are batches mixed without losing the types?

Mixing alone is easy: noise mixes perfectly. Keeping types alone is easy too: do nothing. So the
headline is the harmonic mean of two sides, and both sides always stand beside it: *mixing*, the
mean of BRAS and CiLISI, the two batch scores that hold up (Rautenstrauch & Ohler 2025,
doi:10.1038/s41587-025-02743-4), and *conservation*, AvgBIO.
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
    "integration",
    "mixing",
    "conservation",
    "bras",
    "cilisi",
    "ilisi",
    "kbet",
    "batch_asw",
    "pcr",
    "pcr_comparison",
    "graph_connectivity",
    "overall_scib",
)


@dataclass(frozen=True)
class Integration:
    """The task; `extra` are plugins' metrics, `compat` is ``""`` or ``"scib"``."""

    extra: tuple[Metric, ...] = ()
    compat: Literal["", "scib"] = ""

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="integration",
            question="Are batches mixed without losing the cell types?",
            headline="integration",
            beside=("mixing", "conservation"),
            references=REFERENCES,
            needs=("label", "batch"),
            doi="10.1186/s13059-025-03574-x",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return scales(METRICS, self.extra, self.compat)

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Score the cells whose label and batch are both known: all, then random halves.

        Raises
        ------
        NotApplicable
            Without a label or batch column, with fewer than two batches, or where no type
            occurs in two batches, so that mixing within types has no meaning.
        """
        label, batch = dataset.role("label"), dataset.role("batch")
        rows = np.flatnonzero((label.codes >= 0) & (batch.codes >= 0))
        n_batches = len(np.unique(batch.codes[rows]))
        if n_batches < 2:
            raise NotApplicable(f"mixing batches needs two of them; the cells hold {n_batches}")
        pairs = np.unique(np.stack([label.codes[rows], batch.codes[rows]]), axis=1)
        if len(np.unique(pairs[0])) == pairs.shape[1]:
            raise NotApplicable(
                "every type occurs in one batch only, so batch and type cannot be told apart"
            )
        return half_samples(dataset, rows, rng)

    def run(
        self,
        embedding: Float32[np.ndarray, "n_cells d"],
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> Outcome:
        """Nothing is trained: the answer is the embedding of the split's cells."""
        return Outcome(split, scored_embedding(embedding, dataset, split, self.compat))

    def score(self, outcome: Outcome) -> list[Score]:
        return suite.score_all(outcome.answer, self.metrics)
