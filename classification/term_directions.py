"""What each term does to the features of synthetic images whose prompts said it: ridge regression of the features."""

import numpy as np

RIDGES = 10.0 ** np.arange(-1, 5)  # per image in which a term was said and that others lack it


def term_directions(features: np.ndarray, said: np.ndarray) -> np.ndarray:
    """The change (T, d) of the features per term, from synthetic images.

    features (m, d); said (m, T) bool or 0 and 1: the terms that each image's prompt said. Both are centred, so what
    all synthetic images share (their domain) has no part. The ridge is that of least squared error if every image is
    predicted from the others (Golub, Heath and Wahba, Generalized cross-validation, Technometrics 1979). A term that no
    image or every image says has direction 0."""
    said = np.asarray(said, dtype=np.float64)
    centred, terms = features - features.mean(axis=0), said - said.mean(axis=0)
    left, scales, axes = np.linalg.svd(terms, full_matrices=False)  # (m, r), (r,), (r, T)
    if not len(scales) or scales[0] == 0:
        return np.zeros((said.shape[1], features.shape[1]))
    projected = left.T @ centred  # (r, d)
    total, within = float((centred**2).sum()), (projected**2).sum(axis=1)
    errors = []
    for ridge in RIDGES:
        kept = scales**2 / (scales**2 + ridge)  # of each axis
        residual = total - float(((1 - (1 - kept) ** 2) * within).sum())
        errors.append(residual / (1 - (1 + kept.sum()) / len(said)) ** 2 if kept.sum() + 1 < len(said) else np.inf)
    ridge = RIDGES[int(np.argmin(errors))]
    return axes.T @ ((scales / (scales**2 + ridge))[:, None] * projected)
