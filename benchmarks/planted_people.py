"""Real adults planted among "synthetic" images: does filter_synthetic.py itself reject another photograph of a person?

    python benchmarks/planted_people.py --work_dir runs/planted --landmarks_dir LONDON --people_dir CALTECH \\
        --face_embedder mobilefacenet_192.onnx

LONDON holds 102 adults, each with a neutral and a smiling portrait (Face Research Lab London Set), CALTECH 14 adults
with five photographs each. In each of three rounds a third of the London people are planted: the dataset holds their
neutral portrait, and the folder of images of unknown origin their smiling one. Both portraits of 12 further people are
in that folder, and nothing of them is in the dataset: whoever of them is rejected is a false alarm. Everybody else's
photographs are in the dataset, since a threshold requires 199. Over the rounds each person is planted once.

Nobody here has a condition: people are dealt to seven by chance, so they resemble each other less than patients with
one syndrome do, and these are adults. The detector is MTCNN; the plan below was fixed before the first run."""

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pyarrow.parquet as pq

from harness.commands import Parser
from scoring.intervals import bootstrap_interval

ROOT = Path(__file__).resolve().parents[1]
ROUNDS, ABSENT, LONDON_CONDITIONS, CALTECH_CONDITIONS, SEED = 3, 12, 5, 2, 3101
NEUTRAL, SMILING = 1, 2  # the end of a portrait's name, ID.1.jpg
HEADER = ("image_name", "disease_name", "disease_abbr", "sub_category", "gene_name", "orphanet_code", "subject_id")


class Curated:
    """Collects photographs as a curator's folder: rd_images/<ABBR>/<ABBR>.<n>.jpg and disease_images.csv."""

    def __init__(self, folder: Path):
        self.folder, self.rows = folder, []

    def add(self, file: Path, condition: int, person: str) -> None:
        abbr = f"C{condition:02d}"
        name = f"{abbr}.{sum(row[2] == abbr for row in self.rows) + 1}.jpg"
        (self.folder / "rd_images" / abbr).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, self.folder / "rd_images" / abbr / name)
        self.rows.append((name, f"chance group {condition}", abbr, "none", "FBN1", str(990000 + condition), person))

    def write_table(self) -> None:
        with open(self.folder / "disease_images.csv", "w", newline="", encoding="utf-8") as table:
            csv.writer(table).writerows([HEADER, *self.rows])


def london_people(folder: Path) -> list[str]:
    with open(folder / "photographs.csv", newline="", encoding="utf-8") as table:
        people = {row["subject_id"] for row in csv.DictReader(table)}
    return np.random.default_rng(SEED).permutation(sorted(people)).tolist()


def lay_out(
    work_dir: Path, landmarks_dir: Path, people_dir: Path, planted: Sequence[str], absent: Sequence[str]
) -> dict[str, tuple[str, str]]:
    """Write the curator's folder and the folder of synthetic images. Returns synthetic_id -> person and kind."""
    curated, kinds, numbers = Curated(work_dir / "raw"), {}, {}
    for place, person in enumerate(london_people(landmarks_dir)):
        condition = place % LONDON_CONDITIONS
        for expression in (NEUTRAL, SMILING):
            file = landmarks_dir / "images" / f"{person}.{expression}.jpg"
            if person in absent or (person in planted and expression == SMILING):
                abbr = f"C{condition:02d}"
                numbers[abbr] = numbers.get(abbr, 0) + 1
                name = f"{abbr}_{numbers[abbr]}"
                (work_dir / "synthetic" / abbr).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, work_dir / "synthetic" / abbr / f"{name}.jpg")
                kinds[name] = person, "planted" if person in planted else "absent"
            else:
                curated.add(file, condition, f"L{person}")
    folders = sorted(path for path in (people_dir / "rd_images").iterdir() if path.is_dir())
    for place, folder in enumerate(folders):
        for file in sorted(folder.glob("*.jpg")):
            curated.add(file, LONDON_CONDITIONS + place % CALTECH_CONDITIONS, folder.name)
    curated.write_table()
    return kinds


def launch(*command: object) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command[0]} failed with exit code {done.returncode}: {done.stderr[-2000:]}")


def filtered(work_dir: Path, embedder: Path, cache_dir: Path) -> tuple[list[dict], dict]:
    """The rows of the filtered dataset without pictures, and the thresholds."""
    if not (work_dir / "filtered" / "run.json").is_file():  # else an earlier run did this round
        launch("rdface_dataset.py", "build", work_dir / "raw", "--output_dir", work_dir / "rdface")
        flags = ["--dataset_name", work_dir / "rdface", "--synthetic_dataset", work_dir / "synthetic"]
        flags += ["--face_embedder", embedder, "--cache_dir", cache_dir, "--output_dir", work_dir / "filtered"]
        launch("filter_synthetic.py", *flags)
    columns = ["synthetic_id", "reject_reason", "nearest_real_id", "person_similarity", "copy_score"]
    rows = pq.read_table(work_dir / "filtered" / "synthetic", columns=columns).to_pylist()
    (side,) = json.loads((work_dir / "filtered" / "results.json").read_text())["sides"].values()
    return rows, side["thresholds"]


def share(hits: Sequence[bool], people: Sequence[str]) -> str:
    """With the 95 % interval over people; if all or none are hit, the one-sided bound of the rule of three."""
    hits, n_people = np.asarray(hits, float), len(set(people))
    low, high = bootstrap_interval(lambda weights: weights @ hits / weights.sum(axis=1), list(people))
    if hits.all() or not hits.any():
        low, high = (max(0, 1 - 3 / n_people), 1) if hits.all() else (0, min(1, 3 / n_people))
    text = f"{int(hits.sum())} of {len(hits)} images, {100 * hits.mean():.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{text}, {n_people} people"


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="kept, and rounds done there are not done again")
    text = "folder with photographs.csv and images/ID.1.jpg (neutral), ID.2.jpg (smiling)"
    parser.add_argument("--landmarks_dir", type=Path, required=True, help=text)
    parser.add_argument("--people_dir", type=Path, required=True, help="folder with rd_images/PERSON/*.jpg")
    parser.add_argument("--face_embedder", type=Path, required=True, help="ONNX file of a face-recognition network")
    parser.add_argument("--rounds", type=int, nargs="+", default=list(range(ROUNDS)), help="which of the three to run")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    people = london_people(args.landmarks_dir)
    outcomes = []  # person, kind, similarity, rejected as the person, as a copy, the right person named
    for number in args.rounds:
        planted = people[number::ROUNDS]
        absent = [person for person in people if person not in planted][number * ABSENT : (number + 1) * ABSENT]
        work_dir = args.work_dir.resolve() / f"round{number}"
        kinds = lay_out(work_dir, args.landmarks_dir, args.people_dir, planted, absent)
        rows, thresholds = filtered(work_dir, args.face_embedder.resolve(), args.work_dir.resolve() / "faces")
        if not all(isinstance(threshold, dict) for threshold in thresholds.values()):
            raise SystemExit(f"round {number}: a threshold could not be calibrated: {thresholds}")
        values = {name: threshold["value"] for name, threshold in thresholds.items()}
        with open(work_dir / "raw" / "disease_images.csv", newline="", encoding="utf-8") as table:
            person_of = {Path(row["image_name"]).stem: row["subject_id"] for row in csv.DictReader(table)}
        for row in rows:
            person, kind = kinds[row["synthetic_id"]]
            reason = row["reject_reason"] or ""
            named = reason.startswith(("near copy", "resembles")) and person_of[row["nearest_real_id"]] == f"L{person}"
            as_person = (row["person_similarity"] or -1) > values["same person"]
            as_copy = (row["copy_score"] or 0) > values["near copy"]
            outcomes.append((person, kind, as_person, as_copy, named, reason))
        print(f"round {number}: {len(person_of)} photographs, {len(rows)} images; thresholds {values}", flush=True)
    for kind in ("planted", "absent"):
        of_kind = [outcome for outcome in outcomes if outcome[1] == kind]
        people, _, as_person, as_copy, named, reasons = zip(*of_kind, strict=True)
        print(f"{kind}: rejected as the person {share(as_person, people)}; as a copy {share(as_copy, people)}")
        either = [a or b for a, b in zip(as_person, as_copy, strict=True)]
        others = sum(bool(reason) and not hit for reason, hit in zip(reasons, either, strict=True))
        print(f"    as either {share(either, people)}; the right person named {sum(named)}; for other reasons {others}")


if __name__ == "__main__":
    main(parse_args())
