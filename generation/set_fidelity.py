"""The fidelity of a set of images: how far the mean of each class's set lies from the mean of its training people.

A classifier that learns from synthetic images gains most by what their means show of the conditions. A mean of few
images differs from the true one by chance; this sampling error is removed here, for the set and for the people."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class ClassMeans:
    """Mean descriptors of classes, in which each group counts once."""

    classes: np.ndarray  # (c,) ascending
    means: np.ndarray  # (c, d)
    n_groups: np.ndarray  # (c,)
    variances: np.ndarray  # (c,) variance between groups of a class, summed over dimensions; nan if it has one group

    @staticmethod
    def of(prepared: np.ndarray, labels: np.ndarray, groups: np.ndarray) -> "ClassMeans":
        """prepared (n, d), see descriptors.prepare; labels (n,), groups (n,) of any type."""
        classes = np.unique(labels)
        means, n_groups, variances = np.zeros((len(classes), prepared.shape[1])), [], []
        for row, label in enumerate(classes):
            images, members = prepared[labels == label], groups[labels == label]
            people = np.stack([images[members == group].mean(axis=0) for group in np.unique(members)])
            means[row] = people.mean(axis=0)
            n_groups.append(len(people))
            variances.append(people.var(axis=0, ddof=1).sum() if len(people) > 1 else np.nan)
        return ClassMeans(classes, means, np.array(n_groups, int), np.array(variances, float))

    @property
    def within(self) -> float:
        """The variance within classes, pooled over all with two groups or more; nan if there is none."""
        freedom = self.n_groups - 1
        return float(np.nansum(freedom * self.variances) / freedom.sum()) if freedom.sum() else np.nan


class SetFidelity(NamedTuple):
    """How far sets lie from their conditions. Rows: classes.

    A squared distance of 1 is the variance between people of one condition, summed over the dimensions of the
    descriptor. It is free of the sampling error of both means: sets of other people with the condition have 0 on
    average, and single values may lie below 0. Average the squares over classes, not their roots."""

    classes: np.ndarray  # (k,) those with an image in the set and training images
    n_images: np.ndarray  # (k,) images of the set, or groups if groups were given
    squared_distance: np.ndarray  # (k,) nan for a set of one image, whose sampling error is unknown
    squared_distance_of_average: np.ndarray  # (k,) of the average over classes: a face without a phenotype of its own

    @property
    def distance(self) -> np.ndarray:
        """(k,) in units of the spread within classes, >= 0: the root, or 0 where the square came out below 0."""
        return np.sqrt(np.maximum(self.squared_distance, 0))


def set_fidelity(images: ClassMeans, people: ClassMeans) -> SetFidelity:
    """images: of the sets, all of whose classes are among those of people: the training images.

    The squared distance of two means exceeds that of what they estimate by the sum of their variances on average. The
    variance of a set's mean is its own images' divided by their number, which is small if they all show one person:
    such a set has a mean of its own, however many images it has. The variance of the people's mean is that within all
    classes divided by their number, since a condition alone has too few."""
    rows = np.searchsorted(people.classes, images.classes)
    n_classes, within = len(people.classes), people.within
    squared = np.square(images.means - people.means[rows]).sum(axis=1)
    squared = squared - images.variances / images.n_groups - within / people.n_groups[rows]
    of_average = np.square(people.means[rows] - people.means.mean(axis=0)).sum(axis=1)
    error = (1 - 2 / n_classes) / people.n_groups[rows] + (1 / people.n_groups).sum() / n_classes**2
    return SetFidelity(images.classes, images.n_groups, squared / within, of_average / within - error)
