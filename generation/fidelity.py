"""How well a synthetic face shows the phenotype of its label: fitted on a fold's training images, and on nothing else.

    fitted = fit(describe("probe", features=training), labels, groups, n_classes, "probe")
    scores = fitted.scores(describe("probe", features=synthetic))     # (m, C), larger: more alike
    own, rank = own_class_score(scores, wanted), class_rank(scores, wanted)  # wanted (m,): labels of the images
    probability = fitted.phenotype_probability(scores, wanted)        # (m,), 0..1

`paper` scores by the cosine to the condition's mean descriptor. The other descriptors score by discriminant analysis
with a shrunk within-class covariance (classification.linear_probe), as a log-probability among the conditions, all
equally frequent; with profiles of the conditions' terms, class means are drawn towards what these predict
(classification.knowledge_prior). An image without a face has nan in its descriptor and gets nan everywhere."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import expit, logsumexp
from sklearn.linear_model import LogisticRegression

from classification.knowledge_choice import Choice, choose, span
from classification.knowledge_prior import Teachers, informed_discriminants
from classification.linear_probe import FALLBACK_SHRINKAGE, LinearProbe, choose_regularisation, fit_discriminants
from curation import protocols
from generation.descriptors import KINDS, Alignment, described, prepare, unit_length
from generation.set_fidelity import ClassMeans, SetFidelity, set_fidelity
from harness.errors import InputError
from scoring.metrics import equal_but_for_rounding

CALIBRATION_FOLDS = 5
EMBEDDING_EXTRA_IMAGES = 3  # see _drawn_to_centre; chosen on SIMULATED conditions that no figure is reported of
TEMPERATURE_RANGE = (0.1, 1000.0)  # of the standard deviation of wrong classes' scores


# ---- from scores to one number an image


def own_class_score(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The score of each image's own label, (m,), from scores (m, C) and labels (m,) in 0..C-1.

    nan for a label of -1 (none), for a class without training images, and for an image without a face. Raises
    ValueError for other labels and shapes."""
    labels = _checked_labels(labels, len(scores), scores.shape[1], lowest=-1)
    return np.where(labels < 0, np.nan, scores[np.arange(len(scores)), labels])


def class_rank(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Place of each image's own label among all classes that can be scored, (m,): 1 is the best.

    scores (m, C), labels (m,) as in own_class_score. Equal scores share the mean of their places."""
    scores = np.asarray(scores, np.float64)  # whose ties are closest: cosines of landmark distances differ by little
    own = own_class_score(scores, labels)[:, None]
    tied = equal_but_for_rounding(scores, own)  # its own place included; nan is never tied
    better = (scores > own) & ~tied
    rank = better.sum(axis=1) + (tied.sum(axis=1) + 1) / 2
    return np.where(np.isnan(own[:, 0]), np.nan, rank)


def log_odds(scores: np.ndarray) -> np.ndarray:
    """Evidence (m, C), in nats, that an image shows each class and not one of the others.

    scores (m, C): log-probabilities up to a constant a row, nan for classes that cannot be scored. With p the softmax
    of a row it is log p_c minus the logarithm of the mean p of the other classes: Bayes' log-odds if right and wrong
    labels are equally frequent, and each wrong label as frequent as another. nan if there are fewer than two classes.
    The best class is treated apart, since 1 - p_c has no digits left where p_c is almost 1."""
    scorable = ~np.isnan(scores)
    logits = np.where(scorable, scores, -np.inf)
    best = logits == logits.max(axis=1, keepdims=True, initial=-np.inf)
    best &= np.cumsum(best, axis=1) == 1
    with np.errstate(divide="ignore", invalid="ignore"):
        total = logsumexp(logits, axis=1, keepdims=True)
        total_without_best = logsumexp(np.where(best, -np.inf, logits), axis=1, keepdims=True)
        others = np.where(best, total_without_best, total + np.log1p(-np.exp(np.where(best, -np.inf, logits) - total)))
        n_others = scorable.sum(axis=1, keepdims=True) - 1
        return np.where(scorable & (n_others > 0), scores - others + np.log(n_others), np.nan)


# ---- fitted on training images


@dataclass(frozen=True)
class Known:
    """What is known of all C classes, and how much of it counts."""

    profiles: np.ndarray  # (C, T) frequency of each term in 0..1, nan in the row of a class of which nothing is known
    choice: Choice

    def probe(self, prepared: np.ndarray, labels: np.ndarray) -> LinearProbe:
        """Discriminants of the classes of training images, prepared (n, d) with labels (n,)."""
        teachers, centre, axes = _teachers(prepared, labels, self.profiles)
        (probe,) = informed_discriminants(teachers, self.profiles, self.choice.shares, [self.choice.shrinkage])
        seen = np.unique(labels)
        weights = probe.weights[seen] @ axes
        return LinearProbe(seen, weights, probe.biases[seen] - weights @ centre, probe.shrinkage)


def _teachers(
    prepared: np.ndarray, labels: np.ndarray, profiles: np.ndarray
) -> tuple[Teachers, np.ndarray, np.ndarray]:
    """Training images (n, d) as teachers of what terms look like, in few dimensions: see knowledge_choice.span."""
    centre, axes = span(prepared)
    domains = np.zeros(len(labels), np.int64)
    return Teachers((prepared - centre) @ axes.T, profiles[labels], labels, domains), centre, axes


@dataclass(frozen=True)
class Scorer:
    """Raw scores of descriptors: cosines to the class means for `paper`, discriminants for the others."""

    kind: str
    classes: np.ndarray  # (c,) numbers of the classes with training images, ascending
    prototypes: np.ndarray  # (c, d) mean descriptors
    alignment: Alignment | None  # for `shape` and `dense`
    probe: LinearProbe | None  # for all but `paper`

    @staticmethod
    def fitted_to(
        kind: str, descriptors: np.ndarray, labels: np.ndarray, shrinkage: float, known: Known | None = None
    ) -> "Scorer":
        """descriptors (n, d) without nan, labels (n,); shrinkage of the covariance within classes, above 0 up to 1.

        known: what is known of the classes, whose own shrinkage serves then."""
        alignment = Alignment.fitted_to(descriptors) if kind in ("shape", "dense") else None
        prepared = prepare(kind, descriptors, alignment)
        classes, counts = np.unique(labels, return_counts=True)
        prototypes = np.stack([prepared[labels == c].mean(axis=0) for c in classes])
        if known is not None:
            return Scorer(kind, classes, prototypes, alignment, known.probe(prepared, labels))
        probe = None if kind == "paper" else fit_discriminants(prepared, labels, [shrinkage])[0]
        if kind == "embedding":
            probe = _drawn_to_centre(probe, counts, prepared.mean(axis=0), EMBEDDING_EXTRA_IMAGES)
        return Scorer(kind, classes, prototypes, alignment, probe)

    def __call__(self, prepared: np.ndarray) -> np.ndarray:
        """prepared (m, d), see prepare, to (m, c)."""
        if self.probe is not None:
            return self.probe.scores(prepared)
        return unit_length(prepared) @ unit_length(self.prototypes).T


def _drawn_to_centre(probe: LinearProbe, counts: np.ndarray, centre: np.ndarray, extra_images: int) -> LinearProbe:
    """The probe whose class means lie as near to the overall mean as if each class had `extra_images` more there.

    counts (c,) images of each class, centre (d,) overall mean. fit_discriminants reckons with one more; weights are
    proportional to a mean's distance from the centre, and the part of the bias that is not due to the centre to its
    square."""
    ratio = (counts + 1) / (counts + extra_images)
    weights = probe.weights * ratio[:, None]
    biases = (probe.biases + probe.weights @ centre) * ratio**2 - weights @ centre
    return replace(probe, weights=weights, biases=biases)


@dataclass(frozen=True)
class Calibration:
    """P(an image shows its label's phenotype) = 1 / (1 + exp(-(slope * evidence + intercept))), evidence: log_odds.

    It is the probability if half of the labels are right and each wrong label is as frequent as another."""

    temperature: float  # divides the raw scores before anything else
    slope: float  # >= 0; near 1 if the scores, divided by the temperature, are log-probabilities
    intercept: float
    n_images: int  # held-out training images that it was fitted on; 0: there were none, so it is a guess


@dataclass(frozen=True)
class Fitted:
    """What `fit` returns."""

    scorer: Scorer
    n_classes: int
    calibration: Calibration
    people: ClassMeans  # of the training images, a group counting once
    choice: Choice | None = None  # whether and how much knowledge of the conditions counts; None: there is none

    def scores(self, descriptors: np.ndarray) -> np.ndarray:
        """How alike each image is to each class: (m, d) to (m, n_classes), larger is more alike.

        `paper`: the cosine to the class's mean descriptor, -1..1. Others: log-probability among the classes with
        training images, <= 0. nan in the column of a class without training images and in the row of an image without
        a face. Raises ValueError if the descriptors have another width than those of the training images."""
        return self._spread(descriptors, self._scores_of)

    def cosine(self, descriptors: np.ndarray) -> np.ndarray:
        """Cosine to each class's mean descriptor, (m, n_classes), -1..1; nan as in scores."""
        prototypes = unit_length(self.scorer.prototypes)
        return self._spread(descriptors, lambda prepared: unit_length(prepared) @ prototypes.T)

    def euclidean(self, descriptors: np.ndarray) -> np.ndarray:
        """Euclidean distance to each class's mean descriptor, (m, n_classes), >= 0; nan as in scores."""
        return self._spread(descriptors, lambda prepared: cdist(prepared, self.scorer.prototypes))

    def phenotype_probability(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Calibrated probability, (m,), that each image shows the phenotype of its label; nan as in own_class_score.

        scores (m, C) as `scores` returned them, labels (m,). See Calibration for the frequency of right labels that it
        assumes. nan, too, if only one class has training images."""
        return own_class_score(self.phenotype_probabilities(scores), labels)

    def phenotype_probabilities(self, scores: np.ndarray) -> np.ndarray:
        """The same for every label that an image might have: (m, C) to (m, C); a row does not add up to 1."""
        return expit(self.calibration.slope * self.evidence(scores) + self.calibration.intercept)

    def evidence(self, scores: np.ndarray) -> np.ndarray:
        """log_odds (m, C) of scores (m, C), in nats at the fitted temperature."""
        return log_odds(scores / self.calibration.temperature if self.scorer.kind == "paper" else scores)

    def set_fidelity(
        self, descriptors: np.ndarray, labels: np.ndarray, groups: np.ndarray | None = None
    ) -> SetFidelity:
        """How far the mean of each class's images lies from the mean of its training people; see SetFidelity.

        descriptors (m, d), labels (m,), -1 for none. groups (m,): people, who count once, where these are true
        held-out photographs as the reference; None if each image is drawn anew."""
        labels = _checked_labels(labels, len(descriptors), self.n_classes, lowest=-1)
        usable, prepared = self.prepared(descriptors)
        groups = np.arange(len(labels)) if groups is None else np.asarray(groups)
        in_training = np.isin(labels[usable], self.people.classes)
        rows = prepared[in_training], labels[usable][in_training], groups[usable][in_training]
        return set_fidelity(ClassMeans.of(*rows), self.people)

    def prepared(self, descriptors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which images can be compared, (m,) bool, and those in the space in which they are (see prepare)."""
        descriptors = _checked_descriptors(descriptors)
        width = self.scorer.prototypes.shape[1]
        if descriptors.shape[1] != width:
            raise ValueError(f"descriptors are {descriptors.shape[1]} wide; those of the training images were {width}")
        usable = described(descriptors)
        prepared = prepare(self.scorer.kind, descriptors[usable], self.scorer.alignment)
        usable[usable] = described(prepared)  # all points in one place have no shape
        return usable, prepared[described(prepared)]

    def _scores_of(self, prepared: np.ndarray) -> np.ndarray:
        raw = self.scorer(prepared)
        if self.scorer.kind == "paper":
            return raw
        logits = raw / self.calibration.temperature
        return logits - logsumexp(logits, axis=1, keepdims=True)

    def _spread(self, descriptors: np.ndarray, compare: Callable) -> np.ndarray:
        """compare(prepared) (r, c) in its rows and columns of an array (m, n_classes) of nan."""
        usable, prepared = self.prepared(descriptors)
        spread = np.full((len(usable), self.n_classes), np.nan)
        spread[np.ix_(usable, self.scorer.classes)] = compare(prepared)
        return spread


def fit(
    descriptors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    n_classes: int,
    kind: str,
    profiles: np.ndarray | None = None,
) -> Fitted:
    """Class means, discriminants and calibration from the training images of a fold.

    descriptors (n, d) from `describe`, labels (n,) in 0..n_classes-1, groups (n,): patients with their near duplicates.
    All rows are used, except those with nan; hand in training images only. Shrinkage is chosen on inner folds, as for
    the linear probe; temperature and calibration on images whose group was left out, CALIBRATION_FOLDS times. A group
    is never divided. profiles (n_classes, T): frequency in 0..1 of each annotated term in each class, nan in the row of
    a class of which nothing is known; how much they count is chosen on these images too, and may be nothing. A class
    without training images is not scored either way. Deterministic. Raises InputError if no training image has a face,
    ValueError for other shapes, labels and kinds, and for profiles with `paper`."""
    if kind not in KINDS:
        raise ValueError(f"there is no descriptor {kind!r}; choose from {', '.join(KINDS)}")
    if profiles is not None and (kind == "paper" or profiles.ndim != 2 or len(profiles) != n_classes):
        raise ValueError(
            f"descriptor {kind}: profiles have shape {profiles.shape}; give (n_classes, T), and another kind"
        )
    descriptors = _checked_descriptors(descriptors)
    labels = _checked_labels(labels, len(descriptors), n_classes, lowest=0)
    groups = np.asarray(groups)
    if groups.shape != labels.shape:
        raise ValueError(f"groups have shape {groups.shape}; give one for each of the {len(labels)} images")
    usable = described(descriptors)
    if kind in ("shape", "dense"):
        usable[usable] = np.ptp(descriptors[usable].reshape(usable.sum(), -1, 2), axis=1).max(axis=1) > 0
    if not usable.any():
        raise InputError(
            f"no face was found in any of the {len(labels)} training images, so fidelity cannot be measured; "
            "use another face detector"
        )
    descriptors, labels, groups = descriptors[usable], labels[usable], groups[usable]
    shrinkage, known, choice = FALLBACK_SHRINKAGE, None, None
    if kind != "paper":
        alignment = Alignment.fitted_to(descriptors) if kind in ("shape", "dense") else None
        prepared = prepare(kind, descriptors, alignment)
        chosen = choose_regularisation(prepared, labels, groups)
        shrinkage = chosen[0] if chosen else FALLBACK_SHRINKAGE
        if profiles is not None:
            choice = choose(_teachers(prepared, labels, profiles)[0], profiles, labels, groups)
            known = Known(profiles, choice) if choice.used else None
    scorer = Scorer.fitted_to(kind, descriptors, labels, shrinkage, known)
    calibration = _calibrated(scorer, descriptors, labels, groups, shrinkage, known)
    people = ClassMeans.of(prepare(kind, descriptors, scorer.alignment), labels, groups)
    return Fitted(scorer, n_classes, calibration, people, choice)


def _calibrated(
    scorer: Scorer,
    descriptors: np.ndarray,
    labels: np.ndarray,
    groups: np.ndarray,
    shrinkage: float,
    known: Known | None,
) -> Calibration:
    """Temperature of least log loss, then slope and intercept, on images (n, d) whose group was left out of the fit."""
    fold = protocols.strict_folds(labels.tolist(), groups.tolist(), CALIBRATION_FOLDS)
    fold = np.array([-1 if number is None else number for number in fold])
    raw = np.full((len(labels), len(scorer.classes)), np.nan)  # out of fold
    for number in np.unique(fold[fold >= 0]):
        train = (fold != number) & ~np.isin(groups, groups[fold == number])
        part = Scorer.fitted_to(scorer.kind, descriptors[train], labels[train], shrinkage, known)
        columns = np.searchsorted(scorer.classes, part.classes)
        prepared = prepare(part.kind, descriptors[fold == number], part.alignment)
        raw[np.ix_(fold == number, columns)] = part(prepared)
    held_out = fold >= 0
    if not held_out.any():
        return Calibration(_wrong_spread(scorer(prepare(scorer.kind, descriptors, scorer.alignment))), 1.0, 0.0, 0)
    own = np.searchsorted(scorer.classes, labels[held_out])
    temperature = _temperature(raw[held_out], own)
    return Calibration(temperature, *_logistic(log_odds(raw[held_out] / temperature), own), int(held_out.sum()))


def _wrong_spread(raw: np.ndarray) -> float:
    """Standard deviation of a row's scores round their mean, over all rows of (n, c); 1 if they are all equal."""
    spread = float(np.nanstd(raw - np.nanmean(raw, axis=1, keepdims=True)))
    return spread if spread > 1e-9 * float(np.nanmax(np.abs(raw))) else 1.0


def _temperature(raw: np.ndarray, own: np.ndarray) -> float:
    """The temperature of least log loss of softmax(raw / temperature). raw (n, c) with nan, own (n,): right columns."""
    logits = np.where(np.isnan(raw), -np.inf, raw)
    logits = logits - logits.max(axis=1, keepdims=True)

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float((logsumexp(scaled, axis=1) - scaled[np.arange(len(own)), own]).mean())

    low, high = np.log(_wrong_spread(raw)) + np.log(TEMPERATURE_RANGE)
    return float(np.exp(minimize_scalar(loss, bounds=(low, high), method="bounded").x))


def _logistic(evidence: np.ndarray, own: np.ndarray) -> tuple[float, float]:
    """Slope (>= 0) and intercept of a logistic regression of "this is the right class" on the evidence (n, c).

    own (n,): the right columns. Weights: 1 for an image's right class and 1 in all for its wrong ones, equally."""
    is_right = np.arange(evidence.shape[1]) == own[:, None]
    weight = np.where(is_right, 1.0, 1 / np.maximum((~np.isnan(evidence)).sum(axis=1, keepdims=True) - 1, 1))
    given = ~np.isnan(evidence)
    if not (is_right & given).any() or not (~is_right & given).any():
        return 1.0, 0.0
    model = LogisticRegression().fit(evidence[given][:, None], is_right[given], sample_weight=weight[given])
    slope = float(model.coef_[0, 0])
    return (slope, float(model.intercept_[0])) if slope > 0 else (0.0, 0.0)  # it tells nothing: half and half


# ---- checks


def _checked_descriptors(descriptors: np.ndarray) -> np.ndarray:
    descriptors = np.asarray(descriptors)
    if descriptors.ndim != 2:
        raise ValueError(f"descriptors have shape {descriptors.shape}, not (n, d)")
    return descriptors


def _checked_labels(labels: np.ndarray, n: int, n_classes: int, lowest: int) -> np.ndarray:
    """labels (n,) as int64; raises ValueError if their number is another, or one is not in lowest..n_classes-1."""
    labels = np.asarray(labels)
    if labels.shape != (n,) or (n and not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(f"labels have shape {labels.shape} and type {labels.dtype}; give {n} integers")
    if n and (labels.min() < lowest or labels.max() >= n_classes):
        raise ValueError(f"labels reach from {labels.min()} to {labels.max()}, not within {lowest}..{n_classes - 1}")
    return labels.astype(np.int64)
