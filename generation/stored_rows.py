"""Rows of an array that lies in several files, read when they are asked for, so that memory does not grow with them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


class StoredRows:
    """The chosen rows (k, d), as float32, of .npy files that hold (b, d) each and stand in the order of the rows.

    It is indexed by a slice or by row numbers, as an array is, and has `shape` and a length."""

    def __init__(self, files: Sequence[Path], counts: Sequence[int], chosen: np.ndarray):
        """counts: rows of each file; chosen (sum of the counts,) bool."""
        chosen = np.asarray(chosen, bool)
        if len(files) != len(counts) or chosen.shape != (sum(counts),):
            raise ValueError(f"{len(files)} files of {sum(counts)} rows, and {chosen.shape} of them to choose from")
        self._files, self._starts = list(files), np.concatenate([[0], np.cumsum(counts)])
        self._rows = np.flatnonzero(chosen)
        self.shape = (len(self._rows), np.load(files[0], mmap_mode="r").shape[1] if len(files) else 0)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        rows = self._rows[index]
        values = np.empty((len(rows), self.shape[1]), np.float32)
        of_file = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(of_file):
            here = of_file == number
            values[here] = np.load(self._files[number], mmap_mode="r")[rows[here] - self._starts[number]]
        return values
