"""How many altered copies of photographs are found, and how many different people are taken for one?

    python benchmarks/altered_copies.py simulated --seed 2811 --results FILE.json
    python benchmarks/altered_copies.py folder ../shared/real_landmarks/images --results FILE.json

Plan, fixed before the run. The thresholds of imaging/near_duplicates.py were set on SIMULATED people of conditions from
rank 104 on (seed 71) and on real adults: every fourth, sixth and eighth of the London set, the Caltech faces, and the
pool of the portraits by marks. Measured are SIMULATED people of the study's 103 conditions of another seed, one
condition each, and folders whose people were left out of the tuning by --first and --step. Each picture is altered in
every way of ALTERATIONS, and looked for among all originals (near_duplicates.copies). Links of an altered picture to
another person's original are false, but for a plate, which shows two people; so are pairs of originals that a build
would join. Intervals are Clopper and Pearson's, 95 %; for pairs they are too narrow, since pairs share people.

Second plan, before its runs: pictures are also laid on each other by maps that stretch. No threshold was changed, and
the new ones (local_features.MAX_STRETCH) come from the proportions of pictures, not from a measurement; that the maps
help was seen on every second of 20 Caltech faces. Three alterations are new: stretched, 3:4 made square, and seen
aslant. Everything is measured again, SIMULATED people of seed 2811 and of another one, 2821.

`scaling` groups many records. The first ones are of pictures: those of --photographs, and SIMULATED people up to
--base. The others are drawn around them: each holds the features of four of these pictures, 64 of each, with noise in
every descriptor, so that no two are copies; --copies of those drawn are there twice, the second time mirrored, with
further noise and without half of their features. It prints seconds, memory beside the file of records, how many of the
planted pairs were found, how many pairs of pictures (photographs may show one person twice), and how many others."""

import argparse
import io
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageOps
from scipy.stats import binomtest
from tqdm import tqdm

from harness.commands import Parser, path_argument
from harness.files import write_json
from imaging import local_features, near_duplicates
from phenotyping import phenotypes
from simulation.people import COUNTRY_ANCESTRY
from simulation.photography import Photograph, take

SIDE_PX = 256  # of simulated photographs
N_CONDITIONS = 103
SHIFT = 20  # px at least, and round the edges: thumbnails of drawn records show what no picture does
QUALITY = 85  # of the JPEG files of copies

Alteration = Callable[[Image.Image, np.random.Generator, Image.Image], Image.Image]  # picture, draws, another picture


def with_black_bar(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    """Over the eyes, as publications used to show patients."""
    barred, (width, height) = picture.copy(), picture.size
    top, left, right = rng.uniform(0.28, 0.42) * height, rng.uniform(0.05, 0.2) * width, rng.uniform(0.8, 0.95) * width
    bottom = top + rng.uniform(0.1, 0.16) * height
    ImageDraw.Draw(barred).rectangle((left, top, right, bottom), fill=(0, 0, 0))
    return barred


def cropped(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    width, height = picture.size
    left, top = round(rng.uniform(0, 0.2) * width), round(rng.uniform(0, 0.2) * height)
    return picture.crop((left, top, left + round(0.8 * width), top + round(0.8 * height)))


def in_grey_border(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    level = int(rng.integers(90, 190))
    return ImageOps.expand(picture, round(rng.uniform(0.06, 0.2) * min(picture.size)), (level,) * 3)


def on_plate(picture: Image.Image, rng: np.random.Generator, other: Image.Image) -> Image.Image:
    """Beside another person, as in a text-book, at 0.7 of its size."""
    height, gutter = picture.height, round(0.03 * picture.height)
    other = other.resize((round(other.width * height / other.height), height))
    left, right = (picture, other) if rng.random() < 0.5 else (other, picture)
    plate = Image.new("RGB", (left.width + gutter + right.width, height), "white")
    plate.paste(left, (0, 0))
    plate.paste(right, (left.width + gutter, 0))
    return plate.resize((round(0.7 * plate.width), round(0.7 * plate.height)), Image.Resampling.BOX)


def with_caption(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    width, height = picture.size
    strip = round(rng.uniform(0.1, 0.18) * height)
    captioned = Image.new("RGB", (width, height + strip), "white")
    captioned.paste(picture, (0, 0))
    place = (0.04 * width, height + 0.2 * strip)
    ImageDraw.Draw(captioned).text(place, "Figure 2. The patient aged 4", fill="black", font_size=max(8, 0.35 * strip))
    return captioned


def in_another_hue(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    hue, saturation, value = picture.convert("HSV").split()
    shift = int(rng.integers(40, 216))
    return Image.merge("HSV", (hue.point([(v + shift) % 256 for v in range(256)]), saturation, value)).convert("RGB")


def left_cut(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    return picture.crop((round(rng.uniform(0.25, 0.35) * picture.width), 0, *picture.size))


def turned_a_little(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    angle, whole = int(rng.choice([-8, 8])), bool(rng.random() < 0.5)
    return picture.rotate(angle, Image.Resampling.BICUBIC, expand=whole)


def stretched(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    """Wider or higher by 4 to 12 %."""
    factor = rng.uniform(1.04, 1.12)
    width, height = picture.size
    return picture.resize((round(factor * width), height) if rng.random() < 0.5 else (width, round(factor * height)))


def out_of_proportion(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    """As if 3:4 had been made square without cropping."""
    return picture.resize((round(4 / 3 * picture.width), picture.height), Image.Resampling.BICUBIC)


def seen_aslant(picture: Image.Image, rng: np.random.Generator, _: Image.Image) -> Image.Image:
    """A print that was photographed from one side: that side is larger by a fifteenth."""
    width, height = picture.size
    by = round(height / 30)
    corners = (0, by, 0, height - by, width, height, width, 0)  # of the source: upper left, then against the clock
    return picture.transform(picture.size, Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(factor * picture.width), round(factor * picture.height)), Image.Resampling.BOX)


ALTERATIONS: dict[str, tuple[Alteration, int]] = {  # and the quality of its JPEG file
    "black bar over the eyes": (with_black_bar, QUALITY),
    "mirrored": (lambda picture, rng, other: ImageOps.mirror(picture), QUALITY),
    "cropped by 20 %": (cropped, QUALITY),
    "turned by 90 degrees": (lambda p, rng, other: p.rotate(int(rng.choice([90, 180, 270])), expand=True), QUALITY),
    "grey border": (in_grey_border, QUALITY),
    "two on a plate": (on_plate, QUALITY),
    "caption": (with_caption, QUALITY),
    "another hue": (in_another_hue, QUALITY),
    "contrast doubled": (lambda picture, rng, other: ImageEnhance.Contrast(picture).enhance(2), QUALITY),
    "left cut": (left_cut, QUALITY),
    "turned by 8 degrees": (turned_a_little, QUALITY),
    "quality 15, half size": (lambda picture, rng, other: scaled(picture, 0.5), 15),
    "re-encoded": (lambda picture, rng, other: picture, 40),
    "scaled": (lambda picture, rng, other: scaled(picture, 0.6), QUALITY),
    "black frame": (lambda picture, rng, other: ImageOps.expand(picture, picture.width // 10, "black"), QUALITY),
    "greyed": (lambda picture, rng, other: ImageOps.grayscale(picture).convert("RGB"), QUALITY),
    "brightened": (lambda picture, rng, other: ImageEnhance.Brightness(picture).enhance(1.3), QUALITY),
    "stretched by 4 to 12 %": (stretched, QUALITY),
    "3:4 made square": (out_of_proportion, QUALITY),
    "seen aslant": (seen_aslant, QUALITY),
}


def altered(kind: str, picture: Image.Image, number: int, other: Image.Image) -> Image.Image:
    """An altered copy of an RGB picture, saved as JPEG and opened again; number: seeds what is drawn."""
    change, quality = ALTERATIONS[kind]
    file = io.BytesIO()
    change(picture, np.random.default_rng([list(ALTERATIONS).index(kind), number]), other).save(
        file, "JPEG", quality=quality
    )
    return Image.open(file).convert("RGB")


def simulated_people(seed: int, conditions: int, people: int) -> tuple[list[Image.Image], list[str]]:
    """One photograph of each of the SIMULATED people of each condition, condition by condition within each round."""
    countries = list(COUNTRY_ANCESTRY)
    pictures, names = [], []
    for number in tqdm(range(conditions * people), desc="drawing SIMULATED people"):
        country = countries[np.random.default_rng([seed, 8, number]).integers(len(countries))]
        condition = phenotypes.conditions()[number % conditions]
        plan = Photograph(number, "", condition, number, number, None, country)
        pictures.append(Image.fromarray(take(plan, SIDE_PX, seed)[0]))
        names.append(str(number))
    return pictures, names


def photographs_of(args: argparse.Namespace) -> tuple[list[Image.Image], list[str]]:
    """The pictures of a folder and the person on each, the people of --first, --step alone."""
    files = sorted(file for file in args.folder.rglob("*.jpg"))
    name_of = [str(number) if args.one_each else re.split(r"\.", file.name)[0] for number, file in enumerate(files)]
    chosen = set(sorted(set(name_of), key=name_of.index)[args.first :: args.step])
    kept = [(file, name) for file, name in zip(files, name_of, strict=True) if name in chosen]
    return [Image.open(file).convert("RGB") for file, _ in kept], [name for _, name in kept]


def with_interval(hits: int, of: int) -> dict:
    interval = binomtest(hits, of).proportion_ci(0.95, "exact")
    return {"n": hits, "of": of, "low": float(interval.low), "high": float(interval.high)}


def drawn_around(base: np.ndarray, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """n records of features of other pictures, none a copy of another."""
    quarter = local_features.MAX_FEATURES // 4
    for _ in range(n):
        record = np.zeros((), near_duplicates.RECORD)
        features = record["features"]
        for part in range(4):
            source = base[rng.integers(len(base))]["features"]
            rows = rng.permutation(int(source["count"]))[:quarter]
            into = slice(part * quarter, part * quarter + len(rows))
            for name in ("places", "scales", "angles"):
                features[name][into] = source[name][rows]
            features["places"][into] += rng.normal(0, 20, (len(rows), 2)).astype(np.float16)
            features["descriptors"][into] = noisy(source["descriptors"][rows], rng)
        features["count"], features["size"] = local_features.MAX_FEATURES, local_features.SIDE_PX
        source, (down, right) = base[rng.integers(len(base))], rng.integers(SHIFT, near_duplicates.SIDE_PX - SHIFT, 2)
        record["thumbnails"] = np.roll(source["thumbnails"], (down, right), (1, 2))
        yield record


def noisy(descriptors: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.clip(descriptors + rng.integers(-10, 11, descriptors.shape), 0, 255).astype(np.uint8)


def pictures_of(photographs: list[Path], n: int, seed: int) -> Iterator[Image.Image]:
    """These pictures, and those of SIMULATED people until there are n."""
    for file in tqdm(photographs, desc="photographs"):
        yield Image.open(file).convert("RGB")
    n_people, conditions = n - len(photographs), len(phenotypes.conditions())
    yield from simulated_people(seed, conditions, -(-n_people // conditions))[0][:n_people]


def measure_scaling(n: int, n_copies: int, folders: list[Path], n_base: int, seed: int) -> dict:
    """Seconds and memory of grouping n records, of which n_copies are there twice."""
    photographs = sorted(file for folder in folders for file in folder.rglob("*.jpg"))[:n_base]
    base = np.stack([near_duplicates.record(picture) for picture in pictures_of(photographs, n_base, seed)])
    rng = np.random.default_rng([seed, 1])
    near, copied = near_duplicates.NearDuplicates(), []
    for row, record in enumerate(base):
        near.add(row, record)
    first_again = n - n_copies
    n_drawn = first_again - n_base
    drawn = drawn_around(base, n_drawn, rng)
    for row, record in enumerate(tqdm(drawn, total=n_drawn, desc="records")):
        near.add(n_base + row, record)
        if row < n_copies:
            copied.append(record)
    for row, record in enumerate(copied):
        again = near_duplicates.mirrored(record)
        kept = rng.permutation(local_features.MAX_FEATURES)[: local_features.MAX_FEATURES // 2]
        for name in ("places", "scales", "angles", "descriptors"):
            again["features"][name][: len(kept)] = again["features"][name][kept]
        again["features"]["count"] = len(kept)
        again["features"]["descriptors"] = noisy(again["features"]["descriptors"], rng)
        near.add(first_again + row, again)
    before, started, used = anonymous_bytes(), time.monotonic(), time.process_time()
    found = set(near.pairs().certain)
    planted = {(n_base + row, first_again + row) for row in range(n_copies)}
    of_pictures = {(a, b) for a, b in found if b < n_base}
    return {
        "records": n,
        "pictures": n_base,
        "photographs_among_them": len(photographs),
        "seconds": round(time.monotonic() - started, 1),
        "cpu_seconds": round(time.process_time() - used, 1),
        "anonymous_MiB_after": round((anonymous_bytes() - before) / 2**20),
        "peak_MiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "found": with_interval(len(found & planted), n_copies),
        "pairs_of_pictures": len(of_pictures),
        "other_pairs": len(found - planted - of_pictures),
    }


def anonymous_bytes() -> int:
    """Memory of this process that no file backs (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def is_certain(image: np.ndarray, photograph: np.ndarray) -> bool:
    """Of a pair that is alike: whether a build would join it, and not only propose it for a look."""
    return bool(near_duplicates.copies(image[None], photograph[None])[0])


def measure(pictures: list[Image.Image], people: list[str], n_altered: int) -> dict:
    """Found copies per kind, and false links. The first photographs of the first n_altered people are altered."""
    started = time.monotonic()
    records = np.stack([near_duplicates.record(picture) for picture in tqdm(pictures, desc="originals")])
    record_s = (time.monotonic() - started) / len(pictures)
    first = sorted({person: row for row, person in reversed(list(enumerate(people)))}.values())[:n_altered]
    person_of = np.array(people)
    kinds, false, proposed, pairs = {}, [], 0, 0
    for kind in tqdm(ALTERATIONS, desc="altered copies"):
        others = [first[(place + 1) % len(first)] for place in range(len(first))]
        made = [
            near_duplicates.record(altered(kind, pictures[row], row, pictures[other]))
            for row, other in zip(first, others, strict=True)
        ]
        images = np.stack(made)
        alike = near_duplicates.copies(images, records, certain=False)
        certain = [
            [row for row in rows if is_certain(image, records[row])] for image, rows in zip(images, alike, strict=True)
        ]
        found = 0
        for row, other, rows, also in zip(first, others, certain, alike, strict=True):
            shown = {people[row]} | ({people[other]} if kind == "two on a plate" else set())
            found += row in rows
            pairs += int((~np.isin(person_of, list(shown))).sum())
            false += [[kind, row, found_row] for found_row in rows if people[found_row] not in shown]
            proposed += sum(people[found_row] not in shown for found_row in also)
        kinds[kind] = with_interval(found, len(first))
    near = near_duplicates.NearDuplicates()
    for row, record in enumerate(records):
        near.add(row, record)
    started = time.monotonic()
    of_build = near.pairs()
    between = [pair for pair in of_build.certain if people[pair[0]] != people[pair[1]]]
    n_of = [people.count(person) for person in dict.fromkeys(people)]
    of_two = (len(people) ** 2 - sum(n * n for n in n_of)) // 2
    return {
        "photographs": len(people),
        "people": len(n_of),
        "kinds": kinds,
        "altered_linked_to_others": with_interval(len(false), pairs) | {"pairs": false},
        "altered_proposed_with_others": proposed - len(false),
        "originals_joined": with_interval(len(between), of_two),
        "originals_proposed": sum(people[a] != people[b] for a, b in of_build.to_look_at),
        "one_person_joined": len(of_build.certain) - len(between),
        "seconds_per_record": round(record_s, 4),
        "seconds_of_grouping": round(time.monotonic() - started, 2),
    }


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="of", required=True)
    simulated = commands.add_parser("simulated", help="SIMULATED people")
    simulated.add_argument("--seed", type=int, default=2811, help="of the people and their photographs")
    simulated.add_argument("--people", type=int, default=2, help="per condition; the first one's photograph is altered")
    simulated.add_argument("--conditions", type=int, default=N_CONDITIONS, help="the first so many")
    folder = commands.add_parser("folder", help="photographs in a folder, person.number.jpg")
    folder.add_argument("folder", type=path_argument, help="is searched for *.jpg")
    folder.add_argument("--one_each", action="store_true", help="every file shows another person")
    folder.add_argument("--first", type=int, default=0, help="number of the first person")
    folder.add_argument("--step", type=int, default=1, help="every so many people")
    scaling = commands.add_parser("scaling", help="many records, drawn around those of pictures")
    scaling.add_argument("--photographs", type=path_argument, nargs="*", default=[], help="folders searched for *.jpg")
    scaling.add_argument("--records", type=int, default=100_000, help="how many are grouped")
    scaling.add_argument("--copies", type=int, default=1000, help="how many of them are copies of others")
    scaling.add_argument("--base", type=int, default=5000, help="how many pictures: photographs, then SIMULATED people")
    scaling.add_argument("--seed", type=int, default=2812, help="of the SIMULATED people and of the noise")
    for command in (simulated, folder, scaling):
        command.add_argument("--results", type=path_argument, help="JSON file for the figures")
    return parser.parse_args(argv)


def main(args: argparse.Namespace) -> None:
    if args.of == "scaling":
        if args.base + 2 * args.copies > args.records:
            sys.exit("error: --records leaves no room for the pictures of --base and for --copies twice")
        measured = measure_scaling(args.records, args.copies, args.photographs, args.base, args.seed)
        result = {"simulated": True} | measured
        print(f"SIMULATED, drawn around pictures: {result}")
        if args.results:
            write_json(args.results, result)
        return
    if args.of == "simulated":
        pictures, people = simulated_people(args.seed, args.conditions, args.people)
        result = {"simulated": True, "seed": args.seed} | measure(pictures, people, args.conditions)
    else:
        pictures, people = photographs_of(args)
        result = {"simulated": False, "folder": args.folder.name} | measure(pictures, people, len(people))
    for kind, found in result["kinds"].items():
        print(f"{kind}: {found['n']} of {found['of']} [{100 * found['low']:.1f}, {100 * found['high']:.1f}] %")
    for name in ("altered_linked_to_others", "originals_joined"):
        links = result[name]
        print(f"{name}: {links['n']} of {links['of']} pairs [{links['low']:.1e}, {links['high']:.1e}]")
    if args.results:
        write_json(args.results, result)


if __name__ == "__main__":
    main(parse_args())
