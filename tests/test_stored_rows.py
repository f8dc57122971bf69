"""generation/stored_rows.py: rows in files are those of the array."""

import numpy as np
import pytest

from generation.stored_rows import StoredRows


def test_chosen_rows_are_those_of_the_joined_array(tmp_path):
    rng = np.random.default_rng(0)
    whole, counts, files = rng.standard_normal((12, 3)).astype(np.float16), [5, 1, 6], []
    for number, part in enumerate(np.split(whole, [5, 6])):
        files.append(tmp_path / f"{number}.npy")
        np.save(files[-1], part)
    chosen = rng.random(12) < 0.6
    rows = StoredRows(files, counts, chosen)
    assert rows.shape == (chosen.sum(), 3) and len(rows) == chosen.sum() and rows[:].dtype == np.float32
    order = rng.permutation(len(rows))
    assert np.array_equal(rows[order], whole[chosen][order]) and np.array_equal(rows[2:5], whole[chosen][2:5])
    with pytest.raises(ValueError, match="files of 12 rows"):
        StoredRows(files, counts, chosen[1:])
