"""How often does a recognition network take two people for one, and one person for two? Sets the cosine of a build.

    python benchmarks/person_pairs.py --face_embedder mobilefacenet_192.onnx --measure LONDON CALTECH runs/raw \\
        --calibrate ATTRIBUTES/few ATTRIBUTES/pool --results benchmarks/results/person_pairs.json

The plan, fixed before the run: the cosine is the one that 1 in 10,000 pairs of different people exceed on average
(same_person.FALSE_ALARM, split conformal prediction), taken from the people of --calibrate alone. Then it is measured
on other people, those of --measure: pairs of two people, also across the folders, as long as both are photographs or
both are SIMULATED; and pairs of one person. Intervals are Clopper and Pearson's, which take pairs for independent;
pairs that share a person are not, so they are too narrow. MTCNN finds the faces, as in a build.

A folder is a curator's (the person is its subject_id, or without this column the disease_abbr, where conditions stand
for people), or holds photographs.csv and images/ (the Face Research Lab London Set)."""

import argparse
import csv
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from scipy.stats import binomtest

from curation.curated_rows import Row
from curation.same_person import FALSE_ALARM, face_vectors, false_alarm_cosine
from harness.commands import Parser, path_argument
from harness.files import write_json
from harness.real_or_simulated import SIMULATED_SOURCE
from imaging.face_embeddings import load_embedder
from imaging.faces import load_detector

CLASSES = {"simulated": "SIMULATED people", "real": "adults"}


class Folder:
    """Faces of a folder: vectors (n, d) of length 1 and the person on each."""

    def __init__(self, path: Path, embedder, detector):
        rows, people, self.simulated = photographs_in(path)
        self.name = path.name
        self.vectors, numbers = face_vectors(rows, embedder, detector)
        self.people = np.array([f"{path}/{people[n]}" for n in numbers])
        self.without_face = len(rows) - len(numbers)


def photographs_in(folder: Path) -> tuple[list[Row], list[str], bool]:
    """Rows that name the files, the person on each, and whether a program drew them."""
    london = folder / "photographs.csv"
    with (london if london.is_file() else folder / "disease_images.csv").open(newline="", encoding="utf-8") as table:
        records = list(csv.DictReader(table))
    rows, people = [], []
    for line, record in enumerate(records, start=2):
        home = folder / "images" if london.is_file() else folder / "rd_images" / record["disease_abbr"]
        rows.append(Row(line, "", home / record["image_name"], {}))
        people.append(record.get("subject_id") or record["disease_abbr"])
    return rows, people, {record.get("source_type") for record in records} == {SIMULATED_SOURCE}


def cosines(first: Folder, second: Folder) -> tuple[np.ndarray, np.ndarray]:
    """Of all pairs of two people, and of all pairs of one person, between two folders or within one."""
    values = first.vectors @ second.vectors.T
    same = first.people[:, None] == second.people[None]
    once = np.triu(np.ones_like(same), 1) if first is second else np.ones_like(same)
    return values[~same & once], values[same & once]


def share_above(values: np.ndarray, cosine: float) -> dict:
    above = int((values > cosine).sum())
    record = {"pairs": len(values), "above": above}
    if len(values):
        low, high = binomtest(above, len(values)).proportion_ci(method="exact")
        record |= {"share": above / len(values), "low": float(low), "high": float(high)}
    return record


def line(name: str, one: dict) -> str:
    if not one["pairs"]:
        return f"{name}: no pair"
    share = f"{100 * one['share']:.4f} % [{100 * one['low']:.4f}, {100 * one['high']:.4f}]"
    return f"{name}: {one['above']} of {one['pairs']:,} pairs above, {share}"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    parser.add_argument("--face_embedder", type=path_argument, required=True, help="the network's ONNX file")
    text = "folders of the people from whom the cosine is taken"
    parser.add_argument("--calibrate", type=path_argument, nargs="+", required=True, metavar="DIR", help=text)
    text = "folders of other people, on whom it is measured"
    parser.add_argument("--measure", type=path_argument, nargs="+", required=True, metavar="DIR", help=text)
    parser.add_argument("--results", type=path_argument, metavar="FILE", help="JSON file for the figures")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    embedder, detector = load_embedder(args.face_embedder), load_detector("mtcnn")
    calibrated = [Folder(path, embedder, detector) for path in args.calibrate]
    pairs = itertools.combinations_with_replacement(calibrated, 2)
    two_people = np.concatenate([cosines(a, b)[0] for a, b in pairs])
    cosine = false_alarm_cosine(two_people, FALSE_ALARM)
    if cosine < 0:
        print(f"{len(two_people)} pairs of two people are too few for a false alarm of {FALSE_ALARM:g}")
        cosine = float(two_people.max())
    n_people = len({person for folder in calibrated for person in folder.people})
    print(f"calibrated on {n_people} people, {len(two_people):,} pairs: cosine {cosine:.4f}")
    results = {
        "face_embedder_sha256": embedder.weights_sha256,
        "false_alarm": FALSE_ALARM,
        "cosine": cosine,
        "calibration": {"people": n_people, "pairs": len(two_people)},
        "measured": {},
    }
    measured = [Folder(path, embedder, detector) for path in args.measure]
    for kind, words in CLASSES.items():
        folders = [folder for folder in measured if folder.simulated == (kind == "simulated")]
        if not folders:
            continue
        parts = {(a.name, b.name): cosines(a, b) for a, b in itertools.combinations_with_replacement(folders, 2)}
        parts["all", "all"] = tuple(np.concatenate(values) for values in zip(*parts.values(), strict=True))
        for (a, b), (two, one) in parts.items():
            name = f"{words}, {a}" if a == b else f"{words}, {a} with {b}"
            record = {"two_people": share_above(two, cosine), "one_person": share_above(one, cosine)}
            results["measured"][name] = record
            print(line(f"{name}, two people", record["two_people"]))
            if record["one_person"]["pairs"]:
                print(line(f"{name}, one person", record["one_person"]))
    results["photographs_without_face"] = {folder.name: folder.without_face for folder in (*calibrated, *measured)}
    if args.results:
        write_json(args.results, results)


if __name__ == "__main__":
    main(parse_args())
