"""Which of several networks make up an ensemble, chosen on photographs that nothing is tested on."""

from collections.abc import Callable, Sequence

import numpy as np

from classification.embeddings import averaged

LEAST_GAIN = 0.01  # nats of log loss that a further network must bring; smaller gains are noise of the inner episodes


def choose_networks(embeddings: Sequence[np.ndarray], loss: Callable[[np.ndarray], float]) -> list[int]:
    """Numbers of the networks to keep, in their order: first the best one, then whichever brings most, while it brings
    LEAST_GAIN.

    embeddings: of each network, (n, views, d_i); loss: of features (n, d), in nats, from photographs of the training
    side alone. Of equally good networks the first is kept. A loss that is not finite counts as the worst; if all are,
    nothing can be told and all networks are kept."""
    chosen: list[int] = []
    best = np.inf
    while len(chosen) < len(embeddings):
        others = [number for number in range(len(embeddings)) if number not in chosen]
        losses = [loss(averaged([embeddings[i] for i in sorted([*chosen, number])])) for number in others]
        losses = [value if np.isfinite(value) else np.inf for value in losses]
        least = int(np.argmin(losses))
        if not losses[least] < best - (LEAST_GAIN if chosen else 0.0):
            break
        best = losses[least]
        chosen.append(others[least])
    return sorted(chosen) or list(range(len(embeddings)))
