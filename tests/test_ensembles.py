"""ensembles.py: networks are chosen by what they say of training conditions, never of tested ones."""

import numpy as np
import pytest

from classification.embeddings import averaged
from classification.ensembles import LEAST_GAIN, choose_networks
from classification.prototypes import choose_heads


@pytest.fixture(scope="module")
def study() -> dict:
    """Embeddings of 40 conditions with five images each; conditions from 25 on are tested."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(40), 5)
    tested = labels >= 25

    def network(width: int, signal: np.ndarray | float) -> np.ndarray:
        noise = rng.normal(size=(200, width))
        vectors = rng.normal(size=(40, width))[labels] * np.broadcast_to(signal, 200)[:, None] + noise
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True))[:, None].astype(np.float32)

    signals = {"good": 1.2, "other": 1.0, "noise": 0.0, "of tested ones": np.where(tested, 5.0, 0.0)}
    networks = {name: network(16, signal) for name, signal in signals.items()}
    return {"labels": labels, "base": np.flatnonzero(~tested), **networks}


def chosen(study: dict, *names: str, spoiled: bool = False) -> list[str]:
    """The networks of these names that are chosen on base conditions; spoiled: tested rows are not numbers."""
    embeddings = [study[name].copy() for name in names]
    if spoiled:
        for each in embeddings:
            each[np.setdiff1d(np.arange(200), study["base"])] = np.nan

    def loss(features: np.ndarray) -> float:
        asked = (features, study["labels"], np.arange(200), study["base"], 5, 1, 0)
        return choose_heads(*asked, heads=("discriminant",))["discriminant"].loss

    return [names[number] for number in choose_networks(embeddings, loss)]


def test_networks_that_tell_training_conditions_apart_are_chosen_and_noise_is_not(study):
    assert chosen(study, "noise", "good", "other") == ["good", "other"]
    assert chosen(study, "noise", "good") == ["good"]


def test_what_a_network_says_of_tested_conditions_chooses_nothing(study):
    assert chosen(study, "of tested ones", "good") == ["good"]
    assert chosen(study, "of tested ones", "good", "other", spoiled=True) == chosen(
        study, "of tested ones", "good", "other"
    )


def test_a_network_must_bring_something():
    embeddings = [np.ones((4, 1, 2)), 2 * np.ones((4, 1, 3)), np.ones((4, 1, 5))]
    widths = {2: 1.0, 3: 0.9, 5: 2.0}

    def loss(features: np.ndarray) -> float:
        return {8: 0.9 - 0.9 * LEAST_GAIN, 10: 0.5}.get(features.shape[1], widths.get(features.shape[1], 0.9))

    assert choose_networks(embeddings, loss) == [1]  # 3 + 5 values: less gain than required; 2 + 3: none
    assert choose_networks(embeddings, lambda features: np.inf) == [0, 1, 2]  # nothing can be told
    assert choose_networks(embeddings, lambda features: 1.0) == [0]
    assert averaged(embeddings).shape == (4, 10)
