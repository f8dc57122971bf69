"""Class means drawn towards the means that a condition's terms predict, and the linear discriminants of such means.

The mean of one or two photographs shows the people who were photographed more than their condition. Something else is
known of the condition: the terms annotated for it, and how these terms look in people with other conditions. The
features of image i, which shows condition c, are modelled as

    x_i = m + W q_i + u_c + e_i

with q_i the frequencies of the terms in people with the condition (or the terms recorded for this person), W what each
term does to the features, u_c what the terms do not say of the condition, and e_i the person, the pose and the light.
W, u and e are Gaussian with the same covariance of the features, times term_share, rest_share and 1; images of another
domain, such as synthetic ones, have an m of their own. The best linear prediction of the class means (universal
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
    number of classes is that class. domains (n,): numbers; 0 are photographs like those to be classified."""

    features: np.ndarray
    profiles: np.ndarray
    conditions: np.ndarray
    domains: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def only(self, chosen: np.ndarray) -> "Teachers":
        """Those that are chosen: row numbers, or (n,) bool."""
        return Teachers(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))

    def joined(self, others: "Teachers") -> "Teachers":
        """These, followed by others."""
        parts = [(getattr(self, field.name), getattr(others, field.name)) for field in dataclasses.fields(self)]
        return Teachers(*(np.concatenate(part) for part in parts))


@dataclasses.dataclass(frozen=True)
class MeanPrediction:
    """The class means (C, d), and the mean (n, d) of people like each teacher, as weights of the teachers' features."""

    of_classes: np.ndarray  # (C, n)
    of_teachers: np.ndarray  # (n, n)

    @property
    def degrees_of_freedom(self) -> float:
        """What the prediction leaves to the residuals of the n teachers."""
        return max(len(self.of_teachers) - float(np.trace(self.of_teachers)), 1.0)


def predict_means(teachers: Teachers, profiles: np.ndarray, term_share: float, rest_share: float) -> MeanPrediction:
    """The weights of the best linear prediction of all class means (see the text above for the model).

    profiles (C, T): of the classes, nan in the whole row of a class of which nothing is known: it is predicted as the
    average class, and as its terms explain nothing, term_share is added to its rest_share. term_share, rest_share: the
    mean variance of class means that terms explain, and do not explain, per variance within a class; both positive."""
    known = np.isfinite(profiles).all(axis=1)
    average = profiles[known].mean(axis=0)
    class_terms = np.where(known[:, None], profiles - average, 0.0)
    teacher_terms = np.nan_to_num(teachers.profiles - average, nan=0.0)
    of_unit_size = (class_terms[known] ** 2).sum(axis=1).mean() or 1.0
    rest_of = np.full(max(len(profiles), teachers.conditions.max() + 1), rest_share)
    rest_of[: len(profiles)][~known] += term_share

    def covariance(terms: np.ndarray, conditions: np.ndarray) -> np.ndarray:
        """Of the means of people with these terms and conditions, and the means of people like each teacher."""
        same = conditions[:, None] == teachers.conditions
        return term_share / of_unit_size * terms @ teacher_terms.T + same * rest_of[teachers.conditions]

    with_teachers = covariance(teacher_terms, teachers.conditions)
    precision = cho_solve(cho_factor(with_teachers + np.eye(len(teachers))), np.eye(len(teachers)))
    domain = np.eye(teachers.domains.max() + 1)[teachers.domains]  # (n, m)
    of_domains = np.linalg.pinv(domain.T @ precision @ domain) @ domain.T @ precision  # (m, n)
    of_deviations = precision @ (np.eye(len(teachers)) - domain @ of_domains)
    with_classes = covariance(class_terms, np.arange(len(profiles)))
    return MeanPrediction(
        of_domains[0] + with_classes @ of_deviations, domain @ of_domains + with_teachers @ of_deviations
    )


def informed_discriminants(
    teachers: Teachers, profiles: np.ndarray, term_share: float, rest_share: float, shrinkages: Sequence[float]
) -> list[LinearProbe]:
    """Discriminants of all C classes with predicted means, one per shrinkage of the covariance about these means.

    Arguments as for predict_means; at least one teacher is of domain 0, and features have no more dimensions than there
    are teachers (see knowledge_choice.span)."""
    prediction = predict_means(teachers, profiles, term_share, rest_share)
    centre = teachers.features[teachers.domains == 0].mean(axis=0)
    centred = teachers.features - centre
    residuals = centred - prediction.of_teachers @ centred
    variances, axes = np.linalg.eigh(residuals.T @ residuals)  # much quicker than the residuals' own decomposition
    variances = variances.clip(min=0) / prediction.degrees_of_freedom
    within = Covariance(variances, axes.T, variances.mean() or centred.var())
    return discriminants(np.arange(len(profiles)), centre, prediction.of_classes @ centred, within, shrinkages)
