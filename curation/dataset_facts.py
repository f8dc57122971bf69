"""Counts what a dataset's folder holds, from its Parquet files: tables that may be public, protocols, limits.

The card of a gated dataset is public. So nothing here names an image or a person, repeats a text of the curator other
than a condition's name, combines two columns, or gives a count of people below FEWEST.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq

from curation import protocols, schema, value_parsers, withdrawn_list
from curation.made_from import WORDS
from curation.parquet_files import shard_digests
from harness import real_or_simulated
from harness.counts import counted
from harness.errors import InputError, ProtocolError, one_line

OTHERS = "others"  # values with small counts, together
FEWEST = 5  # images: a smaller count of people with a property might identify somebody


@dataclass
class Config:
    """One kind of data in a dataset's folder. shards: file -> SHA-256; values: those of CARD_COLUMNS that it has."""

    name: str
    shards: dict[str, str]
    features: datasets.Features
    num_rows: int
    num_bytes: int  # of all values, uncompressed, as the files' footers say
    values: pa.Table

    def column(self, name: str) -> list:
        """The values of a column; nulls if there is no such column."""
        return self.values[name].to_pylist() if name in self.values.column_names else [None] * self.num_rows

    @property
    def class_names(self) -> list[str]:
        label = self.features.get("label")
        return label.names if isinstance(label, datasets.ClassLabel) else []


def read_configs(folder: Path) -> dict[str, Config]:
    """The kinds of data that have files, in the card's order. Raises InputError if they are no dataset."""
    names = [name for name in schema.CONFIGS if any(folder.glob(f"{name}/train-*.parquet"))]
    if not names:
        wanted = "real, restored, reports or synthetic"
        raise InputError(f"{folder.name}: holds no train-*.parquet in {wanted}; {real_or_simulated.BUILD}")
    if "synthetic" in names and len(names) > 1:
        raise InputError(f"{folder.name}: holds synthetic images beside others; give them a folder of their own")
    return {name: read_config(folder, name) for name in names}


def read_config(folder: Path, name: str) -> Config:
    """One config: the footers of its files and the columns that the card needs; image bytes are not read."""
    shards = shard_digests(folder, f"{name}/train-*.parquet")
    try:
        footers = [pq.read_metadata(folder / file) for file in shards]
        arrow_schema = pq.read_schema(folder / next(iter(shards)))
        wanted = [column for column in dict.fromkeys(schema.CARD_COLUMNS) if column in arrow_schema.names]
        values = pa.concat_tables([pq.read_table(folder / file, columns=wanted) for file in shards])
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{name}: its Parquet files cannot be read ({one_line(error)}); make them again") from error
    config = Config(
        name=name,
        shards=shards,
        features=datasets.Features.from_arrow_schema(arrow_schema),
        num_rows=sum(footer.num_rows for footer in footers),
        num_bytes=sum(f.row_group(i).total_byte_size for f in footers for i in range(f.num_row_groups)),
        values=values,
    )
    missing = sorted(set(schema.REQUIRED_BY_CARD.get(name, ())) - set(config.features))
    if missing:
        raise InputError(f"{name}: column {missing[0]} is missing; make its Parquet files again")
    if name in schema.REQUIRED_BY_CARD and not config.class_names:
        raise InputError(f"{name}: column label is no ClassLabel; make its Parquet files again")
    return config


def facts_of(folder: Path) -> dict:
    """Everything that the card says about a folder's files. Raises InputError if they are no dataset.

    The images that are described are those of `real`; without it those of `restored`, or of `synthetic`."""
    facts = facts_of_rows(folder)
    described = facts["configs"][facts["default"]]
    return facts | (facts_of_protocols(described) if described.name in ("real", "restored") else {})


def facts_of_rows(folder: Path) -> dict:
    """The same without the protocols, which figures and Croissant record do not need."""
    configs = read_configs(folder)
    described = configs[next(name for name in ("real", "restored", "reports", "synthetic") if name in configs)]
    if not described.num_rows:
        raise InputError(f"{folder.name}: config {described.name} holds no rows; delete the dataset, or build it again")
    facts = {
        "configs": configs,
        "default": described.name,
        "fewest": FEWEST,
        "n_withdrawn": len(withdrawn_list.listed(folder)),
    }
    facts |= kind_of(configs) | facts_of_images(described) | facts_of_models(configs)
    if described.name in ("real", "restored"):
        facts |= facts_of_people(described)
        facts |= {"limitations": limitations(facts), "biases": biases(facts)}
    return facts


def kind_of(configs: Mapping[str, Config]) -> dict:
    """`kind`, on which the licence depends: controlled, cc0-1.0, simulated, or synthetic. In doubt it is controlled."""
    if "synthetic" in configs:
        return {"kind": "synthetic", "simulated": False, "name": real_or_simulated.SYNTHETIC}
    images = [config for config in configs.values() if config.name != "reports"] or list(configs.values())
    sources = [source for config in images for source in config.column("source_type")]
    if not real_or_simulated.is_simulated(sources):
        return {"kind": "controlled", "simulated": False, "name": real_or_simulated.REAL}
    licences = {text for config in images for text in config.column("license")}
    kind = "cc0-1.0" if licences == {"CC0-1.0"} else "simulated"
    return {"kind": kind, "simulated": True, "name": real_or_simulated.SIMULATED}


def facts_of_images(config: Config) -> dict:
    """Tables and counts of the config whose images the card describes; n_images is 0 if it holds reports only."""
    if config.name == "reports":
        return {"n_images": 0}
    sizes = Counter(config.column("label"))
    n_unlabelled = sizes.pop(None, 0)  # a FastGAN's images, before they are filtered
    return {
        "n_images": config.num_rows,
        "n_conditions": len(sizes),
        "n_unlabelled": n_unlabelled,
        "conditions": conditions(config, sizes),
        "size_counts": sorted(Counter(sizes.values()).items()),
    }


def facts_of_people(config: Config) -> dict:
    """What is recorded about the people on real, restored or simulated images."""
    years = [value for value in config.column("age_years") if value is not None]
    nulls = {name: config.column(name).count(None) for name in schema.MAY_BE_NULL if name in config.features}
    groups = Counter(config.column("group_id"))
    return {
        "ages": table(config.column("age_group"), tuple(value_parsers.AGE_GROUPS)),
        "sexes": table(config.column("sex")),
        "mean_age": sum(years) / len(years) if len(years) >= FEWEST else None,
        "regions": regions(config.column("country")),
        "n_countries": len(set(config.column("country")) - {None}),
        "missing": list(nulls.items()),
        "n_grey": config.column("is_grayscale").count(True),
        "n_groups": len(groups),
        "n_shared": sum(count for count in groups.values() if count > 1),
    }


def facts_of_protocols(config: Config) -> dict:
    labels, split, fold = config.column("label"), config.column("paper_split"), config.column("strict_fold")
    tested = [label for label, number in zip(labels, fold, strict=True) if number is not None]
    why_no_paper = None
    if not any(split):
        try:
            protocols.paper_split(labels)
            why_no_paper = "it was not applied to these images"
        except ProtocolError as error:
            why_no_paper = str(error)
    return {
        "n_testable": len(tested),
        "n_tested_conditions": len(set(tested)),
        "n_paper_train": split.count("train"),
        "n_paper_test": split.count("test"),
        "why_no_paper": why_no_paper,
    }


def facts_of_models(configs: Mapping[str, Config]) -> dict:
    """Which models restored photographs, wrote reports or made images, and how many of them."""
    facts = {"restored": [], "reporters": []}
    if "restored" in configs:
        columns = ("upscaler", "face_enhancer", "colorizer")
        used = Counter(name for column in columns for name in configs["restored"].column(column) if name)
        facts["restored"] = used.most_common()
    if "reports" in configs:
        reporters = configs["reports"].column("reporter")
        facts["reporters"] = Counter(name or "not recorded" for name in reporters).most_common()
    if "synthetic" in configs:
        images = configs["synthetic"]
        columns = ("generator", "base_model", "made_from", "protocol", "fold")
        titles = {name: name.replace("_", " ").capitalize() for name in columns if name in images.features}
        counted = {
            title: Counter("null" if value is None else str(value) for value in images.column(name))
            for name, title in titles.items()
        }
        facts["tables"] = [(title, sorted(counts.items())) for title, counts in counted.items()]
        facts["kept"] = images.column("kept").count(True) if "kept" in images.features else None
        facts["from_words_alone"] = facts_from_words(images)
        facts["has_fold"] = {"protocol", "fold"} <= set(images.features)
    return facts


def facts_from_words(images: Config) -> bool:
    """Whether no synthetic image has a photograph as its source."""
    return "made_from" in images.features and set(images.column("made_from")) == {WORDS}


def conditions(config: Config, sizes: Mapping[int, int]) -> list[dict]:
    """Every class in the order of its number, with its first recorded name and code."""
    first: dict[int, dict] = {}
    for label, name, code in zip(*map(config.column, ("label", "disease_name", "orphanet_code")), strict=True):
        recorded = first.setdefault(label, {"name": None, "orphanet_code": None})
        recorded["name"] = recorded["name"] or name
        recorded["orphanet_code"] = recorded["orphanet_code"] or code
    unknown = {"name": None, "orphanet_code": None}  # every image of a class may have been withdrawn
    return [
        {"label": name, "images": sizes.get(number, 0)} | first.get(number, unknown)
        for number, name in enumerate(config.class_names)
    ]


def pooled(counts: Mapping[str, int]) -> tuple[dict[str, int], int]:
    """Values that may be shown with their counts, the most frequent first, and the total count of all others.

    A value with fewer than FEWEST images is not shown. Neither is the next one as long as the others together have
    fewer, since that count could be found by subtracting the rest from the total."""
    public = dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    others = 0
    while public and (0 < others < FEWEST or min(public.values()) < FEWEST):
        others += public.popitem()[1]
    return public, others


def public_count(count: int) -> int | str:
    """The count, or "fewer than FEWEST" if it may not be told."""
    return count if count == 0 or count >= FEWEST else f"fewer than {FEWEST}"


def table(values: Iterable[str | None], order: tuple[str, ...] = ()) -> list[tuple[str, int | str]]:
    """Rows (value, images) of a card's table, in the given order or by frequency; nulls are "not recorded"."""
    counts = Counter(values)
    unknown = counts.pop(None, 0)
    public, others = pooled(counts)
    rows = [
        (value, public[value])
        for value in (*order, *(value for value in public if value not in order))
        if value in public
    ]
    rows += [(OTHERS, public_count(others))] if others else []
    return rows + ([("not recorded", unknown)] if unknown else [])


def regions(codes: Iterable[str | None]) -> list[dict]:
    """UN M49 regions, each with its countries; both are pooled, so that no small count follows from a total."""
    counts = Counter(codes)
    unknown = counts.pop(None, 0)
    of_region: dict[str, Counter] = {}
    for code, count in counts.items():
        of_region.setdefault(value_parsers.region(code) or "no region", Counter())[code] = count
    public, others = pooled({region: countries.total() for region, countries in of_region.items()})
    rows = []
    for region, total in public.items():
        countries, rest = pooled(of_region[region])
        named = [(value_parsers.country_name(code), count) for code, count in countries.items()]
        rows.append({"name": region, "images": total, "countries": named + ([(OTHERS, rest)] if rest else [])})
    rows += [{"name": "other regions", "images": public_count(others), "countries": []}] if others else []
    return rows + ([{"name": "not recorded", "images": unknown, "countries": []}] if unknown else [])


def limitations(facts: Mapping) -> list[str]:
    """What the dataset's numbers do not allow to be concluded, one sentence each."""
    n, sizes = facts["n_images"], dict(facts["size_counts"])
    rests_on = f"No condition has more than {max(sizes)} images: a result for one condition rests on as many at most."
    if singles := sizes.get(1, 0):
        have = "has" if 1 in (singles, facts["n_conditions"]) else "have"
        rests_on = (
            f"{singles} of {counted(facts['n_conditions'], 'condition')} {have} a single image"
            f" ({100 * singles / facts['n_conditions']:.0f} %), and the largest has {max(sizes)}: a result for one "
            "condition rests on a handful of images."
        )
    sentences = [
        rests_on,
        "How many images a condition has follows from what was collected, not from how frequent it is; nobody without "
        "a condition is shown, so nothing can be said about screening.",
    ]
    unknown = {"age_years": "the age", "sex": "the sex", "country": "the country", "subject_id": "the person"}
    missing = [f"{what} in {count}" for name, what in unknown.items() if (count := dict(facts["missing"]).get(name))]
    if missing:
        sentences.append(f"Not recorded, of {n} images: {', '.join(missing)}; results by such a group leave these out.")
    return sentences


def biases(facts: Mapping) -> list[str]:
    """Whom and what the dataset shows more than others, one sentence each."""
    n, sentences = facts["n_images"], []
    largest = facts["regions"][0] if facts["regions"] else {"countries": []}
    if largest["countries"]:
        share = f"{100 * largest['images'] / n:.0f} % of the images"
        sentences.append(f"The most frequent region is {largest['name']} ({share}); others are covered less.")
    if facts["n_grey"]:
        grey = f"Images in shades of grey: {public_count(facts['n_grey'])} of {n}"
        sentences.append(f"{grey}; such prints are often older, and a method may learn that instead.")
    if facts["simulated"]:
        sentences.append("The faces are drawn from parameters: far less varied than photographs, and easier.")
    else:
        chosen = "How photographs were chosen is not recorded"
        sentences.append(f"{chosen}; clinical and published ones tend to show marked cases.")
    return sentences
