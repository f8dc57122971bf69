"""What terms add to few real portraits of people who share visible marks: docs/knowledge_plan.md.

    OMP_NUM_THREADS=1 python benchmarks/knowledge_portraits.py --work_dir runs/portraits --attributes_dir REAL \\
        --backbone torchvision/squeezenet1_0=squeezenet1_0_imagenet.pth torchvision/mobilenet_v2=mobilenet_v2.pth \\
        tf_efficientnet_lite0=tf_efficientnet_lite0.pth --face_embedder mobilefacenet.onnx

REAL holds `few` and `pool`, two curator's folders whose abbreviations spell marks: F or M for the sex, then G glasses,
M moustache, B beard, D bald, W white hair, P none. Each backbone and k leave their draws in
--results_dir/draws_portraits.json, with a digit per held-out image and arm, and are not measured again; real_NAME.json
has a backbone's figures."""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.knowledge_gain import (
    RESULTS,
    People,
    backbone_features,
    curate,
    dealt_at_random,
    gains,
    kept_draws,
    one_draw,
    print_arms,
    readers_of,
    support_set,
)
from curation import protocols
from harness.commands import Parser
from harness.files import write_json
from imaging import faces
from imaging.face_embeddings import load_embedder

MARKS = "GMBDW"  # and the sex
SEEDS, SEEDS_OF_TRIALS = range(20), range(4)
OF_STRANGERS = ("terms", "terms and pool")  # arms that are also given for the classes that nobody in the pool has


def marks(names: Sequence[str]) -> np.ndarray:
    """Marks (C, 6) of classes by their abbreviations: MGB is a man with glasses and a beard."""
    return np.array([[name[0] == "F", *(mark in name[1:] for mark in MARKS)] for name in names], dtype=float)


def embedder_features(model: Path) -> Callable:
    """A function of photographs: embeddings (n, d) of their faces, found by MTCNN.

    A photograph without a face ends the run: nothing else of it can be embedded."""
    detector, embedder = faces.load_detector("mtcnn"), load_embedder(model)

    def features(images) -> np.ndarray:
        pictures = [np.asarray(picture.convert("RGB")) for picture in images["image"][:]]
        found = [detector.detect([picture])[0] for picture in pictures]
        if missed := [row for row, face in enumerate(found) if face is None]:
            raise SystemExit(f"no face was found in {len(missed)} photographs, such as {images['image_id'][missed[0]]}")
        return embedder.embed(pictures, np.stack([face.landmarks for face in found]))

    return features


class Portraits:
    """101 people in 20 classes, and a pool of others with nine of these classes."""

    def __init__(self, attributes_dir: Path, work_dir: Path, features: Callable):
        built = [curate(attributes_dir / part, work_dir / part) for part in ("few", "pool")]
        self.few, self.pool = (People(folder, features) for folder in built)
        self.strangers = ~np.isin(self.few.names, self.pool.names)  # classes that nobody in the pool has

    def draw(self, k: int, seed: int) -> dict:
        """All arms of one draw; whoever is not drawn is held out."""
        few, own = self.few, marks(self.few.names)
        everybody = support_set(few, np.ones(len(few.labels), bool), None, seed)
        drawn = protocols.k_shot(everybody, few.labels.tolist(), k, seed)
        fold = support_set(few, np.isin(np.arange(len(few.labels)), drawn.train), None, seed)
        readers = readers_of(self.pool, marks(self.pool.names), len(few.names))
        dealt = dealt_at_random(own, seed)
        known = {"terms": (own, None), "terms and pool": (own, readers), "profiles dealt at random": (dealt, None)}
        known["profiles dealt at random, pool"] = (dealt, readers)
        heads = {"same head, no knowledge": None, "same head, no knowledge, pool": readers}
        record = one_draw(few, fold, seed, known, heads, self.pool)
        is_stranger = self.strangers[few.labels[fold.test]]
        for arm in OF_STRANGERS:
            digits = zip(record["right"][arm], is_stranger, strict=True)
            record["right"][f"{arm}, classes outside the pool"] = "".join(d if s else "-" for d, s in digits)
        return record


def measure(args: argparse.Namespace, name: str, features: Callable[[], Callable]) -> None:
    """All parts of one backbone. features: gives the function of photographs, once it is needed."""
    opened: list[Portraits] = []
    results = {}

    def draws(k: int) -> list[dict]:
        if not opened:
            opened.append(Portraits(args.attributes_dir, args.work_dir, features()))
        return [opened[0].draw(k, seed) for seed in SEEDS]

    for k in (1, 2):
        kept = kept_draws(args.results_dir / "draws_portraits.json", {f"{name}_k{k}": functools.partial(draws, k)})
        later = [draw for draw in kept if draw["seed"] not in SEEDS_OF_TRIALS]
        results[str(k)] = {"arms": gains(kept), "arms_of_later_seeds": gains(later) if later else {}}
        print_arms(f"{name}, k = {k}", results[str(k)]["arms"])
    write_json(args.results_dir / f"real_{name}.json", results)


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    parser.add_argument("--work_dir", type=Path, required=True, help="datasets and pixels; kept")
    parser.add_argument("--attributes_dir", type=Path, required=True, help="folder with few and pool")
    parser.add_argument("--results_dir", type=Path, default=RESULTS, help="where the small files of figures are kept")
    text = "backbones by the names of train_classifier.py, with their weights"
    parser.add_argument("--backbone", nargs="+", default=[], metavar="NAME=FILE", help=text)
    parser.add_argument("--face_embedder", type=Path, help="file of a face-recognition network (ONNX), as a backbone")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    for name, _, file in (pair.partition("=") for pair in args.backbone):
        features = (name, Path(file), args.work_dir / "pixels")
        measure(args, name.rpartition("/")[2], lambda features=features: backbone_features(*features))
    if args.face_embedder:
        measure(args, args.face_embedder.stem, lambda: embedder_features(args.face_embedder))


if __name__ == "__main__":
    main(parse_args())
