"""How much of the variance of class means terms explain: the shares of greatest restricted likelihood.

If all features had one covariance, up to a factor, in terms, conditions and people (knowledge_prior.py), the features
of the teachers would be matrix normal, and the shares, which are ratios of variances, could be read from how alike
photographs with like terms are. The likelihood is restricted to what the means of the domains leave (Patterson and
Thompson, Recovery of inter-block information, Biometrika 1971). Features are correlated, so d of them count as
tr(K)^2 / tr(K^2) independent ones, with K the Gram matrix of the teachers; this decides only how a likelihood weighs
against the prior below. Nothing here looks at how well a photograph is classified.
"""

import itertools

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from classification.knowledge_prior import Likeness, Shares, Teachers

TERM_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
REST_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
EXPECTED = Shares(0.1, 0.03)  # if photographs do not tell; one power of ten from it costs half a unit of log-likelihood
MAX_SCALE = 1.5  # of the terms' directions in synthetic images


def likeliest_shares(
    teachers: Teachers, like: Likeness, directions: np.ndarray | None = None, use_terms: bool = True
) -> tuple[Shares, float]:
    """The shares on the grid above, the scale of the directions (T, d), and the log-likelihood, the greatest of all.

    like: knowledge_prior.likeness of the teachers. use_terms: False for a term share of 0, if terms are only known by
    their directions in synthetic images. With a single teacher per domain the expected shares are returned."""
    domain = np.eye(teachers.domains.max() + 1)[teachers.domains]
    domain = domain[:, domain.any(axis=0)]
    contrasts = np.linalg.qr(domain, mode="complete")[0][:, domain.shape[1] :]  # (n, n - m), free of domain means
    if not contrasts.shape[1]:
        return (EXPECTED if use_terms else Shares(0.0, EXPECTED.rest_share)), 0.0
    features = contrasts.T @ teachers.features
    by_terms, by_condition, noise = (
        contrasts.T @ matrix @ contrasts for matrix in (like.by_terms, like.by_condition, np.diag(teachers.noises))
    )
    gram = features @ features.T
    weight = np.trace(gram) ** 2 / (gram**2).sum() or 1.0  # how many independent features there are
    expected = None if directions is None else contrasts.T @ (like.terms @ directions)
    best, greatest = None, -np.inf
    for term_share, rest_share in itertools.product(TERM_SHARES if use_terms else (0.0,), REST_SHARES):
        factor = cho_factor(term_share * by_terms + rest_share * by_condition + noise)
        log_determinant = 2 * np.log(np.diag(factor[0])).sum()
        scale, left = 0.0, float(np.trace(cho_solve(factor, gram)))
        if expected is not None:
            solved = cho_solve(factor, expected)
            along, square = float((solved * features).sum()), float((solved * expected).sum())
            scale = float(np.clip(along / square, 0, MAX_SCALE)) if square > 0 else 0.0
            left += scale * (scale * square - 2 * along)
        likelihood = -0.5 * weight * (log_determinant + len(gram) * np.log(max(left, 1e-300)))
        likelihood -= 0.5 * np.log10(rest_share / EXPECTED.rest_share) ** 2
        likelihood -= 0.5 * np.log10(term_share / EXPECTED.term_share) ** 2 if term_share else 0.0
        if likelihood > greatest:
            best, greatest = Shares(term_share, rest_share, scale), likelihood
    return best, greatest
