"""How much of the variance of class means terms explain: the shares of greatest restricted likelihood.

If all features had one covariance, up to a factor, in terms, conditions and people (knowledge_prior.py), the features
of the teachers would be matrix normal, and the shares, which are ratios of variances, could be read from how alike
photographs with like terms are. The likelihood is restricted to what the means of the domains leave (Patterson and
Thompson, Recovery of inter-block information, Biometrika 1971). Features are correlated, so d of them count as
tr(K)^2 / tr(K^2) independent ones, with K the Gram matrix of the teachers; this decides only how a likelihood weighs
against the prior below. Nothing here looks at how well a photograph is classified.

With one photograph per condition, what terms do not explain cannot be told from the person: only the ratio of the term
share to the sum of the other two is known, and the prior decides. The steps of the term share are so small that no
likelihood is won by a wrong rest share which brings the ratio nearer to the data than the next step would.
"""

import numpy as np
from scipy.linalg import cholesky, solve_triangular

from classification.knowledge_prior import Likeness, Shares, Teachers

TERM_SHARES = tuple(10.0 ** np.linspace(-2, 0.5, 126))  # steps of 5 %: see above
REST_SHARES = (0.01, 0.03, 0.1, 0.3, 1.0)
EXPECTED = Shares(0.1, 0.03)  # if photographs do not tell; one power of ten from it costs half a unit of log-likelihood
MAX_SCALE = 1.0  # of the terms' directions in synthetic images


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
    weight = np.trace(gram := features @ features.T) ** 2 / (gram**2).sum() or 1.0  # so many independent features
    term_shares = np.array(TERM_SHARES if use_terms else (0.0,))
    best, greatest = None, -np.inf
    for rest_share in REST_SHARES:
        # In these coordinates what terms do not explain has the covariance 1, and what they explain a diagonal one.
        root = cholesky(rest_share * by_condition + noise, lower=True)
        of_terms = solve_triangular(root, solve_triangular(root, by_terms, lower=True).T, lower=True)
        explained, axes = np.linalg.eigh(of_terms)
        seen = axes.T @ solve_triangular(root, features, lower=True)
        variances = 1 + term_shares[:, None] * explained.clip(min=0)  # (s, n - m)
        log_determinants = 2 * np.log(np.diag(root)).sum() + np.log(variances).sum(axis=1)
        left, scales = (1 / variances) @ (seen**2).sum(axis=1), np.zeros(len(term_shares))
        if directions is not None:
            expected = axes.T @ solve_triangular(root, contrasts.T @ (like.terms @ directions), lower=True)
            along, square = ((1 / variances) @ (expected * other).sum(axis=1) for other in (seen, expected))
            scales = np.clip(np.divide(along, square, out=scales, where=square > 0), 0, MAX_SCALE)
            left = left + scales * (scales * square - 2 * along)
        likelihoods = -0.5 * weight * (log_determinants + len(gram) * np.log(left.clip(min=1e-300)))
        likelihoods -= 0.5 * np.log10(rest_share / EXPECTED.rest_share) ** 2
        if use_terms:
            likelihoods -= 0.5 * np.log10(term_shares / EXPECTED.term_share) ** 2
        if likelihoods.max() > greatest:
            i = likelihoods.argmax()
            best, greatest = Shares(float(term_shares[i]), rest_share, float(scales[i])), float(likelihoods[i])
    return best, greatest
