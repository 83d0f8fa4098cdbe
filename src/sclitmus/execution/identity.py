"""What a result depends on, as keys: equal inputs give an equal key, and nothing else does.

A method's key is made from the cells *as that method sees them*, so that a corrected label
column re-scores an embedding but does not make it again, and an embedding that is brought along
re-runs no other method.
"""

import hashlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.core.split import Split
from sclitmus.core.task import Task

# Raised by hand when the code of a stage changes what it computes.
EMBEDDING_VERSION = 1
SCORES_VERSION = 1
ANSWER_VERSION = 1
PROJECTION_VERSION = 1

LABEL_ROLE = "label"
OF_LABELS = (LABEL_ROLE, "lineage")  # what tells the type of a cell, if only the kind of type


def digest(*parts: str) -> str:
    """Hash a list of strings: 32 hex digits, different for different lists."""
    state = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode()
        state.update(len(data).to_bytes(8, "little"))
        state.update(data)
    return state.hexdigest()


@dataclass(frozen=True)
class Fingerprint:
    """Hashes of a dataset's pieces, each computed when first asked for."""

    dataset: Dataset

    @cached_property
    def counts(self) -> str:
        """Counts, gene names and cell ids, without roles and ready-made embeddings."""
        return replace(self.dataset, roles={}, embeddings={}).content_hash

    @cached_property
    def roles(self) -> Mapping[str, str]:
        return {
            name: digest(name, column.codes.tobytes().hex(), *column.names)
            for name, column in sorted(self.dataset.roles.items())
        }

    @cached_property
    def embeddings(self) -> Mapping[str, str]:
        return {
            name: digest(
                name, str(z.shape), hashlib.sha256(np.ascontiguousarray(z).data).hexdigest()
            )
            for name, z in sorted(self.dataset.embeddings.items())
        }


def seen_by(card: MethodCard, dataset: Dataset) -> Dataset:
    """Return the dataset as a method may see it.

    Labels, and lineages, are there only for controls whose card says so, ready-made embeddings
    only for the methods that hand one on: of kind ``supplied``, with its ``name`` among their
    params.
    """
    visible = dataset if card.sees_labels else dataset.without(*OF_LABELS)
    return visible if _hands_on(card) else replace(visible, embeddings={})


def _hands_on(card: MethodCard) -> str:
    return str(card.params.get("name", "")) if card.kind == "supplied" else ""


def embedding_key(card: MethodCard, code: str, fingerprint: Fingerprint, seed: int) -> str:
    """Key of a method's embedding of a dataset.

    Parameters
    ----------
    code
        `code_of` the method where it is an object of the user's, else empty.
    seed
        Has no part in the key of a deterministic method.
    """
    roles = [
        value
        for name, value in fingerprint.roles.items()
        if card.sees_labels or name not in OF_LABELS
    ]
    return digest(
        f"embedding {EMBEDDING_VERSION}",
        card.fingerprint,
        code,
        "" if card.deterministic else str(seed),
        fingerprint.counts,
        *roles,
        fingerprint.embeddings.get(_hands_on(card), "") if _hands_on(card) else "",
    )


def scores_key(
    embedding_sha256: str, fingerprint: Fingerprint, task: Task, code: str, splits: Iterable[str]
) -> str:
    """Key of a task's scores of an embedding, which is known by its bytes."""
    return digest(
        f"scores {SCORES_VERSION}",
        embedding_sha256,
        fingerprint.counts,
        *fingerprint.roles.values(),
        f"{task.card.id} v{task.card.version}",
        code,
        *(f"{metric.id} v{metric.version}" for _, metric in sorted(task.metrics.items())),
        *splits,
    )


def annotator_key(card: MethodCard, code: str, fingerprint: Fingerprint, seed: int) -> str:
    """Key of a method that learns labels, on a dataset; `code` and `seed` as above."""
    return digest(
        f"annotator {ANSWER_VERSION}",
        card.fingerprint,
        code,
        "" if card.deterministic else str(seed),
        fingerprint.counts,
        *fingerprint.roles.values(),
    )


def answer_key(learner: str, fingerprint: Fingerprint, task: Task, code: str, split: Split) -> str:
    """Key of what a learner, known by its mark, predicted on a split."""
    return digest(
        f"answer {ANSWER_VERSION}",
        learner,
        fingerprint.counts,
        *fingerprint.roles.values(),
        f"{task.card.id} v{task.card.version}",
        code,
        split.key,
    )


def projection_key(embedding_sha256: str) -> str:
    """Key of the map of an embedding."""
    return digest(f"projection {PROJECTION_VERSION}", embedding_sha256)


def failure_key(embedding: str, task: str) -> str:
    """Key of the note that making an embedding, or scoring it with a task, failed."""
    return digest("failure", embedding, task)


def code_of(thing: object) -> str:
    """Hash the source and settings of an object that a user made.

    Its card promises nothing about edits made a minute ago in a notebook, and a stale result is
    worse than one computed twice.
    """
    import cloudpickle

    kind = type(thing)
    module = sys.modules.get(kind.__module__)
    try:
        whole = module is not None and getattr(module, "__file__", None)
        source = inspect.getsource(module) if module is not None and whole else ""
        source = source or inspect.getsource(kind)
    except (OSError, TypeError):  # typed into a console: the compiled class is all there is
        source = cloudpickle.dumps(kind).hex()
    state = cloudpickle.dumps(getattr(thing, "__dict__", None))
    return digest(kind.__qualname__, source, state.hex())
