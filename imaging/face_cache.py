"""Keeps what a face detector has found, by the content of the image, so that a second run detects nothing.

The file is an SQLite database, which several processes of one machine may write at once and a killed one leaves whole.
It belongs on a disk of the machine: network file systems often do not lock as SQLite needs it. It holds digests of
pixels and coordinates, no picture. Only the user may read it, since patients' photographs can be recognised by their
digests."""

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from PIL import Image

from harness.errors import InputError, one_line
from imaging.face_detectors import LOWEST_SCORE, Candidates
from imaging.faces import Detector, upright_rgb

FORMAT = 2  # to be raised when a network, or what is done around it, finds other faces than before
TABLE = "faces (pixels_sha256 TEXT, detector TEXT, five BLOB, dense BLOB, PRIMARY KEY (pixels_sha256, detector))"
WAIT_S = 60  # for another process that is writing


class CachedDetector(Detector):
    """A detector that asks its network only about images that it has not seen, in any run that named the same folder.

    All candidates are kept, before any threshold. An entry counts for the same weights, border and reduction."""

    def __init__(self, detector: Detector, cache_dir: Path):
        """Raises InputError if the folder cannot be written, or holds something else under the cache's name."""
        super().__init__(detector.network)
        self.file = Path(cache_dir) / "detected_faces.sqlite"
        self.n_detected = 0  # images that the network was asked about
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self.file, os.O_CREAT | os.O_RDWR, 0o600))
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise InputError(f"the face cache {self.file} cannot be written ({reason}); name another folder") from error
        self._run(f"CREATE TABLE IF NOT EXISTS {TABLE} WITHOUT ROWID", [()])

    def candidates(
        self, images: Sequence[Image.Image | np.ndarray], batch_size: int = 1, border: float = 0.0
    ) -> list[Candidates]:
        """See Detector.candidates."""
        pixels = [upright_rgb(image, row) for row, image in enumerate(images)]
        digests = [pixels_sha256(image) for image in pixels]
        entry = self._detector_key(border)
        query = "SELECT pixels_sha256, five, dense FROM faces WHERE pixels_sha256 = ? AND detector = ?"
        rows = self._run(query, [(digest, entry) for digest in dict.fromkeys(digests)])
        kept = {digest: _unpacked(five, dense) for digest, five, dense in rows}
        missing = {digest: image for digest, image in zip(digests, pixels, strict=True) if digest not in kept}
        if missing:
            detected = super().candidates(list(missing.values()), batch_size, border)
            self.n_detected += len(missing)
            kept |= zip(missing, detected, strict=True)
            rows = [(digest, entry, *_packed(kept[digest])) for digest in missing]
            self._run("INSERT OR REPLACE INTO faces VALUES (?, ?, ?, ?)", rows)
        return [kept[digest] for digest in digests]

    def _detector_key(self, border: float) -> str:
        """Digest of all that decides which faces the network finds in an image."""
        network = self.network
        settings = [FORMAT, network.name, network.weights_sha256, LOWEST_SCORE, float(border)]
        settings += [network.longest_side_px, network.grid_px]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def _run(self, statement: str, rows: list[tuple]) -> list[tuple]:
        """What one statement returns for rows of values, in one transaction."""
        try:
            with closing(sqlite3.connect(self.file, timeout=WAIT_S)) as connection, connection:
                return [row for values in rows for row in connection.execute(statement, values)]
        except sqlite3.DatabaseError as error:
            text = f"the face cache {self.file} cannot be used ({one_line(error)})"
            raise InputError(f"{text}; make room there, delete the file, or name another folder") from error


def pixels_sha256(pixels: np.ndarray) -> str:
    """Digest of pixels (h, w, 3) uint8 RGB, as in photographs.Photograph.pixels_sha256."""
    height, width = pixels.shape[:2]
    return hashlib.sha256(repr((width, height)).encode() + pixels.tobytes()).hexdigest()


def _packed(faces: Candidates) -> tuple[bytes, bytes | None]:
    """Box, five landmarks and score, and the dense landmarks, as little-endian float32."""
    n = len(faces.scores)
    five = np.concatenate([faces.boxes, faces.landmarks.reshape(n, 10), faces.scores.reshape(n, 1)], axis=1)
    return five.astype("<f4").tobytes(), None if faces.dense is None else faces.dense.astype("<f4").tobytes()


def _unpacked(five: bytes, dense: bytes | None) -> Candidates:
    rows = np.frombuffer(five, "<f4").reshape(-1, 15).copy().copy()
    landmarks = rows[:, 4:14].reshape(-1, 5, 2)
    points = None if dense is None else np.frombuffer(dense, "<f4").copy().reshape(len(rows), -1 if len(rows) else 0, 2)
    return Candidates(rows[:, :4], landmarks, rows[:, 14], points)
