"""model_upload.py: what reaches a Hub, here a server on this machine, and what it says where it may not upload."""

import contextlib
import re
from pathlib import Path

import pytest
from loopback_hub import Hub, answer, serving
from loopback_user import using

from harness import errors
from publishing import model_upload

TOKEN = "hf_" + "secret" * 5
PUBLISHED = {"README.md", "results.json", "per_class.csv", "corruptions.json"}
PUBLISHED |= {f"folds/seed0_fold{n}/model/{name}" for n in (0, 1) for name in ("config.json", "model.safetensors")}
KEPT_HERE = ("predictions.parquet", "heat_maps.png", "run.json", "settings.json", "learning_curves.csv")
KEPT_HERE += ("folds/seed0_fold0/predictions.parquet", "folds/seed0_fold0/checkpoint.pt", "corrupted/blur_1.parquet")


def hub_of_somebody() -> contextlib.AbstractContextManager[Hub]:
    """A Hub on which the token is somebody's, who belongs to the organisation lab."""
    return serving({TOKEN: "somebody"}, {"lab": {"somebody"}})


@pytest.fixture
def finished_run(tmp_path) -> Path:
    """The folder of a run, with all that must stay here."""
    for name in (*(PUBLISHED - {"README.md"}), *KEPT_HERE):
        file = tmp_path / "run" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"content of {name}" + (", of P01.1" if name in KEPT_HERE else ""))
    return tmp_path / "run"


CARD = "---\nlicense: other\n---\n# A card\n"


def upload(hub: Hub, folder: Path, home: Path, name: str = "lab/faces") -> tuple[str, str]:
    """check_access and push as a user of the Hub: the repository's name, and its address."""
    with using(hub.environment(home, TOKEN)):
        repo_id = model_upload.check_access(name, None)
        return repo_id, model_upload.push(folder, repo_id, None, CARD)


def committed(hub: Hub) -> set[str]:
    """Paths of the files that were uploaded."""
    return set(hub.repository("lab/faces", "model").files) - {".gitattributes"}


def test_models_go_to_a_private_repository_and_nothing_of_the_images_with_them(finished_run, tmp_path, capsys):
    with hub_of_somebody() as hub:
        repo_id, address = upload(hub, finished_run, tmp_path / "home")
    assert repo_id == "lab/faces" and address.startswith(hub.url)
    assert TOKEN not in "".join(capsys.readouterr())
    (created,) = (row.json for row in hub.asked("POST /api/repos/create"))
    assert created.get("private") is True or created.get("visibility") == "private"
    assert committed(hub) == PUBLISHED and hub.repository("lab/faces", "model").private
    sent = b"".join(row.body for row in hub.ledger)
    assert b"content of folds/seed0_fold1/model/model.safetensors" in sent
    assert b"P01.1" not in sent and TOKEN.encode() not in sent
    (looked,) = hub.asked("GET /api/models/lab/faces$")
    assert looked.number < hub.asked("preupload")[0].number
    assert (finished_run / "README.md").read_text().endswith("# A card\n")


def test_a_public_repository_gets_nothing(finished_run, tmp_path, capsys):
    with hub_of_somebody() as hub:
        hub.create("lab/faces", "model", private=False)
        with pytest.raises(errors.InputError, match="lab/faces is public and models of faces go to private") as refusal:
            upload(hub, finished_run, tmp_path / "home")
    assert str(refusal.value).startswith("lab/faces") and "\n" not in str(refusal.value)
    assert TOKEN not in str(refusal.value) + "".join(capsys.readouterr())
    assert not hub.asked("preupload") and not hub.asked("commit") and not hub.asked("PUT ")
    assert committed(hub) == set()


def test_an_upload_that_fails_says_so_in_one_line_and_where_the_results_are(finished_run, tmp_path, capsys):
    with hub_of_somebody() as hub:
        hub.fault("/preupload/", answer(403, "no write access"), times=None)
        with pytest.raises(errors.InputError) as refusal:
            upload(hub, finished_run, tmp_path / "home", "faces")
    line = str(refusal.value)
    assert line.startswith("somebody/faces: not uploaded (") and "\n" not in line
    assert line.endswith(f"results are in {finished_run}") and not hub.asked("commit")
    assert TOKEN not in line + "".join(capsys.readouterr())


# ---- access


def test_without_a_token_the_remedy_is_named(monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(errors.InputError) as error:
        model_upload.check_access("lab/faces", None)
    assert str(error.value) == "lab/faces: there is no token; run hf auth login, or set HF_TOKEN"


def test_where_the_hub_cannot_be_reached_the_token_is_not_shown():
    with pytest.raises(errors.InputError, match=r"cannot be reached .*; run hf auth login, or set HF_TOKEN") as error:
        model_upload.check_access("lab/faces", TOKEN)  # tests are offline
    assert TOKEN not in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lab/faces/more", "no blanks", "-", "a..b"])
def test_a_name_that_cannot_be_one_is_refused(name):
    with pytest.raises(errors.InputError, match=re.escape(f"{name} is no name for a repository: ")) as error:
        model_upload.check_access(name, TOKEN)
    assert "\n" not in str(error.value)


# ---- card


def test_the_card_tells_scores_limits_and_that_faces_were_simulated():
    table = "top1   42.00   sd 1.00"
    facts = ["456 images, 103 conditions", "recipe finetune"]
    card = model_upload.model_card("A classifier", "densenet169", facts, table, simulated=True)
    assert all(part in card for part in (table, *facts, "densenet169", "# A classifier", "SIMULATED"))
    assert "must not be used to diagnose" in card and "simulated" in model_upload.ModelCard(card).data.tags
    real = model_upload.model_card("A classifier", "densenet169", facts, table, simulated=False)
    assert "simulated" not in real.lower()
    assert model_upload.ModelCard(real).data.license == "other"


def test_a_local_path_of_a_base_is_written_into_no_card(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "base").mkdir(parents=True)
    assert "base_model: lab/base" in model_upload.adapter_card("lab/base", [], simulated=True)
    for local in ("models/base", str(tmp_path / "models" / "base"), "../models/base", "C:/models/base"):
        assert "base_model" not in model_upload.adapter_card(local, [], simulated=True)
        assert str(tmp_path) not in model_upload.adapter_card(local, [], simulated=True)
    loaded = 'StableDiffusionPipeline.from_pretrained("{}")'
    for given in ("models/base", "lab/base"):
        assert f"{loaded.format(given)}\n" in model_upload.adapter_card(given, [], simulated=True)
    elsewhere = model_upload.adapter_card(str(tmp_path / "models" / "base"), [], simulated=True)
    assert f"{loaded.format('base')}  # your copy of base\n" in elsewhere and "base: your copy of `base`;" in elsewhere
