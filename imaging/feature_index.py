"""Proposes pairs of pictures that have several local features in common, without comparing every picture with all.

    index = FeatureIndex(records)                    # (n,) of local_features.FEATURES, which may be memory-mapped
    for query, found, turned in index.candidates(queries): ...

The largest strong features of each picture go into an inverted file of product codes (Jégou et al., 2011), 16 bytes
each. A query's features, and those of its mirror image, each vote for the pictures of their nearest neighbours. Votes
count together if they turn and scale the picture alike, as all those of a copy do (Jégou et al., 2008)."""

from collections.abc import Iterator

import numpy as np
from tqdm import tqdm

from imaging.local_features import MIRRORED

INDEXED = 48  # features of each picture
NEIGHBOURS = 16  # of each feature of a query
MAX_DISTANCE = 0.55  # of two descriptors of length 1; of features of one place it is about 0.3
MIN_VOTES = 6  # a copy gets 17 and more, on a plate 8
MAX_CANDIDATES = 10  # for each query, of most votes
TURNS, SCALES_PER_OCTAVE = 12, 1  # how finely votes are sorted
FLAT_UP_TO, UNCODED_UP_TO = 4_000, 200_000  # features that are compared one by one; that are kept as they are
CODE_BYTES, MAX_LISTS, PROBED_LISTS = 16, 4096, 6
TRAINING_FEATURES, TRAINING_ROUNDS = 200_000, 6
ROWS_AT_ONCE = 256


class FeatureIndex:
    """The features of n pictures, by which others are found. Takes about 60 bytes of memory per feature."""

    def __init__(self, records: np.ndarray):
        import faiss  # here, so that its threads do not start before they are needed

        self._pictures = len(records)
        counts = np.minimum(np.asarray(records["count"]), INDEXED)
        self._total = int(counts.sum())
        self._index = None
        if not self._total:
            return
        if self._total <= FLAT_UP_TO:
            self._index = faiss.IndexFlatL2(128)
        else:
            lists = int(np.clip(4 * np.sqrt(self._total), 64, MAX_LISTS))
            codes = "Flat" if self._total <= UNCODED_UP_TO else f"PQ{CODE_BYTES}"
            self._index = faiss.index_factory(128, f"IVF{lists},{codes}")
            self._index.cp.min_points_per_centroid = 1  # or it would print a warning
            self._index.nprobe = PROBED_LISTS
            self._index.cp.niter = TRAINING_ROUNDS
            if codes != "Flat":
                self._index.pq.cp.niter = TRAINING_ROUNDS
            step = max(1, self._total // TRAINING_FEATURES)
            self._index.train(np.concatenate([part[0] for part in _blocks(records[::step])]))
        described = []
        for descriptors, *others in _blocks(records):
            self._index.add(descriptors)
            described.append(others)
        self._row, self._angle, self._octave = map(np.concatenate, zip(*described, strict=True))

    def candidates(self, queries: np.ndarray, title: str = "looking for copies") -> Iterator[np.ndarray]:
        """Of each block of queries (m,): (c, 3) int64 of query, picture, and 1 if one of the two is mirrored."""
        if self._index is None:
            return
        starts = range(0, len(queries), ROWS_AT_ONCE)
        for start in tqdm(starts, desc=title, unit="block", leave=False, disable=len(starts) < 2):
            found = []
            for turned in (0, 1):
                for block in _blocks(queries[start : start + ROWS_AT_ONCE], bool(turned)):
                    found.append(self._voted(*block, start, turned))
            voted = np.concatenate(found) if found else np.zeros((0, 4), np.int64)
            order = np.lexsort((-voted[:, 3], voted[:, 0]))
            voted = voted[order]
            first = np.searchsorted(voted[:, 0], voted[:, 0])  # where the query's candidates begin
            yield voted[np.arange(len(voted)) - first < MAX_CANDIDATES, :3]

    def _voted(
        self,
        descriptors: np.ndarray,
        rows: np.ndarray,
        angles: np.ndarray,
        octaves: np.ndarray,
        start: int,
        turned: int,
    ) -> np.ndarray:
        """(c, 4) int64: query, picture, turned, votes."""
        distance, near = self._index.search(descriptors, min(NEIGHBOURS, self._total))
        feature, place = np.nonzero((distance < MAX_DISTANCE**2) & (near >= 0))
        near = near[feature, place]
        turn = ((self._angle[near] - angles[feature]) % 360 / (360 / TURNS)).astype(np.int64)
        step = np.rint(SCALES_PER_OCTAVE * (self._octave[near] - octaves[feature])).astype(np.int64) + 16
        pair = rows[feature].astype(np.int64) * (self._pictures) + self._row[near]
        votes = []  # a feature votes once for a picture, turn and scale; borders between two turns are also tried
        for shift in (0, 1):
            cell = (pair * TURNS + (turn + shift) // 2 % (TURNS // 2)) * 32 + step
            once = np.unique(cell * len(descriptors) + feature) // len(descriptors)
            cells, count = np.unique(once, return_counts=True)
            kept = count >= MIN_VOTES
            votes.append(np.stack([cells[kept] // (32 * TURNS), count[kept]]))
        pairs, count = np.concatenate(votes, axis=1)
        best, where = np.unique(pairs, return_inverse=True)
        most = np.zeros(len(best), np.int64)
        np.maximum.at(most, where, count)
        query, found = np.divmod(best, self._pictures)
        return np.stack([start + query, found, np.full(len(best), turned), most], axis=1)


def _blocks(records: np.ndarray, turned: bool = False) -> Iterator[tuple[np.ndarray, ...]]:
    """Of blocks of pictures: descriptors (f, 128) float32 of length 1 of the indexed features, the picture of each, its
    angle in degrees and its scale in octaves; turned: of the mirrored pictures."""
    for start in range(0, len(records), ROWS_AT_ONCE):
        block = records[start : start + ROWS_AT_ONCE]
        descriptors, rows, angles, octaves = [], [], [], []
        for number, record in enumerate(block):
            n = int(record["count"])
            if not n:
                continue
            chosen = np.argsort(-record["scales"][:n].astype(np.float32), kind="stable")[:INDEXED]
            descriptors.append(record["descriptors"][chosen])
            rows.append(np.full(len(chosen), start + number))
            angles.append(record["angles"][chosen].astype(np.float32))
            octaves.append(np.log2(np.maximum(record["scales"][chosen].astype(np.float32), 1e-3)))
        if not descriptors:
            continue
        vectors = np.concatenate(descriptors).astype(np.float32)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1)
        angle = np.concatenate(angles)
        if turned:
            vectors, angle = np.ascontiguousarray(vectors[:, MIRRORED]), (180 - angle) % 360
        yield vectors, np.concatenate(rows), angle, np.concatenate(octaves)
