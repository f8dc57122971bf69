"""How synthetic images count in a linear probe: as photographs, as a prior of their condition, or for their terms."""

import dataclasses

import numpy as np

from classification.knowledge_prior import Teachers
from classification.recipes import PRIOR_WEIGHT, USES


@dataclasses.dataclass(frozen=True)
class SyntheticRows:
    """Row numbers of synthetic images by their use, and what is known of them.

    data (a,): each counts as a photograph. prior (p,): their mean draws that of their condition; by_words (p,) bool:
    made by words alone, so that no photograph had a part in them. terms (t,): teach what each term does to features;
    said (t, T) bool: the terms that their prompts said."""

    data: np.ndarray
    prior: np.ndarray
    by_words: np.ndarray
    terms: np.ndarray
    said: np.ndarray

    @staticmethod
    def none(n_terms: int = 0) -> "SyntheticRows":
        nothing = np.array([], dtype=np.int64)
        return SyntheticRows(nothing, nothing, nothing.astype(bool), nothing, np.zeros((0, n_terms), bool))

    def without_words(self) -> "SyntheticRows":
        """Those that count although no term is believed: as photographs, and the prior of images by adapters."""
        prior = self.prior[~self.by_words]
        return dataclasses.replace(SyntheticRows.as_data(self.data), prior=prior, by_words=np.zeros(len(prior), bool))

    @staticmethod
    def as_data(rows: np.ndarray, n_terms: int = 0) -> "SyntheticRows":
        return dataclasses.replace(SyntheticRows.none(n_terms), data=np.asarray(rows, dtype=np.int64))


@dataclasses.dataclass(frozen=True)
class SyntheticUses:
    """How each of m synthetic images counts wherever it is trained on: fields as in SyntheticRows."""

    use: np.ndarray  # (m,) of USES
    by_words: np.ndarray  # (m,) bool
    said: np.ndarray  # (m, T) bool

    def rows(self, train: np.ndarray, n: int) -> SyntheticRows:
        """Those of a training side; train: row numbers, of which those from n on are synthetic images."""
        rows = train[train >= n]
        use = self.use[rows - n]
        of = {name: rows[use == name] for name in USES}
        return SyntheticRows(
            of["data"], of["prior"], self.by_words[of["prior"] - n], of["terms"], self.said[of["terms"] - n]
        )

    def warnings(self) -> list[str]:
        """What the user should know of these uses."""
        if not ((self.use == "terms") & ~self.by_words).any():
            return []
        reason = "their generator saw the photographs on which the test of terms is made, so it passes too easily"
        return [f"images that were not made from words alone are used for their terms: {reason}"]

    def names(self) -> list[str]:
        """The uses that there are."""
        return [name for name in USES if (self.use == name).any()]


def mean_images(
    features: np.ndarray, labels: np.ndarray, rows: np.ndarray, profiles: np.ndarray, domain: int
) -> Teachers:
    """The mean of these rows for each class that has any, as teachers of a domain of their own, of weight PRIOR_WEIGHT.

    features (n, d), labels (n,), profiles (C, T)."""
    classes = np.unique(labels[rows])
    means = [features[rows[labels[rows] == number]].mean(axis=0) for number in classes]
    stacked = np.stack(means) if means else np.zeros((0, features.shape[1]))
    n = len(classes)
    return Teachers(
        stacked, profiles[classes], classes, np.full(n, domain), np.full(n, 1 / PRIOR_WEIGHT), np.zeros(n, bool)
    )


def reweighted(teachers: Teachers, weight: float | None, domain: int) -> Teachers:
    """The same, with means of synthetic images of this domain counting as so many subjects each; None: as before."""
    if weight is None:
        return teachers
    of_domain = (teachers.domains == domain) & ~teachers.are_photographs
    return dataclasses.replace(teachers, noises=np.where(of_domain, 1 / weight, teachers.noises))
