"""Random seeds of the parts of a run, each derived from the run's own."""

import numpy as np


def derived_seed(*numbers: int) -> int:
    """One 32-bit seed from several numbers (run seed, fold, epoch), unlike that of any neighbour."""
    return int(np.random.SeedSequence([len(numbers), *numbers]).generate_state(1)[0])  # it ignores zeros at the end
