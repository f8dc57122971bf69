"""Images by words: drawn people, their prompts, what the guard lets through, and the command without an adapter."""

import io
import json
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_pipelines import saved_pipeline
from test_routed_lora import nearly_equal
from test_train_classifier import painted_faces, save_dataset, start_all

import train_dreambooth
from curation.leak_guard import Guard
from curation.opening import load_images
from curation.protocols import Fold, folds
from generation import condition_prompts, dreambooth, lora_files, phenotype_captions, synthetic_mix
from generation.condition_prompts import ConditionPrompts, caption
from harness.errors import InputError, LeakError
from phenotyping.drawn_people import Attributes, DrawnPerson, draw_person, evidence, pooled_attributes
from publishing import withdrawal

ROOT = Path(__file__).resolve().parents[1]
NOBODY = Attributes({}, {}, {})
TABLE = """frequency,orphanet_code,hpo_id
0.9,904,HP:0000316
0.5,904,MARK:long_philtrum
1,904,MARK:hypertelorism
0.5,774,HP:0000316
1,5,MARK:hypertelorism
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory) -> dict[str, Path]:
    """A dataset of nine conditions, of which C0 and C1 are annotated in the table, and a base."""
    folder = tmp_path_factory.mktemp("words")
    made = datasets.load_dataset(str(save_dataset(folder / "plain", painted_faces())), split="train")
    codes = {"C0": "904", "C1": "774", "ONE": "999"}
    names, n = made.features["label"].names, len(made)
    made = made.add_column("orphanet_code", [codes.get(names[label]) for label in made["label"]])
    made = made.add_column("age_years", [2.2 + row % 9 if row % 4 else None for row in range(n)])
    made = made.add_column("sex", ["female" if row % 3 else "male" for row in range(n)])
    dataset = folder / "tiny-rdface"
    (dataset / "real").mkdir(parents=True)
    made.to_parquet(dataset / "real" / "train-00000-of-00001.parquet")
    shutil.copy(folder / "plain" / "README.md", dataset)
    (folder / "terms.csv").write_text(TABLE)
    return {"dataset": dataset, "table": folder / "terms.csv", "base": saved_pipeline(folder / "tiny"), "cache": folder}


def flags(places: dict[str, Path], output: Path, *more: object) -> list[str]:
    """Of a run by words on fold 0; a later flag wins."""
    own = ["--dataset_name", places["dataset"], "--pretrained_model_name_or_path", places["base"]]
    own += ["--cache_dir", places["cache"] / "pixels", "--prompts_from", "conditions", "--term_table", places["table"]]
    own += ["--fold", 0, "--num_images", 3, "--num_inference_steps", 2, "--guidance_scale", 3, "--output_dir", output]
    return [str(flag) for flag in (*own, *more)]


def run_here(*arguments: object) -> Path:
    args = train_dreambooth.parse_args(flags(*arguments))
    train_dreambooth.main(args)
    return args.output_dir / "fold0" / "synthetic"


def rows_of(folder: Path) -> list[dict]:
    return [row for file in sorted(folder.glob("synthetic/*.parquet")) for row in pq.read_table(file).to_pylist()]


def pixels_of(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])), np.int16)


def same_images(some: list[dict], others: list[dict]) -> bool:
    """Whether the rows are equal, and their pictures up to rounding."""
    rest = [[row | {"image": None} for row in rows] for rows in (some, others)]
    return rest[0] == rest[1] and all(
        nearly_equal(pixels_of(one), pixels_of(other)) for one, other in zip(some, others, strict=True)
    )


@pytest.fixture(scope="module")
def by_words(places, tmp_path_factory) -> Path:
    """Three images of each annotated condition, by the base alone."""
    return run_here(places, tmp_path_factory.mktemp("runs") / "words")


# ---- drawn people and their prompts


def test_terms_are_drawn_by_their_frequency_and_independently():
    frequencies = {"a": 0.9, "b": 0.25, "c": 0.0, "d": 1.0}
    weights = dict.fromkeys(frequencies, 0.0)
    people = [draw_person(frequencies, weights, NOBODY, seed).terms for seed in range(4000)]
    shares = {term: np.mean([term in terms for terms in people]) for term in frequencies}
    assert shares["c"] == 0 and shares["d"] == 1
    assert abs(shares["a"] - 0.9) < 0.02 and abs(shares["b"] - 0.25) < 0.03  # over four standard errors
    both = np.mean([{"a", "b"} <= set(terms) for terms in people])
    assert abs(both - 0.9 * 0.25) < 0.03
    assert people[:50] == [draw_person(frequencies, weights, NOBODY, seed).terms for seed in range(50)]


def test_attributes_count_people_once_and_are_drawn_apart_from_each_other():
    people = ["x", "x", "x", "y", "z"]
    pooled = pooled_attributes(people, [None, 3.4, 9.0, 7.6, None], ["male", "male", None, "female", None], [" "] * 5)
    assert pooled == Attributes({3: 1, 8: 1}, {"female": 1, "male": 1}, {})
    assert pooled.not_recorded() == ["ancestry"]
    drawn = [draw_person({}, {}, pooled, seed) for seed in range(400)]
    pairs = {(person.age_years, person.sex) for person in drawn}
    assert pairs == {(3, "male"), (3, "female"), (8, "male"), (8, "female")}  # no person's combination is kept
    assert abs(np.mean([person.age_years == 3 for person in drawn]) - 0.5) < 0.1
    assert {person.ancestry for person in drawn} == {None}


def test_the_rarest_term_elsewhere_speaks_most_for_a_condition():
    table = {"1": {"a": 0.8, "b": 0.8, "c": 0.0}, "2": {"a": 0.8}, "3": {"a": 0.8, "d": 1.0}}
    weights = evidence("1", table)
    assert weights["a"] == pytest.approx(0) and weights["b"] == pytest.approx(np.log(3)) and weights["c"] == -np.inf
    terms = [draw_person({"a": 1, "b": 1}, weights, NOBODY, seed).terms for seed in range(3)]
    assert terms == [("b", "a")] * 3


def test_captions_say_what_is_known_and_nothing_else():
    assert caption(DrawnPerson((), None, None, None), []) == "photo of a child"
    assert caption(DrawnPerson((), 0, "female", None), ["long philtrum"]) == "photo of a baby girl with long philtrum"
    assert caption(DrawnPerson((), 30, "male", "Asian"), [], "bqt") == "photo of a bqt 30 year old Asian man"
    assert caption(DrawnPerson((), None, None, "Asian"), []) == "photo of an Asian child"
    names = condition_prompts.term_names(["HP:0000316", "HP:0001250", "MARK:curly_hair"])
    assert names == {"HP:0000316": "hypertelorism", "HP:0001250": "seizure", "MARK:curly_hair": "curly hair"}


def test_terms_without_a_place_are_left_out_whole_the_least_informative_first():
    names = {"a": "one two three", "b": "four", "c": "five six"}
    weights = {"a": 1.0, "b": 3.0, "c": 2.0}
    prompts = [
        ConditionPrompts("C", 1, "", dict.fromkeys(names, 1.0), weights, names, NOBODY, 0, fits)
        for fits in (lambda _: True, lambda prompt: len(prompt.split()) <= 8, lambda prompt: len(prompt) < 20)
    ]
    everything, some, none = [of_limit.said(0) for of_limit in prompts]
    assert everything.prompt == "photo of a child with four, five six, one two three"
    assert (some.prompt, some.terms, some.left_out) == (
        "photo of a child with four, five six",
        ["b", "c"],
        ["one two three"],
    )
    assert (none.prompt, none.terms, len(none.left_out)) == ("photo of a child", [], 3)
    without = ConditionPrompts("C", 1, "", {"a": 0.0}, weights, names, NOBODY, 0, lambda _: True)
    assert without.said(0).terms is None  # nothing was drawn
    with pytest.raises(InputError, match="reads no prompt to its end"):
        ConditionPrompts("C", 1, "", {"a": 0.0}, weights, names, NOBODY, 0, lambda _: False).said(0)


# ---- what the guard lets through


def test_no_held_out_row_takes_part_in_what_people_are_drawn_from(places):
    images = load_images(str(places["dataset"]))
    fold, other = folds(images, "strict", 0)[0], folds(images, "strict", 1)[0]
    assert condition_prompts.attributes_of(images, fold, Guard(fold, images)).sex
    with pytest.raises(LeakError, match="is not on the training side and must not reach the people drawn"):
        condition_prompts.attributes_of(images, other, Guard(fold, images))


def test_images_of_held_out_ages_do_not_change_a_prompt(places, tmp_path):
    """Content, not only rows: other ages on the test side give the same prompts."""
    images = load_images(str(places["dataset"]))
    (fold,) = folds(images, "strict", 0)
    before = condition_prompts.attributes_of(images, fold, Guard(fold, images))
    held_out = set(fold.test.tolist())
    ages = [90.0 if row in held_out else age for row, age in enumerate(images["age_years"][:])]
    changed = images.remove_columns("age_years").add_column("age_years", ages)
    assert condition_prompts.attributes_of(changed, fold, Guard(fold, changed)) == before
    ages = [90.0 if row == fold.train[1] else age for row, age in enumerate(images["age_years"][:])]
    changed = images.remove_columns("age_years").add_column("age_years", ages)
    assert condition_prompts.attributes_of(changed, fold, Guard(fold, changed)) != before


@pytest.mark.parametrize(
    ("made_from", "ids", "digests", "adapter", "reason"),
    [
        ("words", [], [], None, None),
        ("adapter", [], [], "0" * 64, "names no source_image_ids"),
        ("adapter and words", [], [], None, "names no source_image_ids"),
        (None, [], [], None, "names no source_image_ids"),
        ("words", ["A.1"], ["d1"], None, "made from words alone, and names photographs"),
        ("words", [], [], "0" * 64, "made from words alone, and names photographs or an adapter"),
        ("words", ["B.1"], ["d2"], None, "not on the training side"),
    ],
)
def test_only_images_from_words_alone_need_no_source(made_from, ids, digests, adapter, reason):
    columns = {"image_id": ["A.1", "B.1"], "group_id": ["A.1", "B.1"], "sha256": ["d1", "d2"]}
    guard = Guard(Fold(0, np.array([0]), np.array([], int), np.array([1])), columns)
    images = {"synthetic_id": ["A_0"], "generator": ["dreambooth"], "protocol": ["strict"], "fold": [0]}
    images |= {"source_image_ids": [ids], "source_sha256": [digests]}
    said = {"made_from": [made_from], "adapter_sha256": [adapter]}
    if reason:
        with pytest.raises(LeakError, match=reason):
            guard.admit_synthetic(images | said)
        return
    guard.admit_synthetic(images | said)
    with pytest.raises(LeakError, match="names no source_image_ids"):  # files that do not say what they are made from
        guard.admit_synthetic(images)
    with pytest.raises(LeakError, match="was made for fold 0"):
        Guard(Fold(1, np.array([0]), np.array([], int), np.array([1])), columns).admit_synthetic(images | said)


# ---- the command without an adapter


def test_images_by_words_say_so_and_each_shows_another_person(by_words, places):
    rows = rows_of(by_words)
    assert [row["synthetic_id"] for row in rows] == [f"{c}_{i}" for c in ("C0", "C1") for i in range(3)]
    for row in rows:
        assert (row["made_from"], row["adapter_sha256"], row["source_image_ids"]) == ("words", None, [])
        assert row["hpo_said"] is None or set(row["hpo_said"]) <= {
            "HP:0000316",
            "MARK:long_philtrum",
            "MARK:hypertelorism",
        }
        said = {"HP:0000316": "hypertelorism", "MARK:long_philtrum": "long philtrum"}
        assert [name in row["prompt"] for name in said.values()][1] == ("MARK:long_philtrum" in (row["hpo_said"] or ()))
    assert all("MARK:hypertelorism" in row["hpo_said"] for row in rows[:3])  # its frequency is 1
    assert len({row["prompt"] for row in rows}) > 2 and all("year old" in row["prompt"] for row in rows)
    run = json.loads((by_words.parents[1] / "run.json").read_text())
    assert run["words"]["conditions_without_annotations"] == ["C2", "C3", "C4", "C5", "C6", "C7", "ONE"]
    assert run["words"]["unused_codes"] == ["5"] and run["words"]["not_recorded"] == ["ancestry"]
    assert run["adapters"] == [] and not (by_words.parent / "adapters").exists()
    photograph = load_images(str(places["dataset"]))["image_id"][0]
    found = withdrawal.derived(by_words.parents[1], photograph)
    assert not found.rows and not found.files  # nothing was made of anybody's photograph
    photographs = load_images(str(places["dataset"]))
    mix = synthetic_mix.open_mix([str(by_words)], None, photographs, "strict")
    (fold,) = mix.extend(folds(photographs, "strict", 0), photographs, 0)
    assert len(fold.train) == len(folds(photographs, "strict", 0)[0].train) + 6


def test_an_image_depends_on_seed_and_number_alone(by_words, places, tmp_path):
    rows = rows_of(by_words)
    other = run_here(places, tmp_path / "other", "--sample_batch_size", 2, "--adapters_per_batch", 1)
    assert same_images(rows_of(other), rows)
    few = run_here(places, tmp_path / "grown", "--num_images", 1, "--conditions", "C1")
    assert len(rows_of(few)) == 1
    more = run_here(places, tmp_path / "grown", "--conditions", "C1", "--resume_from_checkpoint", "latest")
    assert rows_of(more)[0] == rows_of(few)[0]  # the same bytes: it is kept
    assert same_images(rows_of(more), rows[3:])
    reseeded = run_here(places, tmp_path / "seed", "--seed", 1, "--conditions", "C1")
    assert not same_images([row | {"seed": 0} for row in rows_of(reseeded)], [row | {"seed": 0} for row in rows[3:]])


def test_two_processes_make_the_same_images(by_words, places, tmp_path):
    of_two = flags(places, tmp_path / "two", "--adapters_per_batch", 1)
    (first, printed, errors), (second, *_) = start_all([{}, {}], of_two, of_two, script="train_dreambooth.py")
    assert (first, second) == (0, 0), errors
    assert "without annotations, and so without images: C2, C3, C4, C5, C6, C7, ONE (7 conditions)" in printed
    assert "--term_table: the rows of 1 ORPHA code (5) are of no condition of the dataset" in printed
    assert same_images(rows_of(tmp_path / "two" / "fold0" / "synthetic"), rows_of(by_words))


def test_a_stopped_run_goes_on_and_a_changed_table_is_refused(by_words, places, tmp_path, monkeypatch):
    whole, calls = dreambooth.sampled_rows, []

    def stop_at_the_second(*arguments: object) -> list:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return whole(*arguments)

    monkeypatch.setattr(dreambooth, "sampled_rows", stop_at_the_second)
    more = ("--adapters_per_batch", 1)
    with pytest.raises(KeyboardInterrupt):
        run_here(places, tmp_path / "run", *more)
    assert (tmp_path / "run" / "work" / "fold0" / "C0.parquet").is_file() and len(calls) == 2
    monkeypatch.setattr(dreambooth, "sampled_rows", lambda *arguments: calls.append(1) or whole(*arguments))
    resumed = run_here(places, tmp_path / "run", *more, "--resume_from_checkpoint", "latest")
    assert same_images(rows_of(resumed), rows_of(by_words)) and len(calls) == 3  # C0 is not made again
    again = run_here(places, tmp_path / "run", *more, "--resume_from_checkpoint", "latest")  # finished before
    assert same_images(rows_of(again), rows_of(by_words)) and len(calls) == 3
    places = places | {"table": tmp_path / "terms.csv"}
    places["table"].write_text(TABLE.replace("0.9,904", "0.8,904"))
    with pytest.raises(InputError, match="was started with term_table_sha256"):
        run_here(places, tmp_path / "run", *more, "--resume_from_checkpoint", "latest")


@pytest.mark.parametrize("stop", [KeyboardInterrupt, RuntimeError])
def test_images_of_an_unfinished_batch_are_not_made_again(places, tmp_path, monkeypatch, stop):
    """KeyboardInterrupt is what SIGTERM raises; after a kill there is what was written from time to time."""
    whole, calls = dreambooth.sampled_rows, []

    def with_a_blank(pipeline, routed, batch, sampling) -> list:
        calls.append([f"{drawn.support.condition}_{number}" for drawn, number in batch])
        rows = whole(pipeline, routed, batch, sampling)
        return [None if name == "C0_1" else row for name, row in zip(calls[-1], rows, strict=True)]

    def stopped(*arguments: object) -> list:
        if len(calls) == 2:
            raise stop
        return with_a_blank(*arguments)

    monkeypatch.setattr(dreambooth, "sampled_rows", with_a_blank)
    more = ("--adapters_per_batch", 2, "--sample_batch_size", 2)
    unbroken = rows_of(run_here(places, tmp_path / "unbroken", *more))
    assert [row["synthetic_id"] for row in unbroken] == ["C0_0", "C0_2", "C0_3", "C1_0", "C1_1", "C1_2"]
    calls.clear()
    monkeypatch.setattr(dreambooth, "sampled_rows", stopped)
    if stop is RuntimeError:
        monkeypatch.setattr(dreambooth, "SAVE_EVERY_S", 0)
    with pytest.raises(stop):
        run_here(places, tmp_path / "run", *more)
    assert calls == [["C0_0", "C0_1"], ["C0_2", "C1_0"]]
    calls.clear()
    monkeypatch.setattr(dreambooth, "sampled_rows", with_a_blank)
    resumed = run_here(places, tmp_path / "run", *more, "--resume_from_checkpoint", "latest")
    assert sorted(name for batch in calls for name in batch) == ["C0_3", "C1_1", "C1_2"]
    assert same_images(rows_of(resumed), unbroken) and not (tmp_path / "run" / "work").exists()


def test_images_of_an_unfinished_batch_are_checked_before_a_run_goes_on(places, tmp_path, monkeypatch):
    whole = dreambooth.sampled_rows

    def stopped(pipeline, routed, batch, sampling) -> list:
        if batch[0][1]:
            raise KeyboardInterrupt
        return whole(pipeline, routed, batch, sampling)

    monkeypatch.setattr(dreambooth, "sampled_rows", stopped)
    more = ("--conditions", "C0", "--sample_batch_size", 1)
    with pytest.raises(KeyboardInterrupt):
        run_here(places, tmp_path / "run", *more)
    file = tmp_path / "run" / "work" / "fold0" / "begun" / "C0.parquet"
    table = pq.read_table(file)
    at = table.schema.get_field_index("prompt")
    pq.write_table(table.set_column(at, table.schema.field(at), [["photo of somebody else"]]), file)
    with pytest.raises(InputError, match=r"begun/C0.parquet: image C0_0 was made from another prompt than here"):
        run_here(places, tmp_path / "run", *more, "--resume_from_checkpoint", "latest")


def test_a_part_with_another_prompt_is_refused(places, tmp_path, monkeypatch):
    run_here(places, tmp_path / "run")
    file = next((tmp_path / "run" / "fold0" / "synthetic" / "synthetic").glob("*.parquet"))
    table = pq.read_table(file)
    prompts = ["photo of somebody else", *table["prompt"].to_pylist()[1:]]
    at = table.schema.get_field_index("prompt")
    pq.write_table(table.set_column(at, table.schema.field(at), [prompts]), file)
    with pytest.raises(InputError, match="image C0_0 was made from another prompt than here"):
        run_here(places, tmp_path / "run", "--resume_from_checkpoint", "latest")


def test_mistakes_are_named_in_one_line(places, tmp_path, capsys):
    mistakes = {
        "orphanet_code,hpo_id,frequency\n904,HP:0000316,1.5\n": "row 2: frequency '1.5' is not a share in 0..1",
        "orphanet_code,hpo_id,frequency\n": "holds no annotation",
        "orphanet_code,hpo_id,frequency\n1,HP:0000316,0.5\n": "none of C0, C1, .* is annotated there",
    }
    for text, reason in mistakes.items():
        (tmp_path / "terms.csv").write_text(text)
        with pytest.raises(InputError, match=reason):
            run_here(places, tmp_path / "run", "--term_table", tmp_path / "terms.csv")
    assert not (tmp_path / "run").exists()
    for wrong, reason in {
        ("--adapter", "phenotype", "--prompts_from", "instance"): "--adapter phenotype requires --prompts_from",
        ("--prompts_from", "instance"): "--term_table requires --prompts_from conditions",
        ("--num_images", "0"): "leaves nothing to do",
        ("--train_text_encoder",): "--train_text_encoder requires an adapter",
        ("--adapter", "phenotype", "--instance_prompt", "x"): "--instance_prompt is of no use with --adapter phenotype",
    }.items():
        with pytest.raises(SystemExit):
            train_dreambooth.parse_args(flags(places, tmp_path / "run", *wrong))
        assert reason in capsys.readouterr().err


# ---- adapters


def test_one_phenotype_adapter_learns_from_all_and_is_asked_without_subjects(places, tmp_path):
    more = ("--adapter", "phenotype", "--max_train_steps", 2, "--rank", 2, "--learning_rate", 1e-2)
    made = run_here(places, tmp_path / "run", *more)
    adapters = tmp_path / "run" / "fold0" / "adapters"
    assert [path.name for path in adapters.iterdir()] == ["phenotype"]
    images = load_images(str(places["dataset"]))
    train = folds(images, "strict", 0)[0].train.tolist()
    for row in rows_of(made):
        assert row["made_from"] == "adapter and words" and row["adapter_sha256"] == lora_files.sha256(
            adapters / "phenotype"
        )
        assert row["source_image_ids"] == [images[number]["image_id"] for number in train]
        assert "person" not in row["prompt"]
    record = lora_files.record_of(adapters / "phenotype")
    assert record["condition"] is None and record["steps"] == 2
    assert withdrawal.derived(tmp_path / "run", images[train[0]]["image_id"]).rows
    longer = run_here(places, tmp_path / "run", *more, "--max_train_steps", 3, "--resume_from_checkpoint", "latest")
    straight = run_here(places, tmp_path / "straight", *more, "--max_train_steps", 3)
    weights = [lora_files.load(run.parent / "adapters" / "phenotype")["unet"] for run in (longer, straight)]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert same_images(rows_of(longer), rows_of(straight))


def test_a_conditions_adapter_is_asked_for_drawn_people_by_its_identifier(places, tmp_path):
    more = ("--adapter", "condition", "--instance_prompt", "photo of a {disease_abbr} child", "--max_train_steps", 1)
    rows = rows_of(run_here(places, tmp_path / "run", *more, "--num_images", 2))
    assert {row["made_from"] for row in rows} == {"adapter and words"}
    assert all(f"photo of a {row['synthetic_id'][:2]} " in row["prompt"] and row["source_image_ids"] for row in rows)


def test_captions_of_photographs_change_at_each_visit_and_name_subjects_apart(places):
    images = load_images(str(places["dataset"]))
    (fold,) = folds(images, "strict", 0)
    tokens = phenotype_captions.open_tokens(
        images.features["label"].names, [f"zk{letter}" for letter in "abcdefghijklm"]
    )
    table = {"904": {"HP:0000316": 1.0, "MARK:long_philtrum": 0.5}}
    captions = phenotype_captions.open_captions(images, fold, tokens, table, 0, 16, lambda _: True)
    assert sorted(captions.photographs) == fold.train.tolist()
    row = next(row for row in fold.train.tolist() if images[row]["orphanet_code"] == "904")
    said = [captions.at(row, step) for step in range(2000)]
    assert said[:9] == [captions.at(row, step) for step in range(9)]
    spoken = [words for words in said if words]
    assert abs(1 - len(spoken) / len(said) - phenotype_captions.DROPPED_CAPTIONS) < 0.03
    share = np.mean(["hypertelorism" in words for words in spoken])
    assert abs(share - (1 - phenotype_captions.DROPPED_PARTS)) < 0.04
    share = np.mean(["long philtrum" in words for words in spoken])
    assert abs(share - 0.5 * (1 - phenotype_captions.DROPPED_PARTS)) < 0.05
    for token in (captions.photographs[row].subject, captions.photographs[row].condition):
        assert abs(np.mean([f" {token} " in f" {words} " for words in spoken]) - 0.8) < 0.15
    subjects = {images[row]["group_id"]: captions.photographs[row].subject for row in fold.train.tolist()}
    assert len(set(subjects.values())) == len(subjects)
    many = phenotype_captions.Tokens({}, ["a", "b", "c"])
    assert len({many.of_subject(number, 30) for number in range(30)}) == 30
