"""Does a method say "unknown" for a type it never saw, and does its confidence mean anything?

Each type is held out in turn: it is not learned from, and its cells are among those tested. The
novelty of a cell is read from the same predictions in seven ways, for every method alike, so that
"the softmax of a shallow model is over-confident" (Yang et al. 2024,
doi:10.1038/s42256-024-00948-x) can be tested on both sides. Thresholds and temperatures are set on
validation cells of known types, never on the novel type.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import Annotator
from sclitmus.core.metric import Metric
from sclitmus.core.record import Absent, Score
from sclitmus.core.split import Replicate, Split
from sclitmus.core.task import Answer, TaskCard
from sclitmus.errors import NotApplicable, TaskError
from sclitmus.metrics import novelty
from sclitmus.tasks.distance_of_types import near_types
from sclitmus.tasks.halves import test_halves
from sclitmus.tasks.label_scores import Setting, Values, scores_of
from sclitmus.tasks.label_splits import ANNOTATORS, held_out_cells
from sclitmus.tasks.open_set_metrics import METRICS, NOT_MEASURED
from sclitmus.tasks.open_set_scores import curves, of_novel, on_knowns, places, temperature_of
from sclitmus.tasks.probe import predict

MIN_NOVEL = 5  # test cells of a type; fewer say nothing about whether it is recognised
MAX_HELD_OUT = 20  # types: each is learned without anew
VALIDATION_SHARE = 0.2  # of the cells, or donors, that are not tested


@dataclass(frozen=True)
class NovelTypes:
    """The task.

    Parameters
    ----------
    test_share
        Share of the donors, or of each type's cells, that is tested.
    most
        Number of types held out in turn; of more, a random choice.
    """

    test_share: float = 0.3
    most: int = MAX_HELD_OUT

    def __post_init__(self) -> None:
        if not (isinstance(self.most, int) and self.most >= 1 and 0 < self.test_share < 1):
            raise TaskError(
                f"novel_types with test_share {self.test_share}, most {self.most}",
                "a share between 0 and 1, and a whole number of types, 1 or more",
                "for example test_share = 0.3, most = 20",
            )

    @property
    def card(self) -> TaskCard:
        return TaskCard(
            id="novel_types",
            question="Does it know what it does not know?",
            headline="auroc.max_softmax",
            beside=("oscr.max_softmax", "ece", "known_accuracy"),
            references=ANNOTATORS,
            needs=("label",),
            protocol="Annotator",
            doi="10.1038/s42256-024-00948-x",
        )

    @property
    def metrics(self) -> Mapping[str, Metric]:
        return METRICS

    def splits(self, dataset: Dataset, rng: np.random.Generator) -> tuple[Split, ...]:
        """Hold out each type in turn, and each lineage where the dataset names them.

        Raises
        ------
        NotApplicable
            Without a label column, or where no type can be held out with two others left.
        """
        label = dataset.role("label")
        rest, test = held_out_cells(dataset, self.test_share, rng)
        learn, check = held_out_cells(dataset.take(rest), VALIDATION_SHARE, rng)
        train, validation = rest[learn], rest[check]
        n_tested = np.bincount(label.codes[test], minlength=len(label.names))
        types = np.flatnonzero(n_tested >= MIN_NOVEL)
        types = np.sort(rng.permutation(types)[: self.most])
        sets = {f"type:{label.names[code]}": np.array([code]) for code in types}
        sets |= _lineages(dataset, n_tested)
        splits = []
        for name, novel in sets.items():
            known = train[~np.isin(label.codes[train], novel)]
            learned = np.unique(label.codes[known])
            if len(learned) < 2:
                continue
            kept = np.isin(label.codes, learned)
            splits.append(
                Split(
                    f"without {name.partition(':')[2]}"
                    + (" lineage" if name.startswith("lineage") else ""),
                    test[kept[test] | np.isin(label.codes[test], novel)],
                    known,
                    validation=validation[kept[validation]],
                    held_out=name,
                )
            )
        if not splits:
            raise NotApplicable(
                f"holding a type out needs three types, one of them with {MIN_NOVEL} test cells"
            )
        return tuple(splits)

    def answer(
        self,
        method: "Float32[np.ndarray, 'n_cells d'] | Annotator",
        dataset: Dataset,
        split: Split,
        rng: np.random.Generator,
    ) -> tuple[Answer, tuple[str, ...]]:
        found = predict(method, dataset, split, rng)
        # Splits that were given may have cells of the novel type there: nothing is set on those.
        known = np.isin(dataset.role("label").codes[split.validation], found.classes)
        split = replace(split, validation=split.validation[known])
        answer = {
            "classes": found.classes,
            "test": found.test,
            "validation": found.validation[known],
        }
        answer["temperature"] = temperature_of(dataset, split, answer)
        if found.features is not None:
            train, test = found.features["train"], found.features["test"]
            learned = places(dataset, answer, split.train)
            answer["knn_distance"] = novelty.knn_distance(train, test)
            with suppress(NotApplicable):  # no type varies: one cell each, or a collapsed model
                answer["mahalanobis"] = novelty.mahalanobis(train, learned, test)
        return answer, found.remarks

    def replicates(
        self, dataset: Dataset, splits: Sequence[Split], rng: np.random.Generator
    ) -> tuple[Replicate, ...]:
        return tuple(half.replicate for half in test_halves(dataset, splits, rng))

    def score(
        self,
        dataset: Dataset,
        splits: Sequence[Split],
        answers: Sequence[Answer | Absent],
        rng: np.random.Generator,
    ) -> list[Score]:
        near = near_types(dataset, splits)

        def valued(split: Split, answer: Answer, mask: np.ndarray) -> Values:
            values = dict(on_knowns(dataset, split, answer, mask))
            values |= of_novel(dataset, split, answer, mask, near[split.held_out])
            return values

        drawn = {id: metric for id, metric in METRICS.items() if metric.unit != "bin"}
        setting = Setting(drawn, tuple(splits), tuple(answers))
        rows = scores_of(setting, valued, test_halves(dataset, splits, rng), NOT_MEASURED)
        return [*rows, *curves(dataset, splits, answers)]


def _lineages(dataset: Dataset, n_tested: np.ndarray) -> dict[str, np.ndarray]:
    """Return the types of each lineage that has two or more, where lineages are known."""
    if "lineage" not in dataset.roles:
        return {}
    label, lineage = dataset.role("label"), dataset.roles["lineage"]
    sets = {}
    for code, name in enumerate(lineage.names):
        types = np.unique(label.codes[(lineage.codes == code) & (label.codes >= 0)])
        if len(types) > 1 and n_tested[types].sum() >= MIN_NOVEL:
            sets[f"lineage:{name}"] = types
    return sets
