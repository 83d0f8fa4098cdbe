"""The canary: an embedding trained on the very labels it is scored on.

A three-layer perceptron with a narrow last layer, as Islander is (Wang, Leskovec and Regev 2025,
doi:10.1038/s41587-025-02702-z). It pulls each type into its own island: scores of cell-type
separation are near perfect, the distances between types mean nothing any more, and no new data
would be embedded so. A score that cannot tell it from a good model can be gamed.
"""

import warnings
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from jaxtyping import Float32

from sclitmus.baselines.fitted import require_fitted
from sclitmus.baselines.pca import PCA
from sclitmus.core.dataset import Dataset
from sclitmus.core.method import MethodCard
from sclitmus.errors import NotApplicable

if TYPE_CHECKING:
    from sklearn.neural_network import MLPClassifier


@dataclass(frozen=True)
class Supervised:
    """Components, the deviation they are divided by, and the network trained on them."""

    pca: PCA
    scale: float
    network: "MLPClassifier"


@dataclass(frozen=True, eq=False)
class LabelCanary:
    """Last hidden layer of a small classifier of principal components.

    Parameters
    ----------
    hidden
        Units of the three layers; the last is the embedding. The narrow end is what makes
        islands: there is room for the label and little else.
    max_epochs
        Passes over the labelled cells; it stops earlier where the loss no longer falls.
    """

    hidden: tuple[int, int, int] = (128, 128, 16)
    max_epochs: int = 200
    supervised: Supervised | None = field(default=None, kw_only=True, repr=False)  # set by fit

    @property
    def card(self) -> MethodCard:
        return MethodCard(
            id="label_canary",
            kind="control",
            part="canary",
            title="Label-trained canary",
            summary="A network trained on the labels it is scored on: shows what can be gamed.",
            needs=("label",),
            sees_labels=True,
            deterministic=False,
            params={"hidden": "-".join(map(str, self.hidden)), "max_epochs": self.max_epochs},
            doi="10.1038/s41587-025-02702-z",
        )

    def fit(self, train: Dataset, rng: np.random.Generator) -> Self:
        """Train on the cells that have a label.

        Raises
        ------
        NotApplicable
            If fewer than two labels occur, or PCA is not applicable.
        """
        label = train.role("label")
        if len(label.names) < 2:
            raise NotApplicable(f"a classifier needs at least 2 labels; got {len(label.names)}")
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.neural_network import MLPClassifier

        pca = PCA().fit(train, rng)
        z = pca.embed(train)
        scale = float(z.std())  # one number for all components, so that the first stay the widest
        network = MLPClassifier(
            self.hidden,
            activation="relu",
            max_iter=self.max_epochs,
            random_state=int(rng.integers(2**31)),
        )
        labelled = label.codes >= 0
        with warnings.catch_warnings():
            # Its purpose is to overfit; that the loss still falls is of no interest.
            warnings.simplefilter("ignore", ConvergenceWarning)
            network.fit(z[labelled] / scale, label.codes[labelled])
        return replace(self, supervised=Supervised(pca, scale, network))

    def embed(self, cells: Dataset) -> Float32[np.ndarray, "n_cells d"]:
        supervised = require_fitted(self.supervised, self.card.id)
        z = supervised.pca.embed(cells) / supervised.scale
        network = supervised.network
        for weight, bias in zip(network.coefs_[:-1], network.intercepts_[:-1], strict=True):
            z = np.maximum(z @ weight + bias, 0.0)
        return z.astype(np.float32)
