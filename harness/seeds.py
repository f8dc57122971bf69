"""Derives the random seed of each part of a run from the seed of the run."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """A 32-bit seed from several numbers (run seed, fold, epoch); neighbouring numbers give unrelated seeds."""
    sequence = np.random.SeedSequence([len(numbers), *numbers])  # the length, since it ignores zeros at the end
    return int(sequence.generate_state(1)[0])
