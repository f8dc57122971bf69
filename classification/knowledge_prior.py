"""Class means drawn towards the means that a condition's terms predict, and the linear discriminants of such means.

The mean of one or two photographs shows the people who were photographed more than their condition. Something else is
known of the condition: the terms annotated for it, and how these terms look in people with other conditions. The
features of image i, which shows condition c, are modelled as

    x_i = m + W q_i + u_c + e_i

with q_i the frequencies of the terms in people with the condition (or the terms recorded for this person), W what each
term does to the features, u_c what the terms do not say of the condition, and e_i the person, the pose and the light.
W, u and e are Gaussian with the same covariance of the features, times term_share, rest_share and 1; images of another
domain, such as synthetic ones, have an m of their own. All synthetic images of a condition together may count as one
more subject of it, whose e has another variance (its noise). What synthetic images say of W (term_directions.py) is the
expectation of W, times a scale. The best linear prediction of the class means (universal
kriging; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, sections 2.2 and 2.7) takes all images
at once: a condition with many photographs keeps its own mean, one with a single photograph is drawn towards what its
terms predict, and one without photographs is that prediction. The covariance is that of the images about these means.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from classification.linear_probe import Covariance, LinearProbe, discriminants


@dataclasses.dataclass(frozen=True)
class Teachers:
    """n images from which class means are learnt: photographs of the study's classes, and perhaps other people.

    features (n, d). profiles (n, T): frequency in 0..1 of each term in people with the image's condition, or 1 and 0
    for terms recorded for the person; nan in the whole row if nothing is known. conditions (n,): numbers; one below the
    number of classes is that class. domains (n,): numbers; 0 are photographs like those to be classified. noises (n,):
    the variance of each about the mean of people like it, per variance within a class; 1 for photographs, the default.
    are_photographs (n,) bool: False for the mean of synthetic images; the default is True for all."""

    features: np.ndarray
    profiles: np.ndarray
    conditions: np.ndarray
    domains: np.ndarray
    noises: np.ndarray | None = None
    are_photographs: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.noises is None:
            object.__setattr__(self, "noises", np.ones(len(self.features)))
        if self.are_photographs is None:
            object.__setattr__(self, "are_photographs", np.ones(len(self.features), bool))

    def __len__(self) -> int:
        return len(self.features)

    def only(self, chosen: np.ndarray) -> "Teachers":
        """Those that are chosen: row numbers, or (n,) bool."""
        return Teachers(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def without_photographs_of(self, conditions: np.ndarray) -> "Teachers":
        """These, less the photographs of some conditions; means of synthetic images of them stay."""
        return self.only(~(np.isin(self.conditions, conditions) & self.are_photographs))

    def joined(self, others: "Teachers") -> "Teachers":
        """These, followed by others."""
        parts = [(getattr(self, field.name), getattr(others, field.name)) for field in dataclasses.fields(self)]
        return Teachers(*(np.concatenate(part) for part in parts))


@dataclasses.dataclass(frozen=True)
class Shares:
    """The mean variance of class means that terms explain, and that they do not explain, per variance within a class,
    and how far photographs follow the terms' directions in synthetic images (0: not at all, 1: as far as images)."""

    term_share: float
    rest_share: float
    scale: float = 0.0


@dataclasses.dataclass(frozen=True)
class Likeness:
    """What classes and teachers have in common, before the shares are known.

    terms (n, T), class_terms (C, T): profiles less the average class, and 0 if nothing is known. The covariance of the
    means of people like two teachers is term_share * by_terms + rest_share * by_condition, (n, n) each; between the C
    classes and the teachers it is made of classes_by_terms and classes_by_condition, (C, n) each. What two have in
    common by terms is the inner product of their profiles, scaled to a mean of 1 for a class with itself."""

    terms: np.ndarray
    class_terms: np.ndarray
    by_terms: np.ndarray
    by_condition: np.ndarray
    classes_by_terms: np.ndarray
    classes_by_condition: np.ndarray


def likeness(teachers: Teachers, profiles: np.ndarray) -> Likeness:
    """Of teachers and classes; profiles (C, T): of the classes, nan in the whole row of one of which nothing is known.

    Such a class is predicted as the average class, and as its terms explain nothing, the share of the terms is added to
    what they do not explain."""
    known = np.isfinite(profiles).all(axis=1)
    average = profiles[known].mean(axis=0)
    class_terms = np.where(known[:, None], profiles - average, 0.0)
    size = np.sqrt((class_terms[known] ** 2).sum(axis=1).mean()) or 1.0
    terms = np.nan_to_num(teachers.profiles - average, nan=0.0)
    scaled, class_scaled = terms / size, class_terms / size
    same = teachers.conditions[:, None] == teachers.conditions
    classes_same = np.arange(len(profiles))[:, None] == teachers.conditions
    unknown = np.isin(teachers.conditions, np.flatnonzero(~known))
    return Likeness(
        terms,
        class_terms,
        scaled @ scaled.T + same * unknown,
        same.astype(float),
        class_scaled @ scaled.T + classes_same * unknown,
        classes_same.astype(float),
    )


@dataclasses.dataclass(frozen=True)
class MeanPrediction:
    """The class means (C, d), and the mean (n, d) of people like each teacher, as weights of the teachers' features."""

    of_classes: np.ndarray  # (C, n)
    of_teachers: np.ndarray  # (n, n)


def predict_means(teachers: Teachers, like: Likeness, shares: Shares) -> MeanPrediction:
    """The weights of the best linear prediction of all class means (see the text above for the model).

    like: likeness(teachers, profiles); the shares must not both be 0."""
    with_teachers = shares.term_share * like.by_terms + shares.rest_share * like.by_condition
    with_classes = shares.term_share * like.classes_by_terms + shares.rest_share * like.classes_by_condition
    precision = cho_solve(cho_factor(with_teachers + np.diag(teachers.noises)), np.eye(len(teachers)))
    domain = np.eye(teachers.domains.max() + 1)[teachers.domains]  # (n, m)
    of_domains = np.linalg.pinv(domain.T @ precision @ domain) @ domain.T @ precision  # (m, n)
    of_deviations = precision @ (np.eye(len(teachers)) - domain @ of_domains)
    return MeanPrediction(
        of_domains[0] + with_classes @ of_deviations, domain @ of_domains + with_teachers @ of_deviations
    )


@dataclasses.dataclass(frozen=True)
class InformedMeans:
    """Predicted class means (C, d) relative to the centre (d,), and the covariance about predicted means."""

    centre: np.ndarray
    means: np.ndarray
    within: Covariance


def informed_means(
    teachers: Teachers, profiles: np.ndarray, shares: Shares, directions: np.ndarray | None = None
) -> InformedMeans:
    """What the teachers and the classes' profiles (C, T), as for likeness, say of all C classes.

    directions (T, d): what a profile's terms do to features of synthetic images. At least one teacher is of domain 0,
    and features have no more dimensions than there are teachers and directions (see knowledge_choice.span)."""
    like = likeness(teachers, profiles)
    prediction = predict_means(teachers, like, shares)
    centre = teachers.features[teachers.domains == 0].mean(axis=0)
    centred, expected = teachers.features - centre, 0.0
    if directions is not None:
        centred = centred - shares.scale * like.terms @ directions
        expected = shares.scale * like.class_terms @ directions
    real = teachers.are_photographs
    residuals = centred[real] - prediction.of_teachers[real] @ centred
    left = max(real.sum() - float(np.trace(prediction.of_teachers[np.ix_(real, real)])), 1.0)  # degrees of freedom
    variances, axes = np.linalg.eigh(residuals.T @ residuals)  # much quicker than the residuals' own decomposition
    variances = variances.clip(min=0) / left
    within = Covariance(variances, axes.T, variances.mean() or centred.var())
    return InformedMeans(centre, prediction.of_classes @ centred + expected, within)


def informed_discriminants(
    teachers: Teachers,
    profiles: np.ndarray,
    shares: Shares,
    shrinkages: Sequence[float],
    directions: np.ndarray | None = None,
) -> list[LinearProbe]:
    """Discriminants of all C classes with predicted means, one per shrinkage of the covariance about these means.

    Arguments as for informed_means."""
    informed = informed_means(teachers, profiles, shares, directions)
    return discriminants(np.arange(len(profiles)), informed.centre, informed.means, informed.within, shrinkages)
