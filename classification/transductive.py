"""PT-MAP: few-shot classification that looks at all queries of an episode at once, and so not as a clinic could.

It supposes that every condition of the episode is asked for equally often, which is true of episodes and of no clinic.
Its results are called transductive, and are never beside those of the other heads in a table.
Source: Hu, Gripon and Pateux, Leveraging the Feature Distribution in Transfer-based Few-Shot Learning, ICANN 2021
(arXiv 2006.03806): features after a power transform of exponent 0.5, as probe_features are; then class centres and a
balanced assignment of the queries (optimal transport with entropy, Cuturi, NeurIPS 2013) are found in turns.
"""

import numpy as np

from classification.episodes import Episodes
from classification.support_filling import Filling, n_shown, support_means

SHARPNESS = 10.0  # lambda: how much distances count against the entropy of the assignment; the paper's
STEP, STEPS = 0.2, 10  # how far centres move towards their new mean each time, and how often; as in common use
SINKHORN_STEPS, TOLERANCE = 1000, 1e-6  # largest deviation of a column's sum from 1


def transductive_scores(features: np.ndarray, episodes: Episodes, filling: Filling | None = None) -> np.ndarray:
    """Log of the share (e, w, w) by which query i of each episode is assigned to class j; a query's shares add up to 1,
    and so do a class's.

    features (n, d): of the whole dataset, made by classifiers.probe_features. Each episode's support and queries are
    centred together and brought to unit length. Raises ValueError for features that are not finite."""
    support = support_means(features, episodes, filling)
    queries = features[episodes.query]
    if not (np.isfinite(support).all() and np.isfinite(queries).all()):
        raise ValueError("features must be finite")
    centre = (support + queries).mean(axis=1, keepdims=True) / 2
    support, queries = _unit(support - centre), _unit(queries - centre)
    n_support, centres = n_shown(episodes, filling)[..., None], support
    for _ in range(STEPS):
        shares = np.exp(balanced(-SHARPNESS * _squared_distances(queries, centres)))  # (e, w, w)
        assigned = shares.transpose(0, 2, 1)
        means = (n_support * support + assigned @ queries) / (n_support + assigned.sum(axis=2, keepdims=True))
        centres = centres + STEP * (means - centres)
    return balanced(-SHARPNESS * _squared_distances(queries, centres))


def balanced(logits: np.ndarray) -> np.ndarray:
    """Logarithms (e, w, w) of the matrices that are exp(logits) with rows and columns scaled so that they add up to 1.

    Sinkhorn's iterations; rows add up to 1 in any case, columns to within TOLERANCE unless SINKHORN_STEPS were too few.
    All-equal logits give 1 / w everywhere. Logits of one row must not differ by more than some hundreds."""
    odds = np.exp(logits - logits.max(axis=2, keepdims=True))
    of_columns = np.ones((*odds.shape[:2], 1))
    for _ in range(SINKHORN_STEPS):
        of_rows = 1 / (odds @ of_columns)
        sums = odds.transpose(0, 2, 1) @ of_rows
        if np.abs(sums * of_columns - 1).max(initial=0.0) < TOLERANCE:
            break
        of_columns = 1 / sums
    of_rows = 1 / (odds @ of_columns)
    return np.log(np.maximum(odds * of_rows * of_columns.transpose(0, 2, 1), 1e-300))


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _squared_distances(queries: np.ndarray, centres: np.ndarray) -> np.ndarray:
    products = queries @ centres.transpose(0, 2, 1)
    return (queries**2).sum(axis=2)[:, :, None] - 2 * products + (centres**2).sum(axis=2)[:, None, :]
