"""How many labelled cells a model needs to beat logistic regression on genes, in sentences."""

from collections.abc import Iterator, Mapping, Sequence

import polars as pl

from sclitmus.report.content import ReportData
from sclitmus.report.families import families, family_of, setting_of
from sclitmus.report.learning_curves import learned_from
from sclitmus.report.rivals import BOTH, Standing, against, leading_bar, standing
from sclitmus.report.settings import Amount, amounts, in_words
from sclitmus.report.text import mid_sentence, sentence_case, spoken

Steps = Mapping[Amount, Standing]


def sentences(data: ReportData, dataset: str) -> Iterator[str]:
    """Say it of each model under test, for each task that varies how much is learned from."""
    for task in data.label_tasks:
        if "." not in data.headline(task) or not _amounts_of(data, task):
            continue
        steps = learned_from(data, dataset, task)
        if not steps:
            yield f"It cannot be said: {_why_none(data, dataset, task)}."
        elif not data.contenders:
            yield from _without_models(data, dataset, task, steps)
        else:
            for method in data.under_test:
                yield _sentence(data, dataset, task, method, steps)


def _sentence(
    data: ReportData, dataset: str, task: str, method: str, learned: Sequence[Amount]
) -> str:
    family = family_of(data.headline(task))
    steps = {a: standing(data, dataset, task, f"{family}.{a.name}", method) for a in learned}
    name = data.names[method]
    known = [a for a in steps if steps[a].state != "unknown"]
    if not known:
        whys = dict.fromkeys(step.why for step in steps.values())
        return f"It cannot be said how many {name} needs to beat {BOTH}: {'; '.join(whys)}."
    title = mid_sentence(families(data, [f"{family}.{a.name}" for a in known])[0].title)

    def numbers(a: Amount) -> str:
        found = against(data, dataset, task, f"{family}.{a.name}", steps[a].effect)
        return f"{title} {found}"

    first = next((a for a in known if steps[a].state == "ahead"), None)
    if first is None:
        told = _told(steps, {known[-1]: numbers(known[-1])}, _NEVER)
        return f"{name} is not shown to beat {BOTH} with any number, {_reach(known)}: {told}."
    text = f"{name} needs {_needed(first)} to beat {BOTH} ({numbers(first)})"
    later = {a: s for a, s in steps.items() if a.place > first.place}
    if later:
        last = max(later, key=lambda a: a.place)
        ends = {} if steps[last].state == "unknown" else {last: numbers(last)}
        text += f"; {_told(later, ends, _LATER)}"
    earlier = {a: s for a, s in steps.items() if a.place < first.place and s.state == "unknown"}
    if earlier:
        text += f"; {_told(earlier, {}, _LATER)}"
    return f"{text}."


_LATER = {
    "ahead": "it is still ahead with {}",
    "behind": "it is behind with {}",
    "open": "this is no longer shown with {}",
    "unknown": "it cannot be said with {}",
}
_NEVER = _LATER | {"open": "no difference is shown with {}"}


def _told(steps: Steps, numbers: Mapping[Amount, str], words: Mapping[str, str]) -> str:
    """Say how it stands with each amount, those of one state together, in order."""
    parts = []
    for state in dict.fromkeys(step.state for step in steps.values()):
        mine = [a for a in steps if steps[a].state == state]
        part = words[state].format(in_words(mine))
        inside = [numbers[a] for a in mine if a in numbers]
        if state == "unknown":
            inside = list(dict.fromkeys(steps[a].why for a in mine))
        elif inside and len(mine) > 1:
            inside = [f"with {in_words(mine[-1:])} {inside[0]}"]
        parts.append(f"{part} ({'; '.join(inside)})" if inside else part)
    return ", ".join(parts)


def _needed(amount: Amount) -> str:
    if amount.kind != "shots":
        return in_words([amount])
    return f"{amount.number:g} labelled {'cell' if amount.number == 1 else 'cells'} per type"


def _reach(known: Sequence[Amount]) -> str:
    """Return ``up to 16 cells per type and all training cells``."""
    shots = [a for a in known if a.kind == "shots"]
    rest = [a for a in known if a.kind != "shots"]
    parts = [f"up to {in_words(shots[-1:])}"] if shots else []
    parts += [in_words(rest[-1:])] if rest else []
    return " and ".join(parts)


def _without_models(
    data: ReportData, dataset: str, task: str, steps: Sequence[Amount]
) -> Iterator[str]:
    family = family_of(data.headline(task))
    title = families(data, [f"{family}.{a.name}" for a in steps])[0].title
    for amount in dict.fromkeys([steps[0], steps[-1]]):
        said = leading_bar(data, dataset, task, f"{family}.{amount.name}")
        if said:
            yield f"{title} with {in_words([amount])}: {said}."


def _amounts_of(data: ReportData, task: str) -> bool:
    """Whether the study has metrics of the headline's family for amounts learned from."""
    family = family_of(data.headline(task))
    mine = [m.id for m in data.metrics if family_of(m.id) == family]
    return bool(amounts(map(setting_of, mine)))


def _why_none(data: ReportData, dataset: str, task: str) -> str:
    rows = data.records.filter(pl.col("dataset") == dataset, pl.col("task") == task)
    notes = rows.filter(pl.col("note") != "")["note"].unique(maintain_order=True).to_list()
    return notes[0] if notes else f"{sentence_case(spoken(task))} has not run"
