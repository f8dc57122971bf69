"""A small simulated dataset restored: what becomes of its photographs, of a killed run, of processes, of bad input."""

import contextlib
import csv
import hashlib
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import spandrel
import torch
from in_process import exit_status
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN
from spandrel.architectures.RestoreFormer import RestoreFormer, RestoreFormerArch
from spandrel_extra_arches.architectures.DDColor import DDColor
from test_train_classifier import start_all

import rdface_dataset
import restore_images
import simulate_faces
from curation import (
    build_target,
    croissant,
    dataset_figures,
    datasheet,
    opening,
    parquet_files,
    restoration_target,
    restored_blocks,
    restored_rows,
    schema,
)
from demo_models import train_restorers
from harness import errors, files, run_folder
from imaging import faces, photographs, restoration
from imaging.restoration_settings import RestorationSettings

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "restore_images.py"
UPSCALER = ROOT / "demo_models" / "restorers" / f"{train_restorers.NAME}.safetensors"
ENVIRONMENT = {"ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
SIDE_PX, LARGE_PX = 64, 110
N_IMAGES = 17  # three blocks


# ---- a small dataset, and networks for it


def sepia(image: Image.Image) -> Image.Image:
    grey = np.asarray(image.convert("L"), float)[..., None] / 255
    return Image.fromarray(np.uint8(255 * ((0.16, 0.1, 0.05) + grey * (0.84, 0.83, 0.73))))


CHANGED = {  # photograph -> what it becomes before the dataset is built
    0: lambda image: image.convert("L"),
    1: sepia,
    2: lambda image: image.crop((8, 0, 48, SIDE_PX)),  # higher than wide
    3: lambda image: image.resize((LARGE_PX, 80)),  # larger than the square, and than a tile
}


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """Simulated photographs of 64 px: one grey, one sepia, one narrow, one larger than the others."""
    folder = tmp_path_factory.mktemp("built")
    sizes = ["--num_images", str(N_IMAGES), "--num_conditions", "4", "--image_size", str(SIDE_PX), "--num_workers", "1"]
    assert exit_status(simulate_faces, "--output_dir", folder / "raw", *sizes, "--seed", 11) == 0
    with (folder / "raw" / "disease_images.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, change in CHANGED.items():
        file = folder / "raw" / "rd_images" / rows[number]["disease_abbr"] / rows[number]["image_name"]
        change(Image.open(file).convert("RGB")).save(file, "JPEG", quality=95)
    built = folder / "small-sim"
    assert exit_status(rdface_dataset, "build", folder / "raw", "--output_dir", built) == 0
    return built


def copy_of(built: Path, folder: Path) -> Path:
    """The dataset in a folder of its own: hard links would let a test see changed originals too late."""
    subprocess.run(["cp", "-r", built, folder], check=True)
    return folder


@pytest.fixture(scope="module")
def colorizer(tmp_path_factory) -> Path:
    """The smallest DDColor that spandrel knows, with random weights that give strong colours, as a .pth file."""
    torch.manual_seed(0)
    sizes = {"nf": 512, "num_queries": 8, "dec_layers": 3, "num_output_channels": 2}
    network = DDColor(encoder_name="convnext-t", last_norm="Spectral", **sizes).train()
    with torch.no_grad():
        network(torch.rand(1, 3, 256, 256))  # its layers are divided by their norms, which it learns by and by
    state = network.state_dict()
    state["refine_net.0.0.bias"] = torch.tensor([20.0, 25.0])  # a and b of CIELAB: skin, roughly, everywhere
    file = tmp_path_factory.mktemp("colorizer") / "ddcolor_random.pth"
    torch.save({"params": state}, file)
    return file


@pytest.fixture(scope="module")
def face_enhancer(tmp_path_factory) -> Path:
    """A RestoreFormer as small as spandrel recognises one, with random weights."""
    torch.manual_seed(0)
    sizes = {"n_embed": 8, "embed_dim": 32, "z_channels": 32, "ch": 32, "num_res_blocks": 1, "attn_resolutions": (16,)}
    network = RestoreFormer(ch_mult=(1, 1, 1, 1, 1, 1), resolution=512, **sizes)
    file = tmp_path_factory.mktemp("face_enhancer") / "restoreformer_random.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, file)
    return file


def run_here(*flags: object) -> Path:
    """main in this process; returns --output_dir."""
    args = restore_images.parse_args([str(flag) for flag in flags])
    restore_images.main(args)
    return args.output_dir


def refusal(*flags: object) -> str:
    """The one line with which main refuses."""
    with pytest.raises(errors.InputError) as error:
        run_here(*flags)
    assert "\n" not in str(error.value)
    return str(error.value)


def read(folder: Path, config: str) -> list[dict]:
    """The rows of a config as Parquet has them, in the order of the files."""
    return [row for file in sorted((folder / config).glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def pixels(row: dict) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB")).astype(int)


def same_pictures(some: list[dict], others: list[dict]) -> bool:
    """The promise of the dataset's design: at most one grey level apart, in at most one of a thousand values."""
    differences = [np.abs(pixels(a) - pixels(b)) for a, b in zip(some, others, strict=True)]
    apart = np.concatenate([difference.ravel() for difference in differences])
    return apart.max() <= 1 and (apart > 0).mean() <= 0.001


SMALL = ("--upscaler", UPSCALER, "--pad_to", SIDE_PX + 8, "--tile", 96)


@pytest.fixture(scope="module")
def restored(built, colorizer, tmp_path_factory) -> Path:
    """`restored` beside `real`, made on one process, with a contact sheet beside the folder."""
    folder = copy_of(built, tmp_path_factory.mktemp("restored") / "small-sim")
    flags = ("--dataset_name", folder, *SMALL, "--colorizer", colorizer, "--batch_size", 4)
    return run_here(*flags, "--output_dir", folder, "--contact_sheet", folder.parent / "sheet.png")


# ---- the dataset


def test_every_row_is_kept_and_says_where_its_picture_comes_from(restored, colorizer):
    real, rows = read(restored, "real"), read(restored, "restored")
    about_the_picture = {"image", "width", "height", "sha256", "is_grayscale"}
    kept = [{name: value for name, value in row.items() if name not in about_the_picture} for row in real]
    assert [{name: row[name] for name in kept[0]} for row in rows] == kept  # labels, groups and folds, in this order
    for before, row in zip(real, rows, strict=True):
        assert (row["original_sha256"], row["original_width"], row["original_height"]) == (
            before["sha256"],
            before["width"],
            before["height"],
        )
        assert row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest()
        assert (row["height"], row["width"]) == pixels(row).shape[:2]
        assert row["image"]["path"] == f"{row['image_id']}.png" and row["image"]["bytes"][:4] == b"\x89PNG"
        assert (row["upscaler"], row["upscaler_sha256"]) == (UPSCALER.name, sha256_of(UPSCALER))
        assert (row["scale"], row["face_enhancer"], row["faces_enhanced"]) == (3.5, None, 0)
    assert [row["image_id"] for row in rows if row["colorizer"]] == [row["image_id"] for row in real[:2]]
    assert {row["colorizer"] for row in rows[:2]} == {colorizer.name}
    assert {row["colorizer_sha256"] for row in rows[:2]} == {sha256_of(colorizer)}


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_photographs_lie_in_a_black_square(restored):
    rows = read(restored, "restored")
    side = round(3.5 * (SIDE_PX + 8))
    assert [row["width"] for row in rows[:5]] == [side, side, side, round(3.5 * LARGE_PX), side]
    assert all(row["width"] == row["height"] for row in rows)
    left = round(3.5 * 16)  # 40 px wide, on 72
    narrow = pixels(rows[2])
    assert narrow[:, :left].max() == 0 and narrow[:, -left:].max() == 0 and narrow[:14].max() == 0
    assert narrow[16:-16, left + 2 : -left - 2].mean() > 20


def test_the_originals_stay_as_they_were_byte_for_byte(restored, built):
    shards = [sorted(folder.glob("real/*")) for folder in (built, restored)]
    assert [file.name for file in shards[0]] == [file.name for file in shards[1]]
    assert [sha256_of(file) for file in shards[0]] == [sha256_of(file) for file in shards[1]]


def test_old_photographs_are_coloured_and_their_lightness_stays(restored):
    for before, after in zip(read(restored, "real")[:2], read(restored, "restored")[:2], strict=True):
        inside = pixels(after)[16:-16, 16:-16]
        assert np.median(inside[..., 0] - inside[..., 2]) > 20 and not after["is_grayscale"]
        shrunk = np.asarray(Image.fromarray(inside.astype(np.uint8)).convert("L").resize((32, 32)), float)
        original = np.asarray(Image.fromarray(pixels(before).astype(np.uint8)).convert("L").resize((32, 32)), float)
        assert np.corrcoef(shrunk.ravel(), original.ravel())[0, 1] > 0.95


def test_load_dataset_opens_both_configs(restored):
    opened = datasets.load_dataset(str(restored), "restored", split="train")
    real = datasets.load_dataset(str(restored), "real", split="train")
    assert opened.column_names == [*real.column_names, *schema.PROVENANCE]
    assert opened.features["label"] == real.features["label"] and opened[0]["image"].mode == "RGB"
    assert len(opening.load_images(str(restored), "restored")) == len(real) == N_IMAGES


def test_the_parquet_layout_is_what_the_viewer_likes(restored):
    (file,) = (restored / "restored").iterdir()
    assert file.name == "train-00000-of-00001.parquet"
    metadata = pq.read_metadata(file)
    assert all(metadata.row_group(group).num_rows <= 100 for group in range(metadata.num_row_groups))
    assert metadata.row_group(0).column(0).has_offset_index


def test_nothing_but_the_result_is_left(restored):
    assert {path.name for path in restored.iterdir()} <= {*build_target.WRITTEN, *restoration_target.WRITTEN}
    hidden = [path.name for path in restored.parent.iterdir() if path.name.startswith(".")]
    assert hidden in ([], [".small-sim.derived"])  # the list of what was made of a dataset
    record = (restored / "restoration_record.json").read_text()
    assert str(restored.parent) not in record and str(ROOT) not in record
    assert json.loads(record)["networks"]["upscaler"]["sha256"] == sha256_of(UPSCALER)
    assert datasheet.version_of(restored) == "1.1.0"  # built as 1.0.0


def test_the_contact_sheet_is_for_its_owner_only(restored):
    sheet = restored.parent / "sheet.png"
    assert sheet.stat().st_mode & 0o777 == 0o600
    assert Image.open(sheet).size[0] > 1000 and len(np.unique(np.asarray(Image.open(sheet)))) > 100


def test_row_groups_and_shards_are_bounded_by_bytes(restored, tmp_path, monkeypatch):
    (file,) = (restored / "restored").iterdir()
    parts = [tmp_path / "part.parquet"]
    pq.write_table(pq.read_table(file), parts[0], row_group_size=1)
    size = file.stat().st_size
    monkeypatch.setattr(parquet_files, "MAX_ROW_GROUP_BYTES", size // 5)
    monkeypatch.setattr(parquet_files, "MAX_SHARD_BYTES", size // 2)
    parquet_files.write_shards(parts, tmp_path / "shards")
    shards = sorted((tmp_path / "shards").iterdir())
    n = len(shards)
    assert n >= 2 and [shard.name for shard in shards] == [f"train-{i:05d}-of-{n:05d}.parquet" for i in range(n)]
    assert [row for shard in shards for row in pq.read_table(shard).to_pylist()] == pq.read_table(file).to_pylist()
    assert pq.read_metadata(shards[0]).num_row_groups >= 2


# ---- processes, kills


def start(command: list, *flags: object) -> subprocess.Popen:
    arguments = [str(part) for part in (*command, *flags)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(arguments, **streams, env=os.environ | ENVIRONMENT)


def test_two_processes_equal_one(restored, built, colorizer, tmp_path):
    flags = ("--dataset_name", built, *SMALL, "--colorizer", colorizer, "--output_dir", tmp_path / "two-sim")
    (first, said, errors), (second, quiet, _) = start_all([{}, {}], flags, flags, script=SCRIPT.name)
    assert (first, second) == (0, 0), errors
    assert said.count("written:") == 1 and "written:" not in quiet and "2 processes" in said
    one, two = read(restored, "restored"), read(tmp_path / "two-sim", "restored")
    assert [row["image_id"] for row in one] == [row["image_id"] for row in two]
    assert same_pictures(one, two)  # of batches of 4 and of 1, too
    assert not (tmp_path / "two-sim" / "real").exists()
    assert len(datasets.load_dataset(str(tmp_path / "two-sim"), "restored", split="train")) == N_IMAGES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["two-sim"]


def test_a_killed_run_goes_on_to_the_same_result(restored, built, colorizer, tmp_path):
    folder = copy_of(built, tmp_path / "small-sim")
    parts = tmp_path / ".small-sim.restoring" / "parts"
    flags = ("--dataset_name", folder, *SMALL, "--colorizer", colorizer, "--output_dir", folder, "--batch_size", 4)
    process = start([sys.executable, SCRIPT], *flags)
    deadline = time.monotonic() + 120
    while not (parts / "000000.parquet").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert len(list(parts.glob("0*.parquet"))) < 3 and not (folder / "restored").exists()
    first = (parts / "000000.parquet").stat()
    assert parts.parent.stat().st_mode & 0o777 == 0o700
    assert "started with output_scale 3.5, not 2.0" in refusal(
        *flags, "--resume_from_checkpoint", "latest", "--output_scale", 2
    )
    written = restored_blocks.pq.write_table

    def remember(table, file, **options):
        assert file.name != ".000000.parquet.partial"  # what was done is not done again
        written(table, file, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(restored_blocks.pq, "write_table", remember)
        run_here(*flags, "--resume_from_checkpoint", "latest")
    assert first.st_size > 0 and not parts.exists()
    assert read(folder, "restored") == read(restored, "restored")
    before = sha256_of(next((folder / "restored").iterdir()))
    run_here(*flags, "--resume_from_checkpoint", "latest")  # finished before
    assert sha256_of(next((folder / "restored").iterdir())) == before


def test_a_photograph_that_fails_costs_no_other_and_leaves_the_dataset_alone(built, tmp_path):
    folder = copy_of(built, tmp_path / "small-sim")
    (file,) = folder.glob("real/*.parquet")
    table = pq.read_table(file)
    rows = table.to_pylist()
    rows[9]["image"]["bytes"] = rows[9]["image"]["bytes"][:100]
    rows[9]["sha256"] = hashlib.sha256(rows[9]["image"]["bytes"]).hexdigest()  # else it is refused before any work
    pq.write_table(type(table).from_pylist(rows, schema=table.schema), file)
    before = {path: sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    flags = ("--dataset_name", folder, *SMALL, "--output_dir", folder)
    line = refusal(*flags)
    assert f"1 of {N_IMAGES} images could not be restored" in line and rows[9]["image_id"] in line
    assert before == {path: sha256_of(path) for path in folder.rglob("*") if path.is_file()}
    parts = tmp_path / ".small-sim.restoring" / "parts"
    assert sorted(part.name for part in parts.iterdir()) == ["000000.parquet", "000002.parquet"]


class Killed(BaseException):
    pass


def renames(monkeypatch: pytest.MonkeyPatch, target: Path, stop_at: int) -> list:
    """What moves, appears or goes in the target from here on, of which the last one does not happen any more."""
    done = []

    def counting(call: Callable) -> Callable:
        def counted(*paths, **options):
            if any(target in (Path(path), *Path(path).parents) for path in paths if isinstance(path, str | Path)):
                if len(done) == stop_at:
                    raise Killed
                done.append(paths)
            return call(*paths, **options)

        return counted

    for name in ("rename", "replace", "unlink", "mkdir", "rmdir"):
        monkeypatch.setattr(os, name, counting(getattr(os, name)))
    return done


def state(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in folder.rglob("*") if path.is_file()}


def remembered(make: Callable) -> Callable:
    """The same function of facts, which does its work once for each version and content of a dataset."""
    results = {}

    def recalled(facts):
        key = facts["version"], json.dumps({name: config.shards for name, config in facts["configs"].items()})
        if key not in results:
            results[key] = make(facts)
        return results[key]

    return recalled


@pytest.mark.parametrize("case", ["beside real", "in place of an earlier one", "a folder of its own"])
def test_stopped_between_any_two_renames_it_comes_to_the_same(restored, built, tmp_path, monkeypatch, case):
    """Config, card, figures, Croissant record and run record, version included."""
    (shard,) = (restored / "restored").iterdir()
    earlier = pq.read_table(shard).slice(0, 4)
    record = {"settings_sha256": "that of this run"}
    # Both take long, and give the same for the same facts.
    monkeypatch.setattr(dataset_figures, "draw", remembered(dataset_figures.draw))
    monkeypatch.setattr(croissant, "record", remembered(croissant.record))

    def prepared(name: str) -> tuple[Path, Path]:
        """The target as it was, and what is to be published."""
        target = tmp_path / name / "small-sim"
        if case == "a folder of its own":
            (target / "restored").mkdir(parents=True)
        else:
            copy_of(built, (target.parent.mkdir(), target)[1])
        if case != "beside real":
            (target / "restored").mkdir(exist_ok=True)
            pq.write_table(earlier, target / "restored" / shard.name)
            datasheet.write_datasheet(target, "1.4.0")
            digest = restoration_target.settings_sha256({"run": "earlier"})
            files.write_json(target / "restoration_record.json", {"settings_sha256": digest})
        return target, remade(target)

    def remade(target: Path) -> Path:
        made = restoration_target.workspace_of(target) / "made"
        shutil.rmtree(made, ignore_errors=True)
        shutil.copytree(restored / "restored", made / "restored")
        files.write_json(made / "restoration_record.json", record)
        return made

    def published(target: Path, made: Path) -> None:
        restoration_target.publish(made, target, source=None if case == "a folder of its own" else target)

    target, made = prepared("whole")
    with monkeypatch.context() as patch:
        done = renames(patch, target, stop_at=1000)
        published(target, made)
        steps = len(done)
    whole = state(target)
    assert steps >= (2 if case == "a folder of its own" else 6)
    assert datasheet.version_of(target) == ("1.1.0" if case == "beside real" else "1.5.0")
    for stop_at in range(steps):
        target, made = prepared(str(stop_at))
        with monkeypatch.context() as patch, pytest.raises(Killed):
            renames(patch, target, stop_at)
            published(target, made)
        restoration_target.recover(target)
        if restoration_target.finished_before(target, {"run": "earlier"}):
            assert read(target, "restored") == earlier.to_pylist()
        published(target, remade(target))
        assert state(target) == whole, f"stopped at step {stop_at}"


def test_parts_of_other_photographs_or_cut_short_are_made_again(built, tmp_path, capsys, monkeypatch):
    folder = copy_of(built, tmp_path / "small-sim")
    rows = read(folder, "real")
    flags = ("--dataset_name", folder, *SMALL, "--output_dir", folder)

    def stop(*_: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(parquet_files, "write_shards", stop)  # once all three blocks are made
        with pytest.raises(Killed):
            run_here(*flags)
    parts = tmp_path / ".small-sim.restoring" / "parts"
    (parts / "000002.parquet").write_bytes((parts / "000001.parquet").read_bytes())  # another block's
    (parts / "000000.parquet").write_bytes((parts / "000000.parquet").read_bytes()[:-20])
    swapped = pq.read_table(parts / "000001.parquet")
    order = [1, 0, *range(2, 8)]
    images = swapped.column("image").take(order)
    pq.write_table(swapped.set_column(0, swapped.schema.field(0), images), parts / "000001.parquet", row_group_size=1)
    capsys.readouterr()
    run_here(*flags, "--resume_from_checkpoint", "latest")
    told = capsys.readouterr().out
    assert [number for number in (1, 2, 3) if f"block {number} of 3 holds other photographs, or was cut" in told] == [
        1,
        2,
        3,
    ]
    made = read(folder, "restored")
    assert [row["original_sha256"] for row in made] == [row["sha256"] for row in rows]
    assert all(row["sha256"] == hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in made)


def test_a_full_disk_is_named_and_what_is_done_is_kept(built, tmp_path, small_disk):
    folder = copy_of(built, small_disk / "small-sim")
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(small_disk).free - 700_000))
    before = state(folder)
    flags = ("--dataset_name", folder, *SMALL, "--output_dir", folder)
    remedy = "what is done is kept: make room and --resume_from_checkpoint latest"
    with pytest.raises(OSError, match=f"^there is no space left in .*disk; {remedy}$"):
        run_here(*flags)
    assert state(folder) == before and any((small_disk / ".small-sim.restoring/parts").iterdir())
    ballast.unlink()
    run_here(*flags, "--resume_from_checkpoint", "latest")
    assert len(read(folder, "restored")) == N_IMAGES and {path.name for path in small_disk.iterdir()} - {
        ".small-sim.derived"
    } == {"small-sim"}


# ---- refusals


def test_a_second_run_and_a_mount_point_are_refused_in_one_line(built, tmp_path, capsys):
    folder = copy_of(built, tmp_path / "small-sim")
    flags = ("--dataset_name", folder, *SMALL, "--output_dir", folder)
    line = "small-sim: is being written by another build, restoration or simulation; wait for it to end"
    with run_folder.sole_writer(folder):
        assert refusal(*flags) == line
        assert exit_status(rdface_dataset, "build", tmp_path, "--output_dir", folder) == 2
        assert capsys.readouterr().err.splitlines()[-1] == f"rdface_dataset.py: {line}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_folder, "_mount_points", lambda: {str(folder)})
        assert "small-sim: is a mount point, which cannot be replaced" in refusal(*flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["small-sim"]


def test_bad_input_is_refused_in_one_line_before_anything_is_written(built, face_enhancer, tmp_path):
    out = tmp_path / "out"
    given = ("--dataset_name", built, "--output_dir", out)
    assert "no such file" in refusal(*given, "--upscaler", tmp_path / "none.pth")
    assert "another kind of network" in refusal(*given, "--upscaler", face_enhancer)
    assert "another kind of network" in refusal(*given, *SMALL, "--colorizer", UPSCALER)
    assert "another kind of network" in refusal(*given, *SMALL, "--face_enhancer", UPSCALER)
    assert "enlarges 4 times at most" in refusal(*given, *SMALL, "--output_scale", 5)
    assert "lies in the dataset's folder" in refusal(*given, *SMALL, "--output_dir", built / "restored")
    assert "RealESRGAN_x4plus.safetensors is neither in" in refusal(*given, "--upscaler", "realesrgan-x4plus")
    for missing in ("nobody/nothing", "nobody/nothing/x4.pth"):
        line = refusal(*given, "--upscaler", missing)
        assert missing in line and "--upscaler FILE" in line
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    assert "holds notes.txt" in refusal(*given, *SMALL, "--output_dir", tmp_path / "mine")
    assert not out.exists() and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (("--tile", "20"), "--tile must be at least 64"),
        (("--max_side", "300"), "--max_side"),
        (("--output_scale", "0"), "--output_scale"),
        (("--contact_sheet", "out/sheet.png"), "contact_sheet"),
    ],
)
def test_impossible_flags_are_refused(flags, reason, capsys):
    with pytest.raises(SystemExit):
        restore_images.parse_args(["--dataset_name", "d", "--upscaler", "u", "--output_dir", "out", *flags])
    assert reason in capsys.readouterr().err


def test_restoring_what_was_restored_is_refused(restored, tmp_path):
    flags = ("--dataset_name", restored, "--dataset_config_name", "restored", *SMALL)
    assert "column original_sha256 already" in refusal(*flags, "--output_dir", tmp_path / "twice")


class Intruder:
    def __reduce__(self):
        return os.system, ("touch intruded",)


def test_weights_are_never_unpickled(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x4.pth").write_bytes(pickle.dumps({"conv_first.weight": Intruder()}))
    with pytest.raises(errors.InputError, match=r"x4\.pth"):
        restoration.load_network(str(tmp_path / "x4.pth"), "upscaler")
    assert not (tmp_path / "intruded").exists()


def test_tensors_of_no_known_architecture_are_refused(tmp_path):
    save_file({"weight": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(errors.InputError, match="spandrel cannot make a network of it"):
        restoration.load_network(str(tmp_path / "odd.safetensors"), "upscaler")


# ---- networks


@pytest.fixture(scope="module")
def upscaler() -> restoration.Network:
    return restoration.load_network(str(UPSCALER), "upscaler")


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    """An undamaged simulated photograph of a held-out person, (512, 512, 3) uint8."""
    return train_restorers.photograph(1, 2000)


def test_the_demo_upscaler_beats_bicubic_on_people_it_was_not_trained_on(upscaler):
    people = np.stack([train_restorers.photograph(person, 2000) for person in range(4)])  # the first 30 are held out
    figures = train_restorers.evaluate(upscaler.descriptor.model, people, 2000, torch.device("cpu"))
    assert figures["psnr_db"] > figures["bicubic_psnr_db"] + 1 and figures["better_than_bicubic"] == 1
    upscaler.descriptor.model.eval()


@pytest.mark.parametrize(("height", "width"), [(100, 230), (230, 100), (129, 131)])
def test_tiles_leave_no_seam(upscaler, portrait, height, width):
    picture = portrait[150 : 150 + height, 150 : 150 + width][None]
    whole = restoration.upscale(upscaler, picture, 512).astype(int)
    tiled = restoration.upscale(upscaler, picture, 96).astype(int)
    assert tiled.shape == whole.shape == (1, 4 * height, 4 * width, 3)
    apart = np.abs(tiled - whole)
    assert apart.max() <= 1 and (apart > 0).mean() < 0.001


@pytest.mark.parametrize(("length", "tile_px"), [(64, 512), (513, 512), (1000, 96), (97, 96), (200, 64)])
def test_the_weights_of_tiles_sum_to_one(length, tile_px):
    starts, size, weights = restoration._tiles(length, tile_px, 4)
    total = np.zeros(4 * length)
    for start, weight in zip(starts, weights, strict=True):
        total[4 * start : 4 * (start + size)] += weight
    assert total == pytest.approx(1, abs=1e-6)
    assert starts[0] == 0 and starts[-1] + size == length and size <= tile_px


class Painted(torch.nn.Module):
    """A network that returns what `paint` makes of the images; its weight only says where it is."""

    def __init__(self, paint):
        super().__init__()
        self.paint = paint
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, images: torch.Tensor, **options) -> torch.Tensor:
        return self.paint(images, **options)


class LittleMemory(torch.nn.Module):
    """The network on a machine where more than so many pixels do not fit."""

    def __init__(self, network: torch.nn.Module, most_px: int):
        super().__init__()
        self.network, self.most_px = network, most_px

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[0] * images.shape[2] * images.shape[3] > self.most_px:
            raise torch.OutOfMemoryError("not enough memory")
        return self.network(images)


def with_model(network: restoration.Network, model: torch.nn.Module) -> restoration.Network:
    """The same network with another module inside, through spandrel's own descriptor."""
    known = network.descriptor
    kinds = {"architecture": known.architecture, "purpose": known.purpose, "tags": [], "scale": known.scale}
    able = {"supports_half": False, "supports_bfloat16": False, "input_channels": 3, "output_channels": 3}
    descriptor = spandrel.ImageModelDescriptor(model, model.state_dict(), **kinds, **able)
    return restoration.Network(descriptor, network.name, network.sha256, None)


def test_a_photograph_too_large_for_memory_is_restored_in_smaller_parts(upscaler, portrait):
    pictures = np.stack([portrait[:200, :200], portrait[200:400, 200:400]])
    little = with_model(upscaler, LittleMemory(upscaler.descriptor.model, 110 * 110))
    whole, parts = (restoration.upscale(network, pictures).astype(int) for network in (upscaler, little))
    assert np.abs(whole - parts).max() <= 1
    with pytest.raises(MemoryError):
        restoration.upscale(with_model(upscaler, LittleMemory(upscaler.descriptor.model, 100)), pictures)


def test_a_network_that_overflows_is_not_believed(upscaler, portrait):
    overflowing = Painted(lambda images: torch.full_like(images, torch.nan).repeat(1, 1, 4, 4))
    with pytest.raises(ValueError, match="mixed_precision no"):
        restoration.upscale(with_model(upscaler, overflowing), portrait[None, :64, :64])


def test_colours_come_from_the_network_and_lightness_from_the_photograph(colorizer, portrait):
    network = restoration.load_network(str(colorizer), "colorizer")
    small = np.array(Image.fromarray(portrait).resize((128, 96)))
    coloured = restoration.colorize(network, small)
    grey = [np.asarray(Image.fromarray(picture).convert("L"), float).ravel() for picture in (small, coloured)]
    assert coloured.shape == small.shape and np.corrcoef(grey)[0, 1] > 0.99
    assert np.median(coloured[..., 0].astype(int) - coloured[..., 2]) > 20
    assert np.array_equal(
        coloured, restoration.colorize(network, np.array(Image.fromarray(small).convert("L"))[..., None].repeat(3, 2))
    )


def test_prints_of_one_tone_are_old_photographs_and_colour_photographs_are_not(portrait):
    image = Image.fromarray(portrait)
    noisy = np.asarray(sepia(image), float) + np.random.default_rng(0).normal(0, 8, (512, 512, 3))
    encoded = io.BytesIO()
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=40)
    print_of_one_tone = Image.open(encoded).convert("RGB")
    assert restoration.is_monochrome(print_of_one_tone) and not photographs.is_grayscale(print_of_one_tone)
    assert restoration.is_monochrome(image.convert("L").convert("RGB"))
    for person in range(5):
        assert not restoration.is_monochrome(Image.fromarray(train_restorers.photograph(person, 2000)))


# ---- faces


def face_network(model: torch.nn.Module, architecture: object = None, call=None) -> restoration.Network:
    kinds = {"architecture": architecture or RestoreFormerArch(), "purpose": "FaceSR", "tags": [], "scale": 1}
    able = {"supports_half": False, "supports_bfloat16": False, "input_channels": 3, "output_channels": 3}
    descriptor = spandrel.ImageModelDescriptor(model, model.state_dict(), **kinds, **able, call_fn=call)
    return restoration.Network(descriptor, "test", "0" * 64, None)


@pytest.fixture(scope="module")
def landmarks(portrait) -> np.ndarray:
    (face,) = faces.load_detector("mtcnn").detect([portrait])
    return face.landmarks


@pytest.mark.parametrize("scale", [1, 2])
def test_a_face_that_is_not_changed_is_put_back_where_it_was(portrait, landmarks, scale):
    larger = np.array(Image.fromarray(portrait).resize((512 * scale, 512 * scale), Image.Resampling.BICUBIC))
    pasted = restoration.enhance_face(face_network(Painted(torch.clone)), larger, portrait, landmarks)
    assert (
        np.abs(pasted.astype(int) - larger).mean() < 0.5 and np.percentile(np.abs(pasted.astype(int) - larger), 99) < 8
    )
    moved = np.abs(np.roll(larger, scale, axis=1).astype(int) - larger).mean()
    assert np.abs(pasted.astype(int) - larger).mean() < moved / 2  # one pixel beside its place would be worse


def test_only_the_face_is_changed_and_without_an_edge(portrait, landmarks):
    red = Painted(lambda images: torch.tensor([1.0, 0, 0])[None, :, None, None].repeat(1, 1, *images.shape[2:]))
    flat = np.full_like(portrait, 100)
    pasted = restoration.enhance_face(face_network(red), flat, portrait, landmarks).astype(int)
    x, y = np.round(landmarks[2]).astype(int)
    assert pasted[y, x].tolist() == [255, 0, 0]
    changed = (pasted != flat).any(axis=2)
    assert 0.1 < changed.mean() < 0.9 and not changed[0].any() and not changed[:, :20].any()
    assert np.abs(np.diff(pasted, axis=1)).max() < 20  # of 155: it fades in


def test_gfpgan_is_given_and_gives_the_range_it_was_trained_on(portrait, landmarks):
    """spandrel promises 0..1 for every network; GFPGAN wants -1..1, and noise of its own only if it is asked."""
    seen = {}

    def look(images, randomize_noise=True):
        seen.update(low=images.min().item(), high=images.max().item(), noise=randomize_noise)
        return images, []

    architecture = type(spandrel.MAIN_REGISTRY.get("GFPGAN").architecture)()
    network = face_network(Painted(look), architecture)
    pasted = restoration.enhance_face(network, portrait, portrait, landmarks)
    assert seen["noise"] is False and -1 <= seen["low"] < -0.5 and 0.5 < seen["high"] <= 1
    assert np.abs(pasted.astype(int) - portrait).mean() < 0.5


def test_the_face_enhancer_is_used_where_there_is_a_face(face_enhancer, portrait):
    network = restoration.load_network(str(face_enhancer), "face_enhancer")
    upscaler = restoration.load_network(str(UPSCALER), "upscaler")
    networks = restored_rows.Networks(upscaler, network, faces.load_detector("mtcnn"))
    with_face = np.array(Image.fromarray(portrait).resize((128, 128)))
    without = np.full((128, 128, 3), 128, np.uint8)
    settings = RestorationSettings(pad_to=0, output_scale=2)
    one, none = restored_rows.restore([with_face, without], networks, settings, contextlib.nullcontext)
    assert (one["faces_enhanced"], one["face_enhancer"]) == (1, face_enhancer.name)
    assert (none["faces_enhanced"], none["face_enhancer"], none["face_enhancer_sha256"]) == (0, None, None)
    assert one["picture"].shape == (256, 256, 3)


# ---- one picture


def test_a_large_photograph_is_enlarged_less_and_a_very_large_one_not_at_all():
    settings = RestorationSettings(max_side=4096, output_scale=3.5)
    assert [restored_rows.restored_scale(px, settings) for px in (512, 1024, 2048, 5000)] == [3.5, 3.5, 2.0, 1.0]


def test_one_photograph_that_fails_does_not_take_its_batch_along(upscaler, portrait):
    def fails_on_white(images):
        if (images == 1).all(dim=(1, 2, 3)).any():
            return torch.full((len(images), 3, *(4 * side for side in images.shape[2:])), torch.nan)
        return upscaler.descriptor.model(images)

    rows = []
    for number, picture in enumerate((portrait[:64, :64], np.full((64, 64, 3), 255, np.uint8), portrait[64:128, :64])):
        encoded = io.BytesIO()
        Image.fromarray(picture).save(encoded, "PNG")
        rows.append({"image": {"bytes": encoded.getvalue(), "path": None}, "image_id": f"C.{number}"})
    rows.append({"image": {"bytes": rows[0]["image"]["bytes"][:60], "path": None}, "image_id": "C.3"})
    networks = restored_rows.Networks(with_model(upscaler, Painted(fails_on_white)))
    settings = RestorationSettings(pad_to=0, batch_size=3)
    restored, failures = restored_rows.restore_block(rows, networks, settings, contextlib.nullcontext)
    assert [row["image_id"] for row in restored] == ["C.0", "C.2"]
    assert [failure.split()[0] for failure in failures] == ["C.3", "C.1:"]


def test_a_photograph_that_is_large_already_says_that_no_network_touched_it(upscaler, portrait):
    settings = RestorationSettings(max_side=512, pad_to=0)
    (found,) = restored_rows.restore([portrait], restored_rows.Networks(upscaler), settings, None)
    assert (found["upscaler"], found["upscaler_sha256"], found["scale"]) == (None, None, 1.0)
    assert np.array_equal(found["picture"], portrait)


def test_grey_stays_grey_without_a_colorizer(upscaler, portrait):
    grey = np.array(Image.fromarray(portrait[:80, :80]).convert("L").convert("RGB"))
    (found,) = restored_rows.restore(
        [grey], restored_rows.Networks(upscaler), RestorationSettings(pad_to=0), contextlib.nullcontext
    )
    assert np.ptp(found["picture"], axis=2).max() == 0 and found["colorizer"] is None


@pytest.mark.parametrize("shape", [(60, 40), (41, 60), (64, 64), (90, 30)])
def test_padding_centres_and_the_border_ends_black(shape):
    picture = np.full((*shape, 3), 200, np.uint8)
    padded = restored_rows.square(picture, 64)
    side = max(64, *shape)
    assert padded.shape == (side, side, 3) and padded.sum() == picture.sum()
    enlarged = np.full((2 * side, 2 * side, 3), 200, np.uint8)
    restored_rows.blacken_border(enlarged, picture, padded)
    assert np.array_equal(enlarged[::2, ::2], padded)


def test_a_random_real_esrgan_file_in_its_own_layout_is_read(tmp_path):
    """conv_first, body.0.rdb1.conv1 ... below params_ema, as the authors' RealESRGAN_x4plus.pth has them."""
    torch.manual_seed(0)
    network = ESRGAN(num_filters=8, num_blocks=1, scale=4)
    state = {}
    for key, tensor in network.state_dict().items():
        parts = key.split(".")
        if parts[:3] == ["model", "1", "sub"] and parts[4].startswith("RDB"):
            name = f"body.{parts[3]}.{parts[4].lower()}.{parts[5]}.{parts[-1]}"
        else:
            top = {
                "0": "conv_first",
                "1": "conv_body",
                "3": "conv_up1",
                "6": "conv_up2",
                "8": "conv_hr",
                "10": "conv_last",
            }
            name = f"{top[parts[1]]}.{parts[-1]}"
        state[name] = tensor
    torch.save({"params_ema": state}, tmp_path / "x4plus.pth")
    loaded = restoration.load_network(str(tmp_path / "x4plus.pth"), "upscaler")
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(loaded.descriptor(images), network.eval()(images).clamp(0, 1)) and loaded.scale == 4
