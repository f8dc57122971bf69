"""The Croissant record of a dataset: its files with their digests, and every column of every config with its type.

Croissant (https://docs.mlcommons.org/croissant/) describes a dataset for programs and search engines; its properties
for responsible AI say what is sensitive, what is biased and which uses are out of bounds.
"""

import copy
import json
import re
from collections.abc import Mapping

import datasets
import mlcroissant

from curation import responsible_use
from curation.dataset_facts import Config
from harness.errors import InputError, one_line
from harness.real_or_simulated import REAL, SIMULATED, SYNTHETIC

SPECIFICATIONS = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
PARQUET = mlcroissant.EncodingFormat.PARQUET
NUMBERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64")
TYPES = {name: getattr(mlcroissant.DataType, name.upper()) for name in NUMBERS} | {
    "string": mlcroissant.DataType.TEXT, "large_string": mlcroissant.DataType.TEXT, "bool": mlcroissant.DataType.BOOL,
}  # fmt: skip
DESCRIPTIONS = {
    REAL: "Photographs of children with rare genetic conditions, under controlled access, for research.",
    SIMULATED: "SIMULATED faces of rare genetic conditions, drawn by a program; none shows a person.",
    SYNTHETIC: "Faces made by generators that were trained on gated photographs; none shows a person.",
}
LAYOUT = "They are stored in the layout of RDFace (Feng et al., CVPR 2026). "  # of a dataset of another name


def record(facts: Mapping) -> str:
    """The record as JSON-LD. facts: dataset_facts.facts_of a folder, with `version` and facts_of_name.

    Raises InputError if the library's own validation fails."""
    context = mlcroissant.Context(conforms_to=SPECIFICATIONS[0])
    configs = facts["configs"].values()
    names = next((config.class_names for config in configs if config.class_names), [])
    licence = "https://creativecommons.org/publicdomain/zero/1.0/" if facts["kind"] == "cc0-1.0" else "LICENSE"
    try:
        labels = [classes(context, names)] if names else []
        metadata = mlcroissant.Metadata(
            ctx=context,
            name=facts["title"] if facts["is_other"] else facts["name"],
            conforms_to=SPECIFICATIONS,
            version=facts["version"],
            description=f"{DESCRIPTIONS[facts['name']]} {LAYOUT * facts['is_other']}Not for clinical use.",
            license=[licence],
            cite_as=facts["citation"],
            keywords=["rare diseases", "faces", "medical images"] + ["simulated"] * facts["simulated"],
            distribution=[file for config in configs for file in files_of(context, config)],
            record_sets=[*labels, *(record_set(context, config) for config in configs)],
            **responsible_use.properties(facts),
        )
        written = json.loads(json.dumps(metadata.to_json(), default=str)) | responsible_use.additions(facts)
        written["@context"] |= responsible_use.VOCABULARIES
        mlcroissant.Metadata.from_json(mlcroissant.Context(), copy.deepcopy(written))  # as readers will check it
    except mlcroissant.ValidationError as error:
        raise InputError(f"croissant.json cannot be made: {one_line(error)}") from error
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def files_of(context: mlcroissant.Context, config: Config) -> list:
    """Each file with its digest, and the set of them that the columns are read from."""
    shards = [
        mlcroissant.FileObject(
            ctx=context, id=name, name=name, content_url=name, encoding_formats=[PARQUET], sha256=digest
        )
        for name, digest in config.shards.items()
    ]
    name, pattern = f"{config.name}-files", f"{config.name}/train-*.parquet"
    together = mlcroissant.FileSet(ctx=context, id=name, name=name, encoding_formats=[PARQUET], includes=[pattern])
    return [*shards, together]


def record_set(context: mlcroissant.Context, config: Config) -> mlcroissant.RecordSet:
    fields = []
    for number, (name, feature) in enumerate(config.features.items()):
        is_image = isinstance(feature, datasets.Image)  # stored as {bytes, path}
        source = mlcroissant.Source(
            ctx=context,
            file_set=f"{config.name}-files",
            extract=mlcroissant.Extract(ctx=context, column=name),
            transforms=[mlcroissant.Transform(ctx=context, json_path="bytes")] if is_image else [],
        )
        # No `references` to the classes: readers would join the two tables, and so drop the rows without a label.
        description = (
            "Number of the class; `classes` has its name." if isinstance(feature, datasets.ClassLabel) else None
        )
        # An identifier may not hold blanks, as the name of a curator's own column may, nor be another column's number.
        in_id = number if re.search(r"\s", name) or name.isdecimal() else name
        column = {"id": f"{config.name}/{in_id}", "name": name, "description": description} | type_of(name, feature)
        fields.append(mlcroissant.Field(ctx=context, source=source, **column))
    return mlcroissant.RecordSet(ctx=context, id=config.name, name=config.name, fields=fields)


def type_of(name: str, feature: object) -> dict:
    """Croissant's type of a column; lists may be nested. Raises InputError for a type that no config has."""
    dimensions = 0
    while isinstance(feature, datasets.List | datasets.LargeList):
        feature, dimensions = feature.feature, dimensions + 1
    array = {"is_array": True, "array_shape": ",".join(["-1"] * dimensions)} if dimensions else {}
    if isinstance(feature, datasets.Image):
        return {"data_types": [mlcroissant.DataType.IMAGE_OBJECT], **array}
    if isinstance(feature, datasets.ClassLabel):
        return {"data_types": [mlcroissant.DataType.INTEGER], **array}
    if isinstance(feature, datasets.Value) and feature.dtype in TYPES:
        return {"data_types": [TYPES[feature.dtype]], **array}
    raise InputError(f"column {name}: {feature} has no type in Croissant; store it as text, number or list")


def classes(context: mlcroissant.Context, names: list[str]) -> mlcroissant.RecordSet:
    """The names of `label`, which the files hold as numbers."""
    fields = [
        mlcroissant.Field(ctx=context, id="classes/number", name="number", data_types=[mlcroissant.DataType.INTEGER]),
        mlcroissant.Field(ctx=context, id="classes/name", name="name", data_types=[mlcroissant.DataType.TEXT]),
    ]
    rows = [{"classes/number": number, "classes/name": name} for number, name in enumerate(names)]
    kind = ["https://schema.org/Enumeration"]
    return mlcroissant.RecordSet(
        ctx=context, id="classes", name="classes", data_types=kind, key=["classes/number"], fields=fields, data=rows
    )
