"""The sentences about labels, each from a frame that was written by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
from example import SCHEMA

from sclitmus.core.dataset import DatasetCard
from sclitmus.core.method import MethodCard
from sclitmus.core.task import TaskCard
from sclitmus.execution.result import DatasetInfo
from sclitmus.report.answers import answers
from sclitmus.report.content import ReportData
from sclitmus.stats.analysis import Analysis
from sclitmus.stats.effects import SCHEMA as EFFECTS
from sclitmus.tasks.annotation import Annotation
from sclitmus.tasks.novel_types import NovelTypes

TASK = Annotation(shots=(1, 4, 16), fractions=(0.5,))
NOVEL = NovelTypes()
FEW = ("How many labelled cells are needed?", "Do they know what they do not know?")
PRETRAINING, TRAINING = "Does pretraining help?", "Did training succeed?"

MINE = MethodCard("mine", "foundation", "contender", "Mine", twin="mine@random_init")
TWIN = MethodCard("mine@random_init", "control", "contender", "Mine, untrained")
L1 = MethodCard("lr_l1", "baseline", "bar", "L1")
L2 = MethodCard("lr_l2", "baseline", "bar", "L2")
KNN = MethodCard("knn", "baseline", "bar", "kNN")

Compared = tuple[str, str, str, str, float, float]
"""metric, method, against, reference, difference, p after Holm."""


def study(
    values: Mapping[tuple[str, str], float | None],
    compared: Sequence[Compared] = (),
    *,
    methods: tuple[MethodCard, ...] = (MINE, L1, L2),
    task: TaskCard = TASK.card,
    notes: tuple[Mapping[str, str], ...] = (),
    records: Sequence[Mapping[str, Any]] = (),
    verdict: Mapping[str, str] | None = None,
    reasons: Mapping[str, str] | None = None,
) -> ReportData:
    """A study of one task on one dataset: (metric, method) -> score, and its comparisons."""
    why = reasons or {}
    intervals = pl.DataFrame(
        [
            {
                "dataset": "d",
                "task": task.id,
                "metric": metric,
                "unit": "dataset",
                "method": method,
                "status": "ok" if value is not None else "failed",
                "value": value,
                "low": None if value is None or method in why else value - 0.01,
                "high": None if value is None or method in why else value + 0.01,
                "reason": why.get(method, ""),
            }
            for (metric, method), value in values.items()
        ],
        schema_overrides={"value": pl.Float64, "low": pl.Float64, "high": pl.Float64},
    )
    rows = [
        {
            "dataset": "d",
            "task": task.id,
            "metric": metric,
            "method": method,
            "against": against,
            "reference": reference,
            "difference": difference,
            "low": difference - 0.02,
            "high": difference + 0.02,
            "p_holm": p,
            "mde": 0.03,
        }
        for metric, method, against, reference, difference, p in compared
    ]
    verdicts = pl.DataFrame(
        [{"dataset": "d", "task": task.id, "method": "mine"} | dict(verdict or {})],
        schema=dict.fromkeys(("dataset", "task", "method", "verdict", "bar"), pl.String),
    )
    nothing = pl.DataFrame()
    metrics = (*TASK.metrics.values(), *NOVEL.metrics.values())
    return ReportData(
        "study",
        pl.DataFrame(records, schema=SCHEMA),
        nothing,
        Analysis(verdicts, intervals, pl.DataFrame(rows, schema=EFFECTS), nothing, nothing),
        methods,
        (task,),
        metrics,
        (DatasetInfo("d", 100, 50, "human", DatasetCard(), (), {}, {}, {}),),
        notes=notes,
    )


def said(data: ReportData, question: str) -> list[str]:
    return next((list(a.sentences) for a in answers(data, "d") if a.question == question), [])


def scores(setting: str, mine: float, l1: float, l2: float) -> dict[tuple[str, str], float]:
    named = {"mine": mine, "lr_l1": l1, "lr_l2": l2}
    return {(f"macro_f1.{setting}", method): value for method, value in named.items()}


def both(setting: str, to_l1: tuple[float, float], to_l2: tuple[float, float]) -> list[Compared]:
    return [
        (f"macro_f1.{setting}", "mine", "bar", reference, difference, p)
        for reference, (difference, p) in (("lr_l1", to_l1), ("lr_l2", to_l2))
    ]


ALL_SCORES = (
    scores("k1", 0.50, 0.49, 0.40)
    | scores("k4", 0.60, 0.50, 0.55)
    | scores("k16", 0.70, 0.60, 0.69)
    | scores("p50", 0.80, 0.80, 0.82)
    | scores("all", 0.80, 0.80, 0.90)
)


def test_the_smallest_number_is_that_at_which_both_regressions_are_beaten() -> None:
    data = study(
        ALL_SCORES,
        [
            *both("k1", (0.01, 0.40), (0.10, 0.001)),  # one of the two is not enough
            *both("k4", (0.10, 0.001), (0.05, 0.05)),  # 0.05 itself is
            *both("k16", (0.10, 0.001), (0.01, 0.60)),
            *both("p50", (0.0, 1.0), (-0.02, 0.051)),
            *both("all", (0.0, 1.0), (-0.10, 0.001)),
        ],
    )
    assert said(data, FEW[0]) == [
        "Mine needs 4 labelled cells per type to beat the better of the two logistic regressions "
        "on genes (macro-F1 0.600 against 0.550 of L2, difference +0.050 [0.030, 0.070]); "
        "this is no longer shown with 16 cells per type and 50% of the training cells, it is "
        "behind with all training cells (macro-F1 0.800 against 0.900 of L2, difference −0.100 "
        "[−0.120, −0.080])."
    ]


def test_ahead_throughout_and_ahead_only_with_many() -> None:
    sure = ((0.1, 0.001), (0.1, 0.001))
    ahead = study(
        ALL_SCORES, [c for s in ("k1", "k4", "k16", "p50", "all") for c in both(s, *sure)]
    )
    (sentence,) = said(ahead, FEW[0])
    assert sentence.startswith("Mine needs 1 labelled cell per type to beat")
    still = "; it is still ahead with 4 and 16 cells per type, 50% of the training cells and all"
    assert still in sentence
    level = ((0.0, 1.0), (0.0, 1.0))
    late = study(
        ALL_SCORES,
        [
            *(c for s in ("k1", "k4", "k16") for c in both(s, *level)),
            *(c for s in ("p50", "all") for c in both(s, *sure)),
        ],
    )
    (sentence,) = said(late, FEW[0])
    assert sentence.startswith("Mine needs 50% of the training cells to beat")
    assert "; it is still ahead with all training cells (macro-F1 0.800 against" in sentence


def test_never_ahead_says_how_far_it_was_looked_and_where_it_is_behind() -> None:
    level, behind = ((0.1, 0.001), (0.0, 1.0)), ((0.1, 0.001), (-0.1, 0.001))
    data = study(
        ALL_SCORES,
        [*both("k1", *level), *both("k4", *level), *both("k16", *behind), *both("all", *behind)],
    )
    assert said(data, FEW[0]) == [
        "Mine is not shown to beat the better of the two logistic regressions on genes with any "
        "number, up to 16 cells per type and all training cells: no difference is shown with 1 "
        "and 4 cells per type, it is behind with 16 cells per type and all training cells (with "
        "all training cells macro-F1 0.800 against 0.900 of L2, difference −0.100 [−0.120, "
        "−0.080]), it cannot be said with 50% of the training cells (they were not scored on the "
        "same half-samples)."
    ]


def test_what_cannot_be_said_has_its_reason() -> None:
    only = {key: value for key, value in ALL_SCORES.items() if key[1] != "lr_l1"}
    beat = "It cannot be said how many Mine needs to beat the better of the two logistic "
    assert said(study(only), FEW[0]) == [f"{beat}regressions on genes: L1 did not run."]
    failed = ALL_SCORES | {key: None for key in ALL_SCORES if key[1] == "lr_l2"}
    assert said(study(failed, reasons={"lr_l2": "out of memory"}), FEW[0]) == [
        f"{beat}regressions on genes: L2 failed: out of memory."
    ]
    bare = study(ALL_SCORES, reasons={"mine": "no half-samples were scored"})
    assert said(bare, FEW[0]) == [
        f"{beat}regressions on genes: Mine has no interval: no half-samples were scored."
    ]


def test_a_task_that_does_not_apply_says_why() -> None:
    record = {
        "dataset": "d",
        "task": "annotation",
        "method": "mine",
        "metric": "macro_f1.few",
        "status": "not_applicable",
        "note": "the dataset has no label column",
    }
    data = study({("macro_f1.few", "mine"): None}, records=[record])
    assert said(data, FEW[0]) == ["It cannot be said: the dataset has no label column."]


def test_without_models_the_simple_methods_are_compared_at_both_ends() -> None:
    simple = {key: value for key, value in ALL_SCORES.items() if key[1] != "mine"}
    data = study(
        simple | {("macro_f1.k1", "knn"): 0.7, ("macro_f1.all", "knn"): 0.7},
        [
            ("macro_f1.k1", "knn", "best bar", "lr_l1", 0.21, 0.001),
            ("macro_f1.all", "lr_l2", "best bar", "lr_l1", 0.10, 0.2),
        ],
        methods=(L1, L2, KNN),
    )
    assert said(data, FEW[0]) == [
        "Macro-F1 with 1 cell per type: kNN leads the simple methods (0.700 [0.690, 0.710]), and "
        "is shown to be better than each of the others.",
        "Macro-F1 with all training cells: L2 leads the simple methods (0.900 [0.890, 0.910]), "
        "but is not shown to be better than L1 (difference +0.100 [0.080, 0.120]).",
    ]


def novel(
    to_l1: tuple[float, float], to_l2: tuple[float, float], verdict: Mapping[str, str]
) -> list[str]:
    name = "auroc.max_softmax"
    values = {
        (name, "mine"): 0.80,
        (name, "lr_l1"): 0.70,
        (name, "lr_l2"): 0.75,
        ("ece", "mine"): 0.20,
        ("ece.scaled", "mine"): 0.05,
        ("ece", "lr_l2"): 0.10,
    }
    compared = [
        (name, "mine", "bar", "lr_l1", *to_l1),
        (name, "mine", "bar", "lr_l2", *to_l2),
    ]
    return said(
        study(values, compared, task=NOVEL.card, methods=(MINE, L1, L2, KNN), verdict=verdict),
        FEW[1],
    )


def test_unknown_types_are_held_against_the_better_regression_and_the_bar() -> None:
    calibration = (
        " Calibration error: 0.200 for Mine (0.050 after temperature scaling) and 0.100 for L2."
    )
    numbers = "(AUROC, maximum softmax probability: 0.800 against 0.750 of L2, difference "
    rivals = "the better of the two logistic regressions on genes"
    clears = {"verdict": "clears the bar", "bar": "knn"}
    assert novel((0.1, 0.001), (0.05, 0.01), clears) == [
        f"Mine is better than {rivals} {numbers}+0.050 [0.030, 0.070]); it clears the bar, set by "
        f"kNN.{calibration}"
    ]
    below = {"verdict": "below the bar", "bar": "knn"}
    (sentence,) = novel((0.1, 0.001), (-0.05, 0.01), below)
    assert sentence.startswith(f"Mine is worse than {rivals}")
    assert "; it is below the bar, set by kNN." in sentence
    open_question = {"verdict": "cannot say", "bar": "knn"}
    (sentence,) = novel((0.1, 0.001), (0.05, 0.2), open_question)
    assert sentence.startswith(f"Mine is not shown to be better or worse than {rivals}")
    assert "; whether it clears the bar, set by kNN, cannot be said." in sentence
    (sentence,) = novel((0.1, 0.001), (0.05, 0.01), {"verdict": "below the floor", "bar": "knn"})
    assert "; it is below the floor. Cal" in sentence


def test_a_model_without_a_score_for_unknown_types_is_not_compared() -> None:
    values = {("auroc.max_softmax", "mine"): None, ("auroc.max_softmax", "lr_l2"): 0.7}
    data = study(values, task=NOVEL.card, reasons={"mine": "killed"})
    assert said(data, FEW[1]) == ["It cannot be said of Mine: Mine failed: killed."]
    values = {("auroc.max_softmax", "mine"): 0.8, ("auroc.max_softmax", "lr_l2"): 0.7}
    data = study(values, task=NOVEL.card)
    assert said(data, FEW[1]) == [
        "Mine: AUROC, maximum softmax probability 0.800 [0.790, 0.810]; it cannot be compared "
        "with the better of the two logistic regressions on genes: L1 did not run."
    ]


def test_without_models_unknown_types_are_about_the_simple_methods() -> None:
    name = "auroc.max_softmax"
    values = {(name, "lr_l1"): 0.7, (name, "lr_l2"): 0.8, ("ece", "lr_l1"): 0.1}
    data = study(values, task=NOVEL.card, methods=(L1, L2))
    assert said(data, FEW[1]) == [
        "AUROC, maximum softmax probability: L2 leads the simple methods (0.800 [0.790, 0.810]).",
        "Calibration error: 0.100 for L1.",
    ]


def twins(difference: float, p: float) -> list[str]:
    name = "macro_f1.few"
    values = {(name, "mine"): 0.6, (name, "mine@random_init"): 0.5}
    compared = [(name, "mine", "twin", "mine@random_init", difference, p)]
    return said(study(values, compared, methods=(MINE, TWIN)), PRETRAINING)


def test_pretraining_is_judged_by_the_untrained_twin() -> None:
    title = "(macro-F1, mean over 1, 4, 16 cells per type: 0.600 against 0.500, difference "
    assert twins(0.1, 0.01) == [
        f"Annotation: Mine is better than Mine, untrained {title}+0.100 [0.080, 0.120])."
    ]
    assert twins(-0.1, 0.01)[0].startswith("Annotation: Mine is worse than Mine, untrained (")
    assert twins(0.01, 0.3) == [
        f"Annotation: no difference is shown between Mine and Mine, untrained {title}+0.010 "
        "[−0.010, 0.030]); one smaller than 0.030 would be missed more often than 1 time in 5."
    ]
    lost = study({("macro_f1.few", "mine"): 0.6}, methods=(MINE, TWIN))
    assert said(lost, PRETRAINING) == [
        "Annotation: it cannot be said of Mine: Mine, untrained did not run."
    ]
    assert said(study({("macro_f1.few", "mine"): 0.6}, methods=(MINE,)), PRETRAINING) == []


def test_a_twin_is_not_asked_how_many_cells_it_needs() -> None:
    data = study(ALL_SCORES, methods=(MINE, TWIN, L1, L2))
    assert len(said(data, FEW[0])) == 1


FINE_TUNING = TaskCard(
    "fine_tuning", "Does pretraining matter?", "macro_f1", (), (), ("label",), protocol="Annotator"
)


def seeds(
    notes: Sequence[str] = (), failed: Sequence[int] = (), collapsed: Sequence[int] | None = None
) -> list[str]:
    """What is said of ten seeds; without `collapsed` the task has no such metric."""
    base: dict[str, object] = {
        "dataset": "d",
        "task": "fine_tuning",
        "method": "mine",
        "split": "all",
    }
    records = [
        base
        | {
            "metric": "macro_f1",
            "seed": seed,
            "status": "failed" if seed in failed else "ok",
            "note": "training diverged" if seed in failed else "",
        }
        for seed in range(10)
    ]
    records += [
        base
        | {"metric": "collapsed", "seed": seed, "status": "ok", "value": float(seed in collapsed)}
        for seed in range(10)
        if collapsed is not None and seed not in failed
    ]
    data = study(
        {("macro_f1", "mine"): 0.5},
        task=FINE_TUNING,
        methods=(MINE,),
        records=records,
        notes=tuple({"dataset": "d", "method": "mine", "note": note} for note in notes),
    )
    return said(data, TRAINING)


def test_lost_and_collapsed_seeds_are_counted() -> None:
    text = "fine_tuning: collapsed: predicts only 'B'"
    assert seeds([text, "fine_tuning: well"], failed=(0, 7, 9), collapsed=(1, 4)) == [
        "Mine, fine tuning: in 3 of 10 seeds it failed (training diverged); in 2 of 10 seeds it "
        "collapsed (predicts only 'B')."
    ]
    assert seeds(collapsed=(3,)) == ["Mine, fine tuning: in 1 of 10 seeds it collapsed."]
    assert seeds([text]) == ["Mine, fine tuning: it collapsed at least once (predicts only 'B')."]
    assert seeds(["annotation: collapsed: predicts only 'B'"], collapsed=()) == []
