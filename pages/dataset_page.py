"""Fills the HTML page that shows a dataset: thumbnails by condition, with filters, search and all recorded values.

    python make_report.py gallery DIR --output_file gallery.html

For people who do not use the Hub. The page (gallery_page.html is its template) needs no server and cannot load
anything: its Content-Security-Policy allows its own style and script, by their digests, and the pictures inside it.
Everything that a curator wrote is shown as text, never interpreted as HTML."""

import base64
import hashlib
import io
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import datasets
import jinja2
from PIL import Image
from tqdm import tqdm

from curation import value_parsers
from curation.opening import is_simulated
from harness import real_or_simulated
from harness.errors import InputError, one_line
from phenotyping import phenotypes

THUMBNAIL_PX = 160
MAX_IMAGES = 20_000  # a page of 128 MB, which Chromium opened in 2 s and filtered in 0.1 s; 456 make 3 MB
TEMPLATE = Path(__file__).resolve().parent / "gallery_page.html"
NOT_RECORDED = "not recorded"
AGE_GROUPS = tuple(value_parsers.AGE_GROUPS)
FILTERS = {  # name in the page's address -> its label, and the column that a dataset must have for it
    "condition": ("Condition", "label"),
    "sub_category": ("Sub-category", "sub_category"),
    "sex": ("Sex", "sex"),
    "age": ("Age in years", "age_group"),
    "region": ("UN region", "country"),
    "country": ("Country", "country"),
    "colour": ("Photograph", "is_grayscale"),
}
DETAILS = {  # heading -> column -> label; all other columns follow under their own names
    "Recorded": {
        "disease_name": "Condition", "label": "Abbreviation", "sub_category": "Sub-category",
        "orphanet_code": "Orphanet", "gene_names": "Genes", "sex": "Sex", "age_years": "Age", "age_group": "Age group",
        "country": "Country", "subject_id": "Subject", "hpo_ids": "HPO terms",
    },
    "Photograph": {
        "width": "Width", "height": "Height", "is_grayscale": "Colours", "source_type": "Source",
        "source_url": "Source address", "license": "Licence",
    },
    "Restoration": {
        "original_width": "Width before", "original_height": "Height before", "upscaler": "Upscaler", "scale": "Scale",
        "face_enhancer": "Face enhancer", "faces_enhanced": "Faces enhanced", "colorizer": "Colorizer",
        "original_sha256": "SHA-256 before", "upscaler_sha256": "Upscaler's", "face_enhancer_sha256": "Enhancer's",
        "colorizer_sha256": "Colorizer's",
    },
    "Dataset": {
        "group_id": "Group", "strict_fold": "Fold, strict", "paper_split": "Split, paper",
        "paper_fold": "Fold, paper", "sha256": "SHA-256",
    },
}  # fmt: skip
# Computed columns in which null means "none": no fold tests the image, no network was applied to it.
NULL_IS_NONE = {"strict_fold", "paper_split", "paper_fold", *DETAILS["Restoration"]}


def thumbnail(picture: Image.Image) -> bytes:
    """JPEG file, at most THUMBNAIL_PX wide and high, of the pixels alone: without EXIF, XMP, comment or profile."""
    small = picture.convert("RGB")
    small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX))
    small.info.clear()  # Pillow would write the comment from there
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=80)
    return jpeg.getvalue()


def gallery_page(images: datasets.Dataset) -> str:
    """The HTML page. Raises InputError for more than MAX_IMAGES images, and for one that cannot be decoded."""
    if len(images) > MAX_IMAGES:
        reason = f"{len(images)} images make a page that browsers hardly open, {MAX_IMAGES} is the most"
        raise InputError(f"{reason}; look at them in the Hub's viewer, or make pages of smaller datasets")
    names = images.features["label"].names
    columns = shown_columns(images.features)
    faces = []
    headings: dict[str, dict] = {}  # abbreviation -> heading, from the condition's first photograph
    for number in tqdm(range(len(images)), desc="thumbnails", unit="image", mininterval=1):
        try:
            row = images[number]
            picture = thumbnail(row.pop("image"))
        except (OSError, ValueError, AttributeError) as error:  # AttributeError: there is none
            raise InputError(f"image in row {number + 1} cannot be decoded ({one_line(error)}); build again") from error
        row["label"] = names[row["label"]]
        heading = headings.setdefault(row["label"], condition_heading(row))
        order = (heading["name"].casefold(), row["label"], age_order(row), number)
        faces.append((order, face_of(row, columns) | {"jpeg": base64.b64encode(picture).decode()}))
    faces = [face for _, face in sorted(faces, key=lambda pair: pair[0])]
    by_condition = itertools.groupby(faces, key=lambda face: face["choices"]["condition"][0])
    conditions = [headings[abbr] | {"faces": list(of_condition)} for abbr, of_condition in by_condition]
    return render(images, columns, conditions, faces)


def render(images: datasets.Dataset, columns: list[tuple], conditions: list[dict], faces: list[dict]) -> str:
    """The filled template. conditions: heading and faces of each; faces: all of them, in the page's order."""
    simulated = is_simulated(images)
    noun = "simulated face" if simulated else "photograph"
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["digest"] = digest
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title="RDFace-sim gallery (simulated)" if simulated else "RDFace gallery",
        simulated=simulated,
        noun=noun,
        n_subjects=len(set(images["group_id"])),
        config=images.config_name,
        content=images._fingerprint,
        made=f"{date.today():%d %B %Y}",
        thumbnail_px=THUMBNAIL_PX,
        filters=filters(faces),
        conditions=conditions,
        n_faces=len(faces),
        data={
            "columns": [(heading, label) for heading, _, label in columns],
            "terms": hpo_terms({hpo_id for face in faces for hpo_id in face["terms"] or ()}),
            "faces": [
                {name: face[name] for name in ("id", "text", "terms", "group", "values")}
                | {"choices": {name: value for name, (value, _) in face["choices"].items()}}
                for face in faces
            ],
            "noun": noun,
            "not_recorded": NOT_RECORDED,
        },
    )


def face_of(row: dict, columns: list[tuple]) -> dict:
    """Everything that the page holds about one photograph except the picture."""
    return {
        "id": row["image_id"],
        "caption": caption(row),
        "is_simulated": real_or_simulated.is_simulated([row.get("source_type")]),
        "choices": choices(row),
        "text": search_text(row),
        "terms": row.get("hpo_ids"),
        "group": row["group_id"],
        "values": [shown_value(column, row) for _, column, _ in columns],
    }


def digest(text: str) -> str:
    """The source expression of Content-Security-Policy (level 3) that allows exactly this style or script."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def filters(faces: Sequence[dict]) -> list[dict]:
    """The menus of the page. Each option has its number of faces; "not recorded" comes last."""
    menus = []
    for name, (label, _) in FILTERS.items():
        counts = Counter(face["choices"][name] for face in faces if name in face["choices"])
        options = sorted(counts, key=lambda option: (option[0] == NOT_RECORDED, option_order(name, option)))
        if options:
            menus.append({"name": name, "label": label, "options": [(*option, counts[option]) for option in options]})
    return menus


def option_order(name: str, option: tuple[str, str]) -> tuple[int, str]:
    """Sort key: age groups by age, everything else by the alphabet."""
    value, label = option
    return (AGE_GROUPS.index(value) if name == "age" and value in AGE_GROUPS else len(AGE_GROUPS), label.casefold())


def choices(row: dict) -> dict[str, tuple[str, str]]:
    """Filter -> value in the page's address, and its label; without filters of columns that the dataset lacks."""
    country = row.get("country")
    grey = {True: ("grey", "in grey"), False: ("colour", "in colour")}
    recorded = {
        "condition": (row["label"], with_abbreviation(row)),
        "sub_category": row.get("sub_category"),
        "sex": row.get("sex"),
        "age": row.get("age_group"),
        "region": value_parsers.region(country),
        "country": country and (country, value_parsers.country_name(country)),
        "colour": grey.get(row.get("is_grayscale")),
    }
    paired = {name: (value, value) if isinstance(value, str) else value for name, value in recorded.items()}
    return {name: paired[name] or (NOT_RECORDED,) * 2 for name, (_, column) in FILTERS.items() if column in row}


def condition_heading(row: dict) -> dict:
    """Heading of a condition. row: its first photograph."""
    return {
        "abbr": row["label"],
        "name": row.get("disease_name") or row["label"],
        "orpha": row.get("orphanet_code"),
        "genes": row.get("gene_names") or [],
    }


def with_abbreviation(row: dict) -> str:
    name = row.get("disease_name")
    return f"{name} ({row['label']})" if name and name != row["label"] else row["label"]


def caption(row: dict) -> str:
    """Text below a thumbnail: sex, age and country, if recorded."""
    recorded = (
        row.get("sex"),
        age(row.get("age_years")) or row.get("age_group"),
        value_parsers.country_name(row.get("country")),
    )
    return ", ".join(filter(None, recorded)) or "no sex, age or country recorded"


def age_order(row: dict) -> float:
    """Sort key within a condition: the youngest first, unknown ages last."""
    years = row.get("age_years")
    return math.inf if years is None else years


def age(years: float | None) -> str | None:
    """Age in words: completed months below two years, then years with one decimal, rounded down (5.97 stays 5.9)."""
    if years is None:
        return None
    if years < 2:
        months = math.floor(12 * years + 1e-3)  # 0.0833 years, as four decimals leave it, is one month
        return f"{months} month{'s' if months != 1 else ''}"
    return f"{math.floor(10 * years + 1e-6) / 10:g} years"


def search_text(row: dict) -> str:
    """The text that the search box searches, besides the names of the HPO terms."""
    code = row.get("orphanet_code")
    words = [row["image_id"], row["label"], row.get("disease_name"), *(row.get("gene_names") or ())]
    words += [code and f"ORPHA:{code}", row.get("sub_category"), value_parsers.country_name(row.get("country"))]
    return "; ".join(filter(None, words))


def hpo_terms(ids: set[str]) -> dict[str, dict[str, str]]:
    """HPO id -> its name, and all wordings with which the search box should find it."""
    facial = phenotypes.terms()
    terms = {}
    for hpo_id in sorted(ids):
        wordings = facial[hpo_id].wordings if hpo_id in facial else (ontology_name(hpo_id),)
        terms[hpo_id] = {"name": wordings[0], "words": "; ".join((hpo_id, *wordings))}
    return terms


def ontology_name(hpo_id: str) -> str:
    """A term's name in the release that hpo3 carries; empty if it has none."""
    try:
        return value_parsers.hpo_name(hpo_id)  # the first call loads the release, which takes a second
    except RuntimeError:
        return ""


def shown_columns(features: datasets.Features) -> list[tuple[str, str, str]]:
    """(heading, column, label) of all columns with values, which excludes bytes and further pictures."""
    labels = {column: (heading, label) for heading, named in DETAILS.items() for column, label in named.items()}
    columns = [(*labels[name], name) for name in labels if name in features]
    for name, feature in features.items():
        inner = feature.feature if isinstance(feature, datasets.List) else feature
        is_value = isinstance(inner, datasets.Value) and "binary" not in inner.dtype
        # The abbreviation is shown as the label, and the image_id as the title.
        if is_value and name not in labels and name not in ("image_id", "disease_abbr"):
            columns.append(("Further columns", name, name))
    return [(heading, name, label) for heading, label, name in columns]


def shown_value(column: str, row: dict) -> str | None:
    """A value in words; None if nothing is recorded."""
    value = row[column]
    if value is None:
        return "none" if column in NULL_IS_NONE else None
    match column:
        case "age_years":
            return age(value) if f"{value:.10g} years" == age(value) else f"{age(value)} ({value:.10g} years)"
        case "country":
            country = value_parsers.country_name(value)
            further = [name for name in (value_parsers.region(value), value) if name and name != country]
            return f"{country} ({', '.join(further)})" if further else value
        case "orphanet_code":
            return f"ORPHA:{value}"
        case "is_grayscale":
            return "shades of grey" if value else "colour"
        case "width" | "height":
            return f"{value} px"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
