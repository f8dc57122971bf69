"""What a number of patients can tell: the smallest difference of two methods that a paired test would probably find."""

import numpy as np
from scipy.stats import binom

ALPHA, POWER = 0.05, 0.8
STEPS = 0.0005  # of differences tried


def minimal_detectable_difference(
    n: int, disagreement: float, alpha: float = ALPHA, power: float = POWER
) -> float | None:
    """The smallest true difference of two accuracies that an exact paired test finds with this power, 0..1.

    n: patients with one photograph each, on whom both methods are tested; more photographs per patient help less than
    more patients. disagreement: share of patients of whom exactly one method is right, 0..1. alpha: divide it by the
    number of comparisons in the family, as Holm's correction does for the first. Only those n * disagreement patients
    tell anything; the test asks whether one method is right of more than half of them (McNemar, exact). None if not
    even a difference as large as the disagreement would be found: then one method is never right alone. Raises
    ValueError for arguments out of range. Source: Fleiss, Levin and Paik, Statistical Methods for Rates and
    Proportions, 2003, chapter 13; power summed over the number of disagreements, without an approximation."""
    if n < 1 or not 0 < disagreement <= 1 or not 0 < alpha < 1 or not 0 < power < 1:
        raise ValueError("n must be at least 1, disagreement in 0..1, alpha and power between 0 and 1")
    discordant = np.arange(n + 1)
    chance_of = binom.pmf(discordant, n, disagreement)
    critical = binom.ppf(alpha / 2, discordant, 0.5)  # the smallest number with a lower tail of at least alpha / 2
    critical -= binom.cdf(critical, discordant, 0.5) > alpha / 2  # now the largest that is significant; -1: none is
    for difference in np.arange(STEPS, disagreement + STEPS / 2, STEPS):
        better = min(1.0, (disagreement + difference) / (2 * disagreement))
        found = binom.cdf(critical, discordant, 1 - better) + binom.cdf(critical, discordant, better)
        if (chance_of * found).sum() >= power:
            return float(difference)
    return None


def half_width(n: int, accuracy: float) -> float:
    """Half the width of the 95 % interval of one accuracy 0..1 on n patients with one photograph each, 0..1."""
    if n < 1 or not 0 <= accuracy <= 1:
        raise ValueError("n must be at least 1, and accuracy in 0..1")
    return 1.96 * (accuracy * (1 - accuracy) / n) ** 0.5
