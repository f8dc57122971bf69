"""The columns of everything that a dataset's folder holds: their names, their types, and what they mean."""

from collections.abc import Iterable, Sequence

from datasets import ClassLabel, Features, Image, List, Value

from harness.errors import InputError

CONFIGS = ("reports", "restored", "real", "synthetic")  # in the order of the card

# What restoring adds to a row of config `real`.
PROVENANCE = {
    "original_sha256": Value("string"),  # of the photograph's bytes in config real
    "original_width": Value("int32"),  # px, as is height
    "original_height": Value("int32"),
    "upscaler": Value("string"),  # file name, or ORG/NAME/FILE on the Hub; null: not applied
    "upscaler_sha256": Value("string"),  # of the weights' file
    "scale": Value("float64"),  # px of the restored picture per px of the photograph
    "face_enhancer": Value("string"),
    "face_enhancer_sha256": Value("string"),
    "faces_enhanced": Value("int32"),
    "colorizer": Value("string"),
    "colorizer_sha256": Value("string"),
}
ABOUT_THE_PICTURE = ("image", "width", "height", "is_grayscale", "sha256")  # columns of `real` that restoring changes

# Columns of `real` whose null means that nobody recorded a value; in the others, null is an answer or cannot be.
MAY_BE_NULL = (
    "subject_id", "disease_name", "sub_category", "gene_names", "orphanet_code", "hpo_ids", "age_years", "sex",
    "country", "source_type", "source_url", "license",
)  # fmt: skip

# Columns that the card is made from: never an image, a report's text, or a column of the curator's own.
CARD_COLUMNS = (
    "label", "disease_name", "orphanet_code", "age_years", "age_group", "sex", "country", "source_type", "license",
    "is_grayscale", "group_id", "paper_split", "strict_fold", "upscaler", "face_enhancer", "colorizer", "reporter",
    "generator", "base_model", "made_from", "protocol", "fold", "kept", *MAY_BE_NULL,
)  # fmt: skip
_CARD_OF_PHOTOGRAPHS = ("label", "group_id", "paper_split", "strict_fold")
REQUIRED_BY_CARD = {"real": _CARD_OF_PHOTOGRAPHS, "restored": _CARD_OF_PHOTOGRAPHS, "synthetic": ("label",)}

# Columns without which a dataset is not opened, and in which no value may be missing.
NEVER_EMPTY_IN_IMAGES = ("image_id", "label", "group_id")
NEVER_EMPTY_IN_SYNTHETIC = ("synthetic_id", "generator", "protocol", "source_image_ids", "source_sha256")

NEAREST_ID_BY_LPIPS = "nearest_real_id_by_lpips"


def real_features(class_names: Sequence[str], extra_columns: Iterable[str] = ()) -> Features:
    """The columns of config `real`, in order.

    class_names: abbreviations in order of first appearance; extra_columns: the curator's own, kept as text. A value
    that is not known is null in every column. Raises ValueError if an extra column has the name of another."""
    columns = {
        "image": Image(mode="RGB"),
        "image_id": Value("string"),  # <ABBR>.<n>
        "subject_id": Value("string"),
        "label": ClassLabel(names=list(class_names)),
        "disease_name": Value("string"),
        "disease_abbr": Value("string"),
        "sub_category": Value("string"),
        "gene_names": List(Value("string")),
        "orphanet_code": Value("string"),
        "hpo_ids": List(Value("string")),  # seen in this photograph; null: nobody recorded any
        "age_years": Value("float64"),
        "age_group": Value("string"),  # one of value_parsers.AGE_GROUPS
        "sex": Value("string"),  # female, male
        "country": Value("string"),  # ISO 3166-1 alpha-3
        "source_type": Value("string"),
        "source_url": Value("string"),
        "license": Value("string"),
        "is_grayscale": Value("bool"),
        "width": Value("int32"),  # px, as is height
        "height": Value("int32"),
        "sha256": Value("string"),  # of the image bytes
        "group_id": Value("string"),  # image_id of the first image of the subject or of near duplicates
        "paper_split": Value("string"),  # train, test
        "paper_fold": Value("int8"),  # the fold in which a training image is validation; null: in none
        "strict_fold": Value("int8"),  # the fold in which an image is tested; null: its condition has a single group
    }
    extra = list(extra_columns)
    clashes = [name for name in extra if name in columns]
    if clashes:
        raise ValueError(f"columns {clashes} are columns of the dataset already; rename them in the CSV")
    return Features(columns | {name: Value("string") for name in extra})


def restored_features(features: Features) -> Features:
    """The columns of config `restored`: those of config `real`, given as features, followed by PROVENANCE.

    Raises InputError if `real` has a column of one of these names."""
    clash = next((name for name in PROVENANCE if name in features), None)
    if clash:
        raise InputError(f"the dataset has a column {clash} already; restore config real, or rename it in the CSV")
    return Features({**features, "image": Image(mode="RGB"), **PROVENANCE})


def synthetic_features(class_names: Sequence[str]) -> Features:
    """The columns of config `synthetic`, in order; class_names as in the real dataset. Unknown is null."""
    return Features(
        {
            "image": Image(mode="RGB"),
            "synthetic_id": Value("string"),  # <ABBR>_<n>; without a condition <GENERATOR>_<n>
            "label": ClassLabel(names=list(class_names)),  # null: not known until filtered
            "generator": Value("string"),
            "base_model": Value("string"),
            "adapter_sha256": Value("string"),  # of the file with the trained weights
            "prompt": Value("string"),
            "seed": Value("int64"),  # of this image's noise
            "protocol": Value("string"),
            "fold": Value("int8"),  # null under `paper`
            "source_image_ids": List(Value("string")),  # every real image that the generator saw
            "source_sha256": List(Value("string")),  # their digests in the same order: names may come to mean others
            "made_from": Value("string"),  # one of MADE_FROM; null: not said, and then there must be sources
            "hpo_said": List(Value("string")),  # terms that the prompt said, of a drawn person; null: none were drawn
        }
    )


def nearest_by_lpips(lpips_column: str) -> str:
    """The column for the smallest LPIPS to a photograph, beside the one for the mean."""
    return f"nearest_real_{lpips_column}"


def scored_features(features: Features, lpips_column: str | None) -> Features:
    """The columns of synthetic images after filter_synthetic.py: those they had, and what was measured of them.

    Without a face, measurements are null. lpips_column: name of the column for LPIPS; None: there is none."""
    lpips = {}  # mean distance to the label's photographs, and the nearest photograph
    if lpips_column:
        lpips = {lpips_column: Value("float64"), nearest_by_lpips(lpips_column): Value("float64")}
        lpips[NEAREST_ID_BY_LPIPS] = Value("string")
    measured = {
        "label_probability": Value("float64"),  # that a label given by the filter is right; null if it came with one
        "faces": Value("int32"),
        "box": List(Value("float64")),  # px as x1, y1, x2, y2, of the largest face
        "face_score": Value("float64"),  # the detector's own
        "landmarks": List(List(Value("float64"))),  # px, in the order of imaging.faces.LANDMARKS
        "cosine": Value("float64"),  # of the paper's descriptor to the mean of the label's photographs
        "euclidean": Value("float64"),
        "class_rank": Value("float64"),  # of the label by cosine; 1 is the best
        **lpips,
        "phenotype_probability": Value("float64"),  # calibrated probability that the label's phenotype is shown
        "phenotype_rank": Value("float64"),  # of the label by the descriptor of phenotype_probability
        "sharpness": Value("float64"),
        "copy_score": Value("float64"),  # 0..1, 1: certainly a copy
        "person_similarity": Value("float64"),  # cosine to the most similar person with the condition
        "nearest_real_id": Value("string"),  # of the photograph that is copied, else of that person
        "kept": Value("bool"),
        "reject_reason": Value("string"),  # null if kept
    }
    return Features({name: value for name, value in features.items() if name not in measured} | measured)
