"""Metrics that are one thing in several settings: ``macro_f1.k1``, ``macro_f1.k2`` … ``.all``."""

from collections.abc import Sequence
from dataclasses import dataclass

from sclitmus.report.content import ReportData
from sclitmus.report.text import sentence_case


@dataclass(frozen=True)
class Member:
    """A metric of a family.

    Attributes
    ----------
    setting
        What stands behind the dot of its id; empty for the plain one.
    words
        What its title has beyond that of the family, as a heading.
    """

    metric: str
    setting: str
    words: str


@dataclass(frozen=True)
class Family:
    """Metrics whose ids agree before the dot, with what their titles have in common."""

    id: str
    title: str
    members: tuple[Member, ...]

    @property
    def twofold(self) -> str:
        """The one setting beside the plain metric, if that is what the family is."""
        settings = sorted(member.setting for member in self.members)
        return settings[1] if len(settings) == 2 and not settings[0] else ""


def families(data: ReportData, metrics: Sequence[str]) -> tuple[Family, ...]:
    """Group metrics by what stands before the dot, in the order of their first ones."""
    groups: dict[str, list[str]] = {}
    for metric in metrics:
        groups.setdefault(family_of(metric), []).append(metric)
    return tuple(_family(data, id, members) for id, members in groups.items())


def family_of(metric: str) -> str:
    """Return what stands before the dot."""
    return metric.partition(".")[0]


def setting_of(metric: str) -> str:
    """Return what stands behind the dot."""
    return metric.partition(".")[2]


def _family(data: ReportData, id: str, metrics: Sequence[str]) -> Family:
    titles = [card.title if (card := data.metric(m)) else m for m in metrics]
    parts = [title.split(", ") for title in titles]
    n_shared = 0
    for same in zip(*parts, strict=False):
        if len(set(same)) > 1:
            break
        n_shared += 1
    shared = ", ".join(parts[0][:n_shared])
    return Family(
        id,
        shared or id,
        tuple(
            Member(metric, setting_of(metric), sentence_case(", ".join(part[n_shared:])))
            for metric, part in zip(metrics, parts, strict=True)
        ),
    )
