"""Proposes pairs of photographs that may show one person, by a face-recognition network, for the curator to look at.

    recognition = open_recognition(Path("mobilefacenet.onnx"))
    persons = find_persons(rows, groups, recognition)

Years, clothes and a missing `subject_id` make two patients of one; a network tells two faces apart, but not surely, and
children with one condition look alike. So it only proposes: what is one person, the curator says.
"""

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from curation.curated_rows import Row
from curation.pairs_to_look_at import PERSON, PairToLookAt
from harness.counts import counted
from harness.errors import InputError
from harness.text_normalization import subject_key
from imaging import photographs
from imaging.face_embeddings import Embedder, load_embedder
from imaging.faces import Detector, load_detector

FALSE_ALARM = 1e-4  # share of pairs of different people that a measured network's cosine lets pass
FOLDER_FALSE_ALARM = 1e-3  # the same of a folder's own subjects; above it the cosine is raised
DRAWN_FACES = 2000  # from whose pairs the folder's share is taken
LONGEST_SIDE_PX = 1024  # of a picture in which a face is looked for
BATCH = 16
SEARCHED_ROWS = 1024  # faces whose neighbours are looked for at once


@dataclass(frozen=True)
class Measured:
    """What was measured of a network: how many of `pairs` pairs of different people have a greater cosine."""

    cosine: float
    above: int
    pairs: int


# Networks by the SHA-256 of their file; benchmarks/person_pairs.py measures one.
KNOWN_NETWORKS = {
    "1223632ac786e55aa2ff0f2f42055786d4a9193c9a70bfd9688ebb71ff24dbfc": Measured(0.5777, 1, 37159),
}


@dataclass(frozen=True)
class Recognition:
    """A network that tells persons apart, and the cosine above which two faces may be one person's."""

    embedder: Embedder
    detector: Detector
    cosine: float
    measured: Measured | None  # None: the user gave the cosine


def open_recognition(file: Path, cosine: float | None = None) -> Recognition:
    """cosine: instead of the one that was measured. Raises InputError for a network of which none was measured."""
    embedder = load_embedder(file)
    measured = KNOWN_NETWORKS.get(embedder.weights_sha256)
    if cosine is None and measured is None:
        reason = "how alike two people are for this network was not measured"
        remedy = "measure it with benchmarks/person_pairs.py, and give --person_cosine X"
        raise InputError(f"--face_embedder {file}: {reason}; {remedy}")
    detector = load_detector("mtcnn")
    return (
        Recognition(embedder, detector, measured.cosine, measured)
        if cosine is None
        else (Recognition(embedder, detector, cosine, None))
    )


@dataclass(frozen=True)
class Persons:
    """What the search found. pairs: the most alike first."""

    pairs: list[PairToLookAt]
    n_faces: int  # photographs on which a face was found, of which all pairs were compared
    without_face: list[str]  # image_id of the others
    recognition: Recognition | None  # None: persons were not looked for
    cosine: float = 1.0  # above which pairs were taken

    def line(self) -> str:
        """For the build's report."""
        if self.recognition is None:
            return (
                "persons: not looked for; without a subject_id, two photographs of one person count as two people's,"
                " unless they are near duplicates (--face_embedder FILE proposes pairs)"
            )
        measured = self.recognition.measured
        if self.cosine > self.recognition.cosine:
            rate = f" (raised from {self.recognition.cosine:g}, because the folder's own subjects are so alike)"
        elif measured:
            rate = f", which {measured.above} of {measured.pairs:,} pairs of different adults exceeded"
        else:
            rate = ""
        named = ", ".join(self.without_face[:5]) + ", ..." * (len(self.without_face) > 5)
        unseen = f"; no face was found on {counted(len(self.without_face), 'photograph')}: {named}" if named else ""
        found = counted(len(self.pairs), "pair")
        return f"persons: {found} above cosine {self.cosine:.3g}{rate}, among {counted(self.n_faces, 'face')}{unseen}"

    def record(self) -> dict:
        """For build_record.json."""
        if self.recognition is None:
            return {"looked_for": False}
        return {
            "looked_for": True,
            "face_embedder_sha256": self.recognition.embedder.weights_sha256,
            "cosine": self.cosine,
            "faces": self.n_faces,
            "photographs_without_face": len(self.without_face),
            "pairs_above": len(self.pairs),
        }


NOT_LOOKED_FOR = Persons([], 0, [], None)


def find_persons(rows: Sequence[Row], groups: Sequence[Hashable], recognition: Recognition) -> Persons:
    """Pairs of rows in different groups whose largest faces have a greater cosine than `recognition` states.

    rows: with their image_id and photographs, whose files are read again; groups (n,): of each row. A measured cosine
    is raised if more than FOLDER_FALSE_ALARM of the folder's own pairs of two subjects exceed it: children with one
    condition, or drawn faces, are more alike than the adults of whom it was measured. Memory grows with the number of
    photographs by one embedding each, and with the pairs that are found."""
    vectors, numbers = face_vectors(rows, recognition.embedder, recognition.detector)
    cosine = recognition.cosine
    if recognition.measured:
        cosine = max(cosine, cosine_of_two_subjects(vectors, [rows[n].values["subject_id"] for n in numbers]))
    found = [(value, numbers[i], numbers[j]) for i, j, value in alike(vectors, cosine)]
    found.sort(key=lambda pair: (-pair[0], pair[1:]))
    image_ids = [row.values["image_id"] for row in rows]
    pairs = [
        PairToLookAt(image_ids[a], image_ids[b], PERSON, _likeness(value))
        for value, a, b in found
        if groups[a] != groups[b]
    ]
    with_face = set(numbers)
    without_face = [image_id for number, image_id in enumerate(image_ids) if number not in with_face]
    return Persons(pairs, len(numbers), without_face, recognition, cosine)


def cosine_of_two_subjects(vectors: np.ndarray, subject_ids: Sequence[str | None]) -> float:
    """The cosine that the share FOLDER_FALSE_ALARM of pairs of two subjects exceeds; -1 if there are too few pairs.

    vectors (n, d) of length 1. At most DRAWN_FACES faces are drawn, always the same ones."""
    known = [n for n, subject in enumerate(subject_ids) if subject and subject_key(subject)]
    if len(known) > DRAWN_FACES:
        known = np.random.default_rng(0).choice(known, DRAWN_FACES, replace=False).tolist()
    subjects = np.array([subject_key(subject_ids[n]) for n in known], dtype=str)
    i, j = np.triu_indices(len(known), 1)
    apart = subjects[i] != subjects[j]
    drawn = vectors[known]
    return false_alarm_cosine((drawn @ drawn.T)[i, j][apart], FOLDER_FALSE_ALARM)


def false_alarm_cosine(cosines: np.ndarray, false_alarm: float) -> float:
    """The value that the share `false_alarm` of further pairs exceeds on average; -1 if the cosines (p,) are too few.

    The ceil((p + 1) (1 - false_alarm))-th smallest (split conformal prediction: Vovk, Gammerman and Shafer, 2005)."""
    rank = math.ceil((len(cosines) + 1) * (1 - false_alarm) - 1e-9)
    return float(np.sort(cosines)[rank - 1]) if 0 < rank <= len(cosines) else -1.0


def _likeness(cosine: float) -> str:
    return f"cosine {cosine:.2f} of the two faces"


def alike(vectors: np.ndarray, threshold: float) -> Iterator[tuple[int, int, float]]:
    """Pairs i < j of vectors (n, d) float32 of length 1 whose cosine is above the threshold, by faiss."""
    import faiss  # here, so that its threads do not start before they are needed

    if not len(vectors):
        return
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    for start in range(0, len(vectors), SEARCHED_ROWS):
        limits, cosines, others = index.range_search(vectors[start : start + SEARCHED_ROWS], threshold)
        owners = start + np.repeat(np.arange(len(limits) - 1), np.diff(limits).astype(int))
        once = owners < others
        yield from zip(owners[once].tolist(), others[once].tolist(), cosines[once].tolist(), strict=True)


def face_vectors(rows: Sequence[Row], embedder: Embedder, detector: Detector) -> tuple[np.ndarray, list[int]]:
    """Embeddings (n, d) float32 of length 1 of the largest faces, and the numbers of the rows on which there is one.

    rows: of photographs that can be read; their files are read again, a few at a time."""
    vectors, numbers = [np.zeros((0, embedder.n_values), np.float32)], []
    for start in tqdm(range(0, len(rows), BATCH), desc="Looking for persons", unit=" batches", leave=False):
        pictures = [_picture(row) for row in rows[start : start + BATCH]]
        detected = detector.detect(pictures)
        seen = [n for n, face in enumerate(detected) if face is not None]
        if seen:
            landmarks = np.array([detected[n].landmarks for n in seen])
            vectors.append(embedder.embed([pictures[n] for n in seen], landmarks))
            numbers += [start + n for n in seen]
    return np.concatenate(vectors), numbers


def _picture(row: Row) -> np.ndarray:
    """The photograph upright in RGB (h, w, 3) uint8, reduced to LONGEST_SIDE_PX."""
    picture = photographs.read(row.path)[2].convert("RGB")
    picture.thumbnail((LONGEST_SIDE_PX, LONGEST_SIDE_PX))
    return np.asarray(picture)
