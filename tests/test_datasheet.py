"""The card and what lies beside it: made from the Parquet files, read back by those who will read them."""

import io
import json
import logging
import re
import shutil
from pathlib import Path

import huggingface_hub
import mlcroissant
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from datasets import ClassLabel, Dataset, Features, Image, List, Value, disable_progress_bars, load_dataset
from PIL import Image as PILImage

from curation import dataset_facts, dataset_figures, datasheet, responsible_use, schema
from curation.parquet_files import parquet_digest, shard_digests
from harness.errors import InputError

COUNTRIES = ["DEU"] * 12 + ["FRA"] * 6 + ["ITA"] * 3 + ["BRA"] * 7 + ["NZL"] * 2
SEXES = ["female"] * 14 + ["male"] * 14 + [None] * 2
AGES = [1.0] * 10 + [3.0] * 10 + [8.0] * 8 + [14.0, None]
TEXT, NUMBER = Value("string"), Value("float64")


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hf_cache")
    disable_progress_bars()
    logging.getLogger("absl").setLevel(logging.ERROR)


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("RGB", (40, 40), (shade, 90, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder: Path, config: str, features: Features, rows: list[dict], shards: int = 1) -> None:
    """Parquet files as the scripts leave them; a column that a row does not give is null."""
    (folder / config).mkdir(parents=True)
    empty = dict.fromkeys(features)
    for number, part in enumerate(np.array_split(np.arange(len(rows)), shards)):
        table = Dataset.from_dict(
            {name: [(empty | rows[i])[name] for i in part] for name in features}, features=features
        )
        table.to_parquet(folder / config / f"train-{number:05d}-of-{shards:05d}.parquet")


def photographs(source_type: str | None = None, names=("AAR", "NO", "1e3"), licence=None) -> list[dict]:
    """30 rows of `real`: every text that a card must not show holds SECRET."""
    return [
        {
            "image": {"bytes": png(n), "path": f"{names[n % 3]}.{n}.png"},
            "image_id": f"{names[n % 3]}.SECRET{n}", "subject_id": f"SECRET{n // 2}", "label": n % 3,
            "disease_name": f"Syndrome <b>|{n % 3}", "disease_abbr": names[n % 3], "orphanet_code": str(100 + n % 3),
            "gene_names": ["SECRETGENE"], "age_years": AGES[n], "sex": SEXES[n], "country": COUNTRIES[n],
            "age_group": AGES[n] and {1: "0-1", 3: "2-5", 8: "6-11", 14: "12-17"}[AGES[n]], "strict_fold": n % 5,
            "source_type": source_type, "source_url": "https://SECRET", "license": licence, "is_grayscale": n < 3,
            "width": 40, "height": 40, "sha256": "0" * 64, "group_id": f"SECRET{n // 2}", "own notes": "SECRET",
        }
        for n in range(30)
    ]  # fmt: skip


def real_features(names=("AAR", "NO", "1e3")) -> Features:
    return schema.real_features(list(names), ["own notes"])


def report_features() -> Features:
    return Features({"image_id": TEXT, "reporter": TEXT, "report": TEXT, "hpo_present": List(TEXT)})


def restored_features() -> Features:
    return Features(real_features() | {"upscaler": TEXT, "colorizer": TEXT, "scale": NUMBER})


@pytest.fixture
def folder(tmp_path) -> Path:
    """Real photographs in two files, restored ones, and reports."""
    made = tmp_path / "rdface"
    rows = photographs()
    write(made, "real", real_features(), rows, shards=2)
    restored = {"upscaler": "x4.safetensors", "scale": 3.5}
    write(made, "restored", restored_features(), [row | restored for row in rows])
    report = {"image_id": "AAR.0", "reporter": "org/model", "report": "SECRET"}
    write(made, "reports", report_features(), [report])
    datasheet.write_datasheet(made)
    return made


def card(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


def table_of(text: str, title: str) -> dict[str, str]:
    """First and second cell of the card's table with this title."""
    lines = text[text.index(f"| {title} |") :].splitlines()[2:]
    cells = [line.split("|")[1:3] for line in lines[: lines.index("")]]
    return {first.strip(): second.strip() for first, second in cells}


def test_every_config_loads_and_the_header_is_the_one_of_the_files(folder, tmp_path):
    header = datasheet.card_header(folder)
    assert [config["config_name"] for config in header["configs"]] == ["reports", "restored", "real"]
    default = load_dataset(str(folder), split="train")
    assert default.features == real_features() and default["label"][:] == [n % 3 for n in range(30)]
    assert load_dataset(str(folder), "restored", split="train").features == restored_features()
    assert load_dataset(str(folder), "reports", split="train")["reporter"][:] == ["org/model"]
    info = {entry["config_name"]: entry["splits"][0] for entry in header["dataset_info"]}
    assert [info[name]["num_examples"] for name in ("real", "restored", "reports")] == [30, 30, 1]
    for config in header["configs"]:
        name = config["config_name"]
        assert config["description"] == f"content {parquet_digest(shard_digests(folder, f'{name}/*.parquet'))}"
    assert header["task_categories"] == ["image-classification", "image-to-text"] and "language" not in header


@pytest.mark.parametrize(
    ("kept", "default"),
    [(["restored"], "restored"), (["reports"], "reports"), (["reports", "restored"], "restored"), (["real"], "real")],
)
def test_any_subset_of_the_configs_is_a_dataset(folder, kept, default):
    for name in {"real", "restored", "reports"} - set(kept):
        shutil.rmtree(folder / name)
    datasheet.write_datasheet(folder)
    header = datasheet.card_header(folder)
    assert [c["config_name"] for c in header["configs"] if c.get("default")] == [default]
    assert {c["config_name"] for c in header["configs"]} == set(kept)
    assert load_dataset(str(folder), split="train").num_rows == (1 if default == "reports" else 30)
    assert mlcroissant.Dataset(folder / "croissant.json").metadata.record_sets
    assert (datasheet.GENERATOR in card(folder)) == ("real" in kept), "a build may replace its own result only"


def test_the_public_files_tell_nothing_of_a_person(folder):
    public = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix != ".parquet" and path.is_file()}
    assert {path.name for path in public} == {
        "README.md",
        "LICENSE",
        "croissant.json",
        *dataset_figures.FIGURES,
    }
    for path, data in public.items():
        assert b"SECRET" not in data and str(folder.parent).encode() not in data, path.name
    assert "<b>" not in card(folder) and "Syndrome &#60;b&#62;&#124;2" in card(folder), (
        "a name is text, whatever it holds"
    )


def test_counts_are_those_of_the_data_and_small_ones_are_not_told_apart(folder):
    text = card(folder)
    assert table_of(text, "images of a condition") == {"10": "3"}
    assert table_of(text, "sex") == {"female": "14", "male": "14", "not recorded": "2"}
    ages = table_of(text, "age in completed years")
    assert ages == {"0-1": "10", "2-5": "10", "others": "9", "not recorded": "1"}, "not 12-17 alone"
    regions = table_of(text, "region")
    # Oceania has two images; with America's seven they are nine. Italy's three would follow from Europe's 21 less 18.
    assert regions == {"Europe": "21", "other regions": "9"}
    assert "Germany 12, others 9 |" in text and not re.search("France|Italy|New Zealand|Brazil", text)
    assert "In shades of grey: fewer than 5" in text and "Mean age where it is recorded: 4.07 years" in text


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"a": 9, "b": 5}, ({"a": 9, "b": 5}, 0)),
        ({"a": 9, "b": 8, "c": 4}, ({"a": 9}, 12)),
        ({"a": 9, "b": 3, "c": 2}, ({"a": 9}, 5)),
        ({"a": 452, "b": 4}, ({}, 456)),
        ({"a": 3}, ({}, 3)),
        ({}, ({}, 0)),
    ],
)
def test_pooled_counts_cannot_be_undone_by_subtraction(counts, expected):
    assert dataset_facts.pooled(counts) == expected


def test_the_hub_reads_the_header_and_the_form(folder):
    loaded = huggingface_hub.DatasetCard.load(folder / "README.md")
    data = loaded.data.to_dict()
    assert huggingface_hub.DatasetCardData(**data).to_dict() == data
    assert (data["license"], data["license_name"], data["license_link"]) == (
        "other",
        "rdface-controlled-access",
        "LICENSE",
    )
    assert data["size_categories"] == ["n<1K"] and "Deletion" in (folder / "LICENSE").read_text()
    fields = data["extra_gated_fields"]
    types = {name: kind if isinstance(kind, str) else kind["type"] for name, kind in fields.items()}
    assert set(types.values()) == {"text", "country", "select", "checkbox"}
    asked = ("Name", "Institution", "Role", "Purpose of the research", "Ethics approval number", "Ethics body")
    assert set(asked) < set(fields) and len(fields["Role"]["options"]) > 2
    undertakings = " ".join(name for name, kind in types.items() if kind == "checkbox")
    for word in ("pass", "identify or contact", "acknowledge", "delete", "clinical"):
        assert word in undertakings
    assert all(data[f"extra_gated_{part}"] for part in ("heading", "prompt", "description", "button_content"))


@pytest.mark.parametrize(
    ("rows", "name"),
    [(1, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (9999, "1K<n<10K"), (10_000, "10K<n<100K"), (10**6, "1M<n<10M"),
     (10**12 - 1, "100B<n<1T"), (10**12, "n>1T")],
)  # fmt: skip
def test_size_categories(rows, name):
    assert datasheet.size_category(rows) == name


def test_croissant_validates_and_yields_the_rows(folder):
    dataset = mlcroissant.Dataset(folder / "croissant.json")
    issues = dataset.metadata.ctx.issues
    assert not issues.errors and all("datePublished" in warning for warning in issues.warnings)
    assert [record_set.id for record_set in dataset.metadata.record_sets] == ["classes", "reports", "restored", "real"]
    rows = list(dataset.records("real"))
    columns = [name if name != "own notes" else "25" for name in real_features()]  # an identifier has no blanks
    assert len(rows) == 30 and list(rows[0]) == [f"real/{column}" for column in columns]
    assert np.array_equal(np.asarray(rows[29]["real/image"]), np.asarray(PILImage.open(io.BytesIO(png(29)))))
    assert rows[4]["real/gene_names"] == [b"SECRETGENE"] and rows[4]["real/label"] == 1 and rows[29]["real/sex"] is None
    names = {row["classes/number"]: row["classes/name"] for row in dataset.records("classes")}
    assert [names[n] for n in range(3)] == ["AAR", "NO", "1e3"]
    record = json.loads((folder / "croissant.json").read_text())
    files = {entry["contentUrl"]: entry["sha256"] for entry in record["distribution"] if "contentUrl" in entry}
    assert files == shard_digests(folder)
    assert record["license"] == "LICENSE" and record["version"] == "1.0.0" and "Feng" in record["citeAs"]


EIGHT = {  # of the NeurIPS 2026 track for datasets
    "rai:dataLimitations", "rai:dataBiases", "rai:personalSensitiveInformation", "rai:dataUseCases",
    "rai:dataSocialImpact", "rai:hasSyntheticData", "prov:wasDerivedFrom", "prov:wasGeneratedBy",
}  # fmt: skip


def croissant_record(folder: Path) -> dict:
    """A folder's record, once the library's own validation has found no fault in it."""
    issues = mlcroissant.Dataset(folder / "croissant.json").metadata.ctx.issues
    assert not issues.errors and all("datePublished" in warning for warning in issues.warnings)
    return json.loads((folder / "croissant.json").read_text())


def labels_of(nodes: list[dict]) -> list[str]:
    return [node.get("prov:label") or node["name"] for node in nodes]


def test_the_croissant_record_says_what_responsible_use_needs(folder):
    record = croissant_record(folder)
    assert set(record) >= EIGHT and all(record[name] for name in EIGHT)
    assert {"http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"} == set(record["conformsTo"])
    assert "more than 10 images" in str(record["rai:dataLimitations"]) and "region" in str(record["rai:dataBiases"])
    assert "children" in record["rai:personalSensitiveInformation"]
    steps = record["prov:wasGeneratedBy"]
    assert labels_of(steps) == ["Collection", "Build", "Restoration", "Reports"]
    assert labels_of(steps[2]["prov:wasAssociatedWith"]) == ["x4.safetensors"]
    assert labels_of(steps[3]["prov:wasAssociatedWith"]) == ["org/model"]
    terms = [term["termCode"] for term in record["usageInfo"] if term["@type"] == "DefinedTerm"]
    assert terms == ["DUO_0000006", "DUO_0000021", "DUO_0000026", "DUO_0000027"]
    (offer,) = [policy for policy in record["usageInfo"] if "odrl:Offer" in policy["@type"]]
    forbidden = [rule["odrl:action"] for rule in offer["odrl:prohibition"]]
    assert {"@id": "odrl:distribute"} in forbidden and "identify" in str(forbidden) and "DUO_0000043" in str(forbidden)
    assert [rule["odrl:action"]["@id"] for rule in offer["odrl:obligation"]] == ["odrl:attribute", "odrl:delete"]
    assert record["rai:hasSyntheticData"] is True, "restored pixels and reports are made by networks"
    for name in ("restored", "reports"):
        shutil.rmtree(folder / name)
    datasheet.write_datasheet(folder)
    assert croissant_record(folder)["rai:hasSyntheticData"] is False


def test_every_name_in_the_record_is_of_a_vocabulary_that_it_declares(folder):
    """Read as JSON-LD, no property of PROV, ODRL or DUO is lost or falls into schema.org."""
    from rdflib import Graph, Namespace, URIRef

    graph = Graph().parse(data=(folder / "croissant.json").read_text(), format="json-ld")
    prov, odrl = (Namespace(responsible_use.VOCABULARIES[name]) for name in ("prov", "odrl"))
    (dataset,) = graph.subjects(prov.wasGeneratedBy, unique=True)
    assert len(list(graph.objects(dataset, prov.wasGeneratedBy))) == 4
    assert len(list(graph.subjects(odrl.action, odrl.distribute))) == 1
    assert len(list(graph.subjects(odrl.action, URIRef(responsible_use.DUO + "0000043")))) == 1
    (synthetic,) = graph.objects(dataset, URIRef("http://mlcommons.org/croissant/RAI/hasSyntheticData"))
    assert synthetic.toPython() is True
    undeclared = [p for p in graph.predicates(unique=True) if str(p).startswith(("prov:", "odrl:", "rai:"))]
    assert undeclared == []


def test_figures_are_small_pictures_and_the_same_each_time(folder, monkeypatch):
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for name in ("bar_charts", "country_chart"):  # drawn anew, not recalled by tests/conftest.py
        monkeypatch.setattr(dataset_figures, name, getattr(dataset_figures, name).__wrapped__)
    datasheet.write_datasheet(folder)
    assert before == {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    for name, data in before.items():
        pixels = np.asarray(PILImage.open(io.BytesIO(data)).convert("L"))
        assert len(data) < 100_000 and pixels.shape[1] > 400 and 0.02 < (pixels < 200).mean() < 0.8, name
        assert re.search(rf"!\[.{{20,}}\]\(figures/{name}\)", card(folder)), "with a text for those who do not see it"


def test_a_figure_that_says_nothing_is_removed(folder):
    for name in ("restored", "reports", "real"):
        shutil.rmtree(folder / name)
    nothing = {"country": None, "sex": None, "age_years": None, "age_group": None}
    write(folder, "real", real_features(), [row | nothing for row in photographs()])
    datasheet.write_datasheet(folder)
    assert [path.name for path in (folder / "figures").iterdir()] == ["class_sizes.png"]
    assert "countries.png" not in card(folder) and table_of(card(folder), "sex") == {"not recorded": "30"}


def test_version_rises_with_the_content_only_and_the_contact_stays(folder, tmp_path):
    assert datasheet.version_of(folder) == "1.0.0" and datasheet.version_of(tmp_path) is None
    datasheet.write_datasheet(folder, datasheet.next_version("1.0.0"), contact="the data office, Room 1")
    datasheet.write_datasheet(folder)
    assert datasheet.version_of(folder) == "1.1.0" and "write privately to the data office, Room 1" in card(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert datasheet.version_after(folder, copy) == "1.1.0"
    shutil.rmtree(copy / "reports")
    assert datasheet.version_after(folder, copy) == "1.2.0" and datasheet.version_after(tmp_path, copy) == "1.0.0"
    assert datasheet.next_version("2.9.3") == "2.10.0"
    with pytest.raises(InputError, match="version one is not of the form"):
        datasheet.next_version("one")


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        (["AAR.1", "AAR.1", "AAR.1"], "an image is tested. No image can be tested: conditions with a single group"),
        (["AAR.1", "AAR.2", "AAR.2"], "an image is tested. 3 images of 1 condition are tested, each once; conditions"),
    ],
)
def test_a_card_of_one_condition_is_in_the_singular_and_says_that_sizes_are_always_shown(tmp_path, groups, said):
    rows = [row for row in photographs() if row["label"] == 0][:3]
    for n, (row, group) in enumerate(zip(rows, groups, strict=True)):
        row |= {"group_id": group, "strict_fold": n if len(set(groups)) > 1 else None}
    write(tmp_path, "real", real_features(("AAR",)), rows)
    datasheet.write_datasheet(tmp_path)
    text = " ".join(card(tmp_path).split())
    assert said in text and "3 images of 1 condition, one row an image." in text and "1 conditions" not in text
    assert f"an aligned comparison: {len(set(groups))} group{'s' * (len(set(groups)) > 1)};" in text
    assert table_of(card(tmp_path), "images of a condition") == {"3": "1"}
    assert "How many images a condition has, and in how many a value is not recorded, is always shown." in text
    limitations = " ".join(dataset_facts.facts_of(tmp_path)["limitations"])
    assert "a single image" not in limitations, "a limit that is not there"
    assert "No condition has more than 3 images: a result for one condition rests on as many at most." in limitations
    folder = tmp_path / "one image"
    write(folder, "real", real_features(("AAR",)), rows[:1])
    assert dataset_facts.facts_of(folder)["limitations"][0].startswith("1 of 1 condition has a single image (100 %)")


def test_withdrawals_are_counted_and_an_empty_condition_stays_in_the_list(folder):
    for name in ("restored", "reports", "real"):
        shutil.rmtree(folder / name)
    write(folder, "real", real_features(), [row for row in photographs() if row["label"] != 1])
    (folder / "withdrawn.csv").write_text("image_id,sha256,withdrawn_on,version\n" + "SECRET,0,2026-11-24,1.1.0\n" * 10)
    datasheet.write_datasheet(folder)
    assert "**10 photographs were withdrawn**" in card(folder) and "SECRET" not in card(folder)
    assert "| NO |  |  | 0 |" in card(folder) and "20 images of 2 conditions" in card(folder)


def test_simulated_images_are_called_so_everywhere(tmp_path):
    made = tmp_path / "rdface-sim"
    write(made, "real", real_features(), photographs("simulated", licence="CC0-1.0"))
    datasheet.write_datasheet(made)
    header, text = datasheet.card_header(made), card(made)
    assert (header["license"], header["pretty_name"]) == ("cc0-1.0", "RDFace-sim") and "simulated" in header["tags"]
    assert "no person" in (made / "LICENSE").read_text() and header["extra_gated_fields"]["Name"] == "text"
    assert text.count("![SIMULATED") == text.count("](figures/") == 3
    record = croissant_record(made)
    assert "SIMULATED" in record["description"] and set(record) >= EIGHT and record["rai:hasSyntheticData"] is True
    assert labels_of(record["prov:wasGeneratedBy"]) == ["Simulation", "Build"]
    assert "Human Phenotype Ontology" in labels_of(record["prov:wasDerivedFrom"])[0]
    assert record["usageInfo"][0]["termCode"] == "DUO_0000004" and "None" in record["rai:personalSensitiveInformation"]
    shutil.rmtree(made)
    rows = photographs("simulated", licence="CC0-1.0")
    write(made, "real", real_features(), [*rows[1:], rows[0] | {"source_type": None}])
    datasheet.write_datasheet(made)
    assert datasheet.card_header(made)["license_name"] == "rdface-controlled-access", "one image in doubt is enough"


def test_synthetic_images_have_an_open_card(tmp_path):
    names = ["AAR", "NO"]
    features = Features({
        "image": Image(mode="RGB"), "synthetic_id": TEXT, "label": ClassLabel(names=names), "generator": TEXT,
        "base_model": TEXT, "seed": Value("int64"), "protocol": TEXT, "fold": Value("int8"),
        "source_image_ids": List(TEXT), "landmarks": List(List(Value("float32"))), "kept": Value("bool"),
    })  # fmt: skip
    rows = [
        {
            "image": {"bytes": png(n), "path": f"{n}.png"}, "synthetic_id": f"s{n}", "label": n % 2 if n < 9 else None,
            "generator": "dreambooth", "base_model": "org/base", "seed": n, "protocol": "strict", "fold": n % 5,
            "source_image_ids": ["AAR.SECRET"], "landmarks": [[1.0, 2.0]] * 5, "kept": n < 8,
        }
        for n in range(10)
    ]  # fmt: skip
    made = tmp_path / "rdface-synthetic"
    write(made, "synthetic", features, rows)
    datasheet.write_datasheet(made)
    header, text = datasheet.card_header(made), card(made)
    assert load_dataset(str(made), split="train").features == features
    assert (
        not any(key.startswith("extra_gated") for key in header) and header["license_name"] == "rdface-synthetic-open"
    )
    assert "8 of\n10 were kept" in text and "trained on gated photographs" in text and "SECRET" not in text
    assert table_of(text, "Generator") == {"dreambooth": "10"} and table_of(text, "Fold")["0"] == "2"
    assert "10 images, one row an image, of 2 conditions; 1 without a label" in text
    record = croissant_record(made)
    assert set(record) >= EIGHT and labels_of(record["prov:wasDerivedFrom"])[1] == "Base model org/base"
    assert labels_of(record["prov:wasGeneratedBy"]) == ["Generation by dreambooth", "Filter"]
    permitted = [rule["odrl:action"]["@id"] for rule in record["usageInfo"][0]["odrl:permission"]]
    assert permitted == ["odrl:use", "odrl:distribute"]
    records = list(mlcroissant.Dataset(made / "croissant.json").records("synthetic"))
    assert len(records) == 10 and records[9]["synthetic/label"] is None
    assert np.allclose(records[0]["synthetic/landmarks"], [[1.0, 2.0]] * 5)


def test_folders_that_are_no_dataset_are_refused_in_one_line(folder, tmp_path):
    rows, unnamed = photographs(), Features(real_features() | {"label": Value("int64")})
    write(tmp_path / "a", "real", unnamed, rows)
    write(tmp_path / "b", "restored", Features({"image_id": TEXT}), [{"image_id": "AAR.0"}])
    write(tmp_path / "c", "real", real_features(), [])
    refused = {
        "a": "real: column label is no ClassLabel", "b": "restored: column group_id is missing",
        "c": "config real holds no rows",
    }  # fmt: skip
    for made, reason in refused.items():
        with pytest.raises(InputError, match=reason):
            datasheet.write_datasheet(tmp_path / made)
    with pytest.raises(InputError, match=r"holds no train-\*.parquet"):
        datasheet.write_datasheet(tmp_path)
    shutil.copytree(folder / "reports", folder / "synthetic")
    with pytest.raises(InputError, match="a folder of their own"):
        datasheet.write_datasheet(folder)
    shutil.rmtree(folder / "synthetic")
    (folder / "reports/train-00000-of-00001.parquet").write_bytes(b"PAR1 no more")
    before = card(folder)
    with pytest.raises(InputError, match="reports: its Parquet files cannot be read"):
        datasheet.write_datasheet(folder)
    assert card(folder) == before
    (folder / "README.md").write_text("---\n{[\n---\n")
    with pytest.raises(InputError, match=r"README.md: its header cannot be read"):
        datasheet.version_of(folder)


def test_columns_of_the_curator_may_have_any_name_and_classes_too(tmp_path):
    extra = ["camera (mm)", "schön ☺", "a/b", "@id", "<script>", "{{ x }}", " lead", "classes"]
    names = ["NO", '"q"', "{{ 7 * 7 }}"]
    features = schema.real_features(names, extra)
    rows = [{key: value for key, value in row.items() if key in features} for row in photographs(names=names)]
    write(tmp_path / "x", "real", features, [row | dict.fromkeys(extra, "SECRET") for row in rows])
    datasheet.write_datasheet(tmp_path / "x")
    assert load_dataset(str(tmp_path / "x"), split="train").features == features
    first = next(iter(mlcroissant.Dataset(tmp_path / "x/croissant.json").records("real")))
    assert sum(value == b"SECRET" for value in first.values()) == len(extra)
    assert "SECRET" not in card(tmp_path / "x") and "| {{ 7 &#42; 7 }} |" in card(tmp_path / "x")


def test_files_are_read_without_their_pictures(folder, monkeypatch):
    read = []
    original = pq.read_table
    monkeypatch.setattr(pq, "read_table", lambda file, columns: read.append(columns) or original(file, columns=columns))
    datasheet.write_datasheet(folder)
    asked = {column for columns in read for column in columns}
    assert asked and not asked & {"image", "image_id", "report", "own notes"}
    assert yaml.safe_load(card(folder).split("---\n")[1])["version"] == "1.0.0"
