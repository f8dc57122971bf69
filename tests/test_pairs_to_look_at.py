"""Pairs of photographs that a curator looks at: proposed, shown, answered in looked_at.csv, followed by the build."""

import base64
import csv
import io
import re
import stat
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from test_face_embeddings import MOBILEFACENET, mean_colour_network
from test_rdface_dataset import REAL_FACES, Curator, encoded, picture, run

from curation import building, pairs_to_look_at, same_person
from curation.pairs_to_look_at import LOOKED_AT, PAGE, PERSON, TEMPLATE, PairToLookAt
from publishing import publishable

needs_real = pytest.mark.skipif(
    not (MOBILEFACENET.is_file() and REAL_FACES.is_dir()), reason="the real network or photographs are not here"
)


@pytest.fixture
def curator(tmp_path) -> Curator:
    """Five photographs of two conditions; NA.2 is a copy of NA.1 in other bytes, AAR.1 and AAR.2 have subjects."""
    made = Curator(tmp_path / "folder", ["subject_id"])
    made.add("AAR.1.jpg", encoded(picture(1)), subject_id="P1")
    made.add("AAR.2.jpg", encoded(picture(2)), subject_id="P2")
    made.add("AAR.3.jpg", encoded(picture(3)))
    made.add("NA.1.jpg", encoded(picture(4, (300, 250))), abbr="NA")
    made.add("NA.2.png", encoded(picture(4, (300, 250)).resize((270, 225)), "PNG"), abbr="NA")
    return made


def answer(curator: Curator, *lines: str, header: str = "first_image,second_image,answer") -> Path:
    (curator.save() / LOOKED_AT).write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    return curator.folder


def groups(folder: Path, output: Path, *options: object) -> dict[str, str]:
    assert run("build", folder, "--output_dir", output, *options) == 0
    table = pq.read_table(output / "real", columns=["image_id", "group_id"])
    return dict(zip(*table.to_pydict().values(), strict=True))


@pytest.fixture
def alike(monkeypatch, tmp_path):
    """As if a network had found photographs of one person: those in one list; gives the options of a build."""

    def alike(*people: list[int]) -> list[object]:
        def embeddings(rows, embedder, detector):
            vectors = np.eye(len(rows), dtype=np.float32)
            for numbers in people:
                vectors[numbers] = vectors[numbers[0]]
            return vectors, list(range(len(rows)))

        monkeypatch.setattr(same_person, "face_vectors", embeddings)
        network = mean_colour_network(tmp_path / "mean.onnx")
        return ["--face_embedder", network, "--person_cosine", "0.5"]

    return alike


# ---- answers


def test_an_answer_joins_or_keeps_apart(curator, tmp_path):
    before = groups(curator.save(), tmp_path / "rdface")
    assert before == {"AAR.1": "AAR.1", "AAR.2": "AAR.2", "AAR.3": "AAR.3", "NA.1": "NA.1", "NA.2": "NA.1"}
    lines = ("AAR/AAR.3.jpg,AAR/AAR.1.jpg,Same person", "NA/NA.1.jpg,na\\NA.2.png, different people ")
    after = groups(answer(curator, *lines), tmp_path / "rdface")
    assert after == {"AAR.1": "AAR.1", "AAR.2": "AAR.2", "AAR.3": "AAR.1", "NA.1": "NA.1", "NA.2": "NA.2"}
    lines = ("AAR/AAR.3.jpg;AAR/AAR.1.jpg;same photograph", "NA/NA.1.jpg;NA/NA.2.png;")
    again = groups(answer(curator, *lines, header="First image;second_image;ANSWER"), tmp_path / "rdface")
    assert again["AAR.3"] == "AAR.1" and again["NA.2"] == "NA.1"  # an empty answer says nothing


def test_copies_stay_joined_through_a_third_and_a_note_says_so(curator, tmp_path, capsys):
    curator.add("NA.3.jpg", encoded(picture(4, (300, 250)).resize((330, 275))), abbr="NA")
    found = groups(answer(curator, "NA/NA.1.jpg,NA/NA.2.png,different people"), tmp_path / "rdface")
    assert found["NA.1"] == found["NA.2"] == found["NA.3"] == "NA.1"
    assert "NA/NA.1.jpg and NA/NA.2.png are different people, but in one group" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("AAR/AAR.1.jpg,AAR/AAR.9.jpg,same person", "2: second_image: 'AAR/AAR.9.jpg' is no photograph of the table"),
        (",AAR/AAR.1.jpg,same person", "2: first_image: is empty; write it as in AAR/AAR.3.jpg"),
        ("AAR/AAR.1.jpg,AAR/AAR.1.jpg,same person", "2: second_image: 'AAR/AAR.1.jpg' is the first image"),
        ("AAR/AAR.1.jpg,AAR/AAR.2.jpg,same person,x", "2: has 4 cells, but there are 3 columns; put cells that hold"),
        ("AAR/AAR.1.jpg,AAR/AAR.2.jpg,perhaps", "2: answer: 'perhaps' is no answer; write one of different people"),
        ("AAR/AAR.1.jpg,AAR/AAR.4.jpg,different people", "but rows 2 and 7 of the table have one subject_id"),
        ("AAR/AAR.1.jpg,AAR/AAR.5.jpg,different people", "the same photograph, pixel by pixel"),
        (
            "AAR/AAR.2.jpg,AAR/AAR.1.jpg,same person\nAAR/AAR.1.jpg,AAR/AAR.2.jpg,different people",
            "3: answer: says different people of the pair of which line 2 says same person; delete the wrong one",
        ),
    ],
)
def test_a_wrong_answer_is_one_line_with_its_remedy(curator, tmp_path, line, says):
    curator.add("AAR.4.jpg", encoded(picture(9)), subject_id="p 1")
    curator.add("AAR.5.jpg", encoded(picture(1)), subject_id="")
    said = [str(problem) for problem in building.examine(answer(curator, line), tmp_path).problems]
    (said,) = [one for one in said if one.startswith(f"{LOOKED_AT}:")]
    assert says in said


def test_a_wrong_answer_stops_the_build_and_is_left_out_if_asked(curator, tmp_path, capsys):
    folder = answer(curator, "AAR/AAR.1.jpg,AAR/AAR.9.jpg,same person")
    assert run("build", folder, "--output_dir", tmp_path / "rdface") == 2
    assert f"{LOOKED_AT}:2: second_image" in capsys.readouterr().err and not (tmp_path / "rdface").exists()
    groups(folder, tmp_path / "rdface", "--skip_bad")
    assert LOOKED_AT in (tmp_path / "rdface" / "rejected.csv").read_text()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"first_image,second_image\nAAR/AAR.1.jpg,AAR/AAR.2.jpg\n", "1: column answer is missing; fill in pairs_to"),
        (b"", "1: column first_image, second_image, answer is missing"),
        (b'first_image,second_image,answer\n"AAR/AAR.1.jpg,x,y\n', "a cell is not closed properly"),
        (b"first_image,second_image,answer\n\xff\xfe,x,y\n", "is not UTF-8; save it as CSV in UTF-8"),
        (b"first_image,second_image,answer\n\0,x,y\n", "is no table of answers"),
        (b"first_image,second_image,answer,Answer\nx,y,,same person\n", "1: column answer occurs twice"),
    ],
)
def test_a_file_that_is_no_table_of_answers_is_one_line(curator, capsys, content, says):
    (curator.save() / LOOKED_AT).write_bytes(content)
    assert run("validate", curator.folder) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"rdface_dataset.py: {LOOKED_AT}") and says in line


# ---- proposals


def test_persons_are_proposed_shown_answered_and_never_joined_unasked(curator, tmp_path, capsys, alike):
    folder, output = curator.save(), tmp_path / "rdface"
    plain = groups(folder, output)
    said = "persons: not looked for; without a subject_id, two photographs of one person count as two people's"
    assert said in capsys.readouterr().out and not (output / PAGE).exists()
    options = alike([0, 2], [1, 3, 4])
    assert groups(folder, output, *options) == plain
    told = capsys.readouterr().out
    assert (
        "persons: 3 pairs above cosine 0.5, among 5 faces" in told and f"3 pairs to look at: {PAGE} shows them" in told
    )
    page = (output / PAGE).read_text(encoding="utf-8")
    assert stat.S_IMODE((output / PAGE).stat().st_mode) == stat.S_IMODE((output / TEMPLATE).stat().st_mode) == 0o600
    shown = [Image.open(io.BytesIO(base64.b64decode(one))) for one in re.findall(r"base64,([^\"]+)", page)]
    assert [one.size for one in shown] == [(96, 80), (96, 80), (96, 80), (300, 250), (96, 80), (270, 225)]
    assert page.count("perhaps two photographs of one person") == 3 and "cosine 1.00 of the two faces" in page
    with (output / TEMPLATE).open(encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    assert [(row["first_image"], row["second_image"]) for row in rows] == [
        ("AAR/AAR.1.jpg", "AAR/AAR.3.jpg"), ("AAR/AAR.2.jpg", "NA/NA.1.jpg"), ("AAR/AAR.2.jpg", "NA/NA.2.png"),
    ]  # fmt: skip
    for row, said in zip(rows, ("different people", "same person", ""), strict=True):
        row["answer"] = said
    with (folder / LOOKED_AT).open("w", encoding="utf-8", newline="") as table:
        writer = csv.DictWriter(table, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    joined = plain | {"NA.1": "AAR.2", "NA.2": "AAR.2"}
    assert groups(folder, output, *options) == joined
    assert not (output / PAGE).exists() and "to look at" not in capsys.readouterr().out


def test_a_build_in_which_every_photograph_has_its_subject_does_not_say_that_persons_were_not_looked_for(
    curator, tmp_path, capsys
):
    for number, row in enumerate(curator.rows):
        row["subject_id"] = f"P{number}"
    groups(curator.save(), tmp_path / "rdface")
    assert "persons" not in capsys.readouterr().out
    curator.rows[0]["subject_id"] = ""
    groups(curator.save(), tmp_path / "rdface")
    assert "persons: not looked for" in capsys.readouterr().out


def test_an_answer_holds_for_the_photographs_that_were_looked_at(curator, tmp_path, capsys, alike):
    folder, output = curator.save(), tmp_path / "rdface"
    groups(folder, output, *alike([0, 2]))
    (folder / LOOKED_AT).write_text((output / TEMPLATE).read_text().replace("jpg,,", "jpg,different people,"))
    groups(folder, output)
    (folder / "rd_images" / "AAR" / "AAR.3.jpg").write_bytes(encoded(picture(7)))
    assert run("build", folder, "--output_dir", output) == 2
    assert "AAR/AAR.3.jpg has been exchanged since it was looked at" in capsys.readouterr().err


def test_the_page_shows_what_a_curator_wrote_as_text_and_no_more_pairs_than_fit(curator, tmp_path, alike, monkeypatch):
    monkeypatch.setattr("pages.pairs_page.MAX_PAIRS", 1)
    curator.rows[0]["disease_name"] = "<script>alert(1)</script>"
    groups(curator.save(), tmp_path / "rdface", *alike([0, 2], [1, 3]))
    page = (tmp_path / "rdface" / PAGE).read_text(encoding="utf-8")
    assert "&lt;script&gt;" in page and "<script" not in page and "1 of 2 pairs are shown" in page
    assert len((tmp_path / "rdface" / TEMPLATE).read_text().splitlines()) == 2


def test_the_pages_stay_when_the_dataset_is_published_and_go_with_the_next_build(curator, tmp_path, alike):
    output = tmp_path / "rdface"
    groups(curator.save(), output, *alike([0, 2]))
    files, stays, problems = publishable.sorted_files(output)
    assert {PAGE, TEMPLATE} <= set(stays) and not {PAGE, TEMPLATE} & set(files) and not problems
    groups(curator.folder, output)
    assert not (output / PAGE).exists() and not (output / TEMPLATE).exists()


def test_an_unknown_kind_of_pair_is_refused():
    with pytest.raises(ValueError, match="no kind of pair"):
        PairToLookAt("A.1", "A.2", "twins", "cosine 1")
    assert set(pairs_to_look_at.KINDS) == {"copy", "plate", PERSON}


# ---- the network


def test_a_network_that_was_not_measured_requires_a_cosine(curator, tmp_path, capsys):
    network = mean_colour_network(tmp_path / "mean.onnx")
    command = ("build", curator.save(), "--output_dir", tmp_path / "rdface")
    assert run(*command, "--face_embedder", network) == 2
    assert "was not measured; measure it with benchmarks/person_pairs.py" in capsys.readouterr().err
    assert run(*command, "--person_cosine", "0.5") == 2
    assert "--person_cosine requires --face_embedder FILE" in capsys.readouterr().err
    for value in ("1", "0", "nan", "much"):
        assert run(*command, "--face_embedder", network, "--person_cosine", value) == 2
        assert "is not between 0 and 1" in capsys.readouterr().err


def test_every_pair_above_the_cosine_is_found_and_no_other(monkeypatch):
    monkeypatch.setattr(same_person, "SEARCHED_ROWS", 64)
    vectors = np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    found = list(same_person.alike(vectors, 0.6))
    cosines = np.triu(vectors @ vectors.T, 1)
    assert {(i, j) for i, j, _ in found} == set(
        zip(*(axis.tolist() for axis in np.nonzero(cosines > 0.6)), strict=True)
    )
    assert len(found) > 100 and all(cosine == pytest.approx(cosines[i, j], abs=1e-5) for i, j, cosine in found)
    assert list(same_person.alike(vectors[:0], 0.6)) == []


@needs_real
def test_real_photographs_of_one_person_are_proposed_and_those_of_two_are_not(tmp_path, capsys):
    """Three adults, two photographs each, each under a condition of its own: nothing else says who they are."""
    made = Curator(tmp_path / "folder")
    for person in ("P01", "P02", "P03"):
        for number in (1, 2):
            data = (REAL_FACES / "rd_images" / person / f"{person}.{number}.jpg").read_bytes()
            made.add(f"{person}.{number}.jpg", data, abbr=person)
    made.add("P03.9.jpg", encoded(picture(5)), abbr="P03")
    output = tmp_path / "rdface"
    found = groups(made.save(), output, "--face_embedder", MOBILEFACENET)
    assert len(set(found.values())) == 7
    told = capsys.readouterr().out
    assert "no face was found on 1 photograph: P03.9" in told and "pairs of different adults exceeded" in told
    with (output / TEMPLATE).open(encoding="utf-8") as table:
        pairs = {(row["first_image"][4:7], row["second_image"][4:7]) for row in csv.DictReader(table)}
    assert pairs == {("P01", "P01"), ("P02", "P02"), ("P03", "P03")}
