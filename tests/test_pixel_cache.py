"""pixel_cache.py: the pixels are Pillow's, are made once, are nobody else's to read, and are never half of a file."""

import io
import stat
import subprocess
from pathlib import Path

import datasets
import numpy as np
import pytest
import skimage.data
import torch
from accelerate import Accelerator
from PIL import Image
from test_run_folder import mounted

from classification.backbones import Backbone, normalise
from harness import errors
from imaging import corruptions, faces, pixel_cache
from imaging.pixel_cache import BLOCK_ROWS, Pixels, cached_pixels

N, SIDE = BLOCK_ROWS + 3, 24  # one block and part of another


def photographs() -> list[Image.Image]:
    """Of several sizes and modes, among them grey ones and one with an alpha channel."""
    rng = np.random.default_rng(0)
    made = []
    for n in range(N):
        picture = Image.fromarray(rng.integers(0, 256, (40 + n, 61, 3), np.uint8))
        made.append(picture.convert({3: "L", 5: "RGBA"}.get(n, "RGB")))
    return made


def dataset_of(pictures: list[Image.Image | bytes | None], fingerprint: str | None = None) -> datasets.Dataset:
    rows = []
    for n, picture in enumerate(pictures):
        if isinstance(picture, Image.Image):
            encoded = io.BytesIO()
            picture.save(encoded, "PNG")
            picture = encoded.getvalue()
        rows.append({"image": None if picture is None else {"bytes": picture, "path": None}, "image_id": f"P.{n}"})
    features = datasets.Features({"image": datasets.Image(), "image_id": datasets.Value("string")})
    images = datasets.Dataset.from_list(rows, features=features)
    images._fingerprint = fingerprint or images._fingerprint
    return images


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator()


def cached(accelerator: Accelerator, images: datasets.Dataset, folder: Path, **changes: object) -> Pixels:
    return cached_pixels(accelerator, images, **({"side_px": SIDE, "face_alignment": None} | changes), cache_dir=folder)


def resized(image: Image.Image, side_px: int = SIDE) -> np.ndarray:
    return np.asarray(image.convert("RGB").resize((side_px, side_px), Image.Resampling.BILINEAR))


def test_pixels_are_pillows_bilinear_resize_in_the_order_of_the_dataset(accelerator, tmp_path):
    pixels = cached(accelerator, dataset_of(photographs()), tmp_path)
    assert np.array_equal(pixels.uint8, np.stack([resized(image) for image in photographs()]))
    assert isinstance(pixels.uint8, np.memmap) and not pixels.uint8.flags.writeable
    assert not pixels.faces_missed.any() and pixels.faces_missed.shape == (N,)


def test_each_image_is_decoded_once_for_good(accelerator, tmp_path):
    first = cached(accelerator, dataset_of(photographs(), "the-same"), tmp_path)
    before = {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.glob("*.npy")}
    assert len(before) == 2
    no_images = dataset_of([b"cannot be decoded"] * N, "the-same")
    again = cached(accelerator, no_images, tmp_path)
    assert np.array_equal(again.uint8, first.uint8)
    assert {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in tmp_path.glob("*.npy")} == before


def test_whatever_shapes_the_pixels_has_a_file_of_its_own(accelerator, tmp_path):
    pictures = photographs()
    cached(accelerator, dataset_of(pictures, "one"), tmp_path)
    known = 1
    for fingerprint, changes in (
        ("two", {}),
        ("one", {"side_px": 16}),
        ("one", {"corruption": ("noise", 1)}),
        ("one", {"corruption": ("noise", 2)}),
        ("one", {"corruption": ("blur", 1)}),
        ("one", {"face_alignment": "mtcnn"}),
    ):
        cached(accelerator, dataset_of(pictures, fingerprint), tmp_path, **changes)
        known += 1
        assert len(list(tmp_path.glob("*.json"))) == known, f"{changes} took another's file"
    assert len(list(tmp_path.glob("*.npy"))) == 2 * known


def test_corrupted_pixels_are_those_of_the_damaged_photograph(accelerator, tmp_path):
    pixels = cached(accelerator, dataset_of(photographs()), tmp_path, corruption=("noise", 2))
    for n in (0, 3, N - 1):
        rng = corruptions.corruption_rng(f"P.{n}", "noise", 2)
        worse = corruptions.corrupt(photographs()[n].convert("RGB"), "noise", 2, rng)
        assert np.array_equal(pixels.uint8[n], resized(worse))


def test_a_face_is_cut_out_upright_and_where_none_is_found_the_photograph_is_whole(accelerator, tmp_path):
    astronaut = Image.fromarray(skimage.data.astronaut())
    nobody = Image.fromarray(skimage.data.coffee())
    pixels = cached(accelerator, dataset_of([astronaut, nobody]), tmp_path, side_px=64, face_alignment="mtcnn")
    assert pixels.faces_missed.tolist() == [False, True]
    (face,) = faces.load_detector("mtcnn", accelerator.device).detect([astronaut])
    assert np.array_equal(pixels.uint8[0], faces.align(np.asarray(astronaut), face.landmarks, 64))
    assert np.array_equal(pixels.uint8[1], resized(nobody, 64))


def test_photographs_are_readable_by_their_owner_only(accelerator, tmp_path):
    folder = tmp_path / "new" / "cache"
    cached(accelerator, dataset_of(photographs()[:2]), folder)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    files = list(folder.glob("*.npy"))
    assert len(files) == 2 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)


def test_a_file_that_was_not_finished_is_made_again(accelerator, tmp_path):
    images = dataset_of(photographs())
    cached(accelerator, images, tmp_path)
    (record,) = tmp_path.glob("*.json")
    record.unlink()  # it is written last
    half = np.load(record.with_suffix(".npy"), mmap_mode="r+")
    half[N // 2 :] = 0
    half.flush()
    pixels = cached(accelerator, images, tmp_path)
    assert np.array_equal(pixels.uint8[-1], resized(photographs()[-1])) and record.exists()


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def other_pixels(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def other_shape(file: Path) -> None:
    np.save(file, np.zeros((N, SIDE, SIDE), np.uint8))


def other_type(file: Path) -> None:
    np.save(file, np.zeros((N, SIDE, SIDE, 3), np.int8))


@pytest.mark.parametrize(
    ("kind", "damage", "reason"),
    [
        (".npy", cut, "mmap length is greater than file size"),
        (".npy", Path.unlink, "No such file"),
        (".npy", lambda file: file.write_bytes(b""), "EOF"),
        (".npy", lambda file: file.write_bytes(file.read_bytes() + b"x"), "is not what its record says"),
        (".npy", lambda file: file.write_bytes(b"PK\x03\x04" + bytes(99)), "magic"),
        (".npy", other_pixels, "is not what its record says"),
        (".npy", other_shape, f"holds uint8 ({N}, {SIDE}, {SIDE}) instead of uint8"),
        (".npy", other_type, "holds int8"),
        (".missed.npy", cut, "mmap length is greater than file size"),
        (".missed.npy", Path.unlink, "No such file"),
        (".records.npy", other_pixels, "is not what its record says"),
        (".json", lambda file: file.write_bytes(b""), "is empty"),
        (".json", lambda file: file.write_bytes(file.read_bytes()[:-9]), "is cut short"),
        (".json", lambda file: file.write_bytes(b"[]"), "holds a JSON list"),
        (".json", lambda file: file.write_bytes(b"{}"), "is not what its record says"),
    ],
)
def test_a_damaged_cache_is_made_again_and_says_so_in_one_line(kind, damage, reason, accelerator, tmp_path, capsys):
    images = dataset_of(photographs())
    cached(accelerator, images, tmp_path, records=True)
    (record,) = tmp_path.glob("*.json")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    damage(record.with_suffix(kind))
    capsys.readouterr()
    pixels = cached(accelerator, images, tmp_path, records=True)
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and reason in said
    assert said.startswith(f"pixel cache {record.stem} cannot be used (") and said.endswith("): it is made again\n")
    assert np.array_equal(pixels.uint8, np.stack([resized(image) for image in photographs()]))
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    cached(accelerator, images, tmp_path, records=True)
    assert capsys.readouterr().out == ""


def test_a_cache_that_is_another_datasets_under_this_ones_name_is_not_read(accelerator, tmp_path, capsys):
    pictures = photographs()
    one, other = dataset_of(pictures, "one"), dataset_of(pictures[::-1], "other")
    cached(accelerator, one, tmp_path / "one")
    cached(accelerator, other, tmp_path / "other")
    (mine,), (others,) = ((tmp_path / name).glob("*.json") for name in ("one", "other"))
    for kind in (".npy", ".missed.npy"):
        mine.with_suffix(kind).write_bytes(others.with_suffix(kind).read_bytes())
    pixels = cached(accelerator, one, tmp_path / "one")
    assert np.array_equal(pixels.uint8[0], resized(pictures[0]))
    mine.write_bytes(others.read_bytes())  # its record as well
    for kind in (".npy", ".missed.npy"):
        mine.with_suffix(kind).write_bytes(others.with_suffix(kind).read_bytes())
    pixels = cached(accelerator, one, tmp_path / "one")
    assert np.array_equal(pixels.uint8[0], resized(pictures[0]))
    assert capsys.readouterr().out.count("it is made again") == 2


def test_a_cache_that_is_deleted_meanwhile_is_one_line(accelerator, tmp_path, monkeypatch):
    images = dataset_of(photographs()[:2])
    finish = pixel_cache._finish

    def finish_and_lose(arrays: dict, *rest: object) -> None:
        finish(arrays, *rest)
        next(iter(arrays)).unlink()  # as another process could

    monkeypatch.setattr(pixel_cache, "_finish", finish_and_lose)
    monkeypatch.setattr(pixel_cache, "LATE_S", 0.1)
    with pytest.raises(errors.InputError, match=r"^--cache_dir .*No such file.*removed or cut it just now; run again$"):
        cached(accelerator, images, tmp_path)


def test_a_full_disk_is_refused_before_a_photograph_is_decoded_and_nothing_is_left(accelerator, tmp_path):
    images = dataset_of([b"cannot be decoded"] * N)
    with mounted(tmp_path / "disk", "size=2m") as disk:
        with pytest.raises(errors.InputError) as full:
            cached(accelerator, images, disk, side_px=256)
        assert str(full.value) == (
            f"--cache_dir {disk}: No space left on device for 3.7 MB of pixels; make room there, or name another folder"
        )
        assert [file.suffix for file in disk.iterdir()] == [".lock"]


def test_a_cache_on_a_read_only_disk_is_read_and_another_refused(accelerator, tmp_path):
    images = dataset_of(photographs())
    with mounted(tmp_path / "disk", "size=2m") as disk:
        first = np.array(cached(accelerator, images, disk).uint8)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        again = np.array(cached(accelerator, images, disk).uint8)
        assert np.array_equal(first, again)
        with pytest.raises(errors.InputError, match=r"^--cache_dir .*: Read-only file system; name another folder$"):
            cached(accelerator, images, disk, side_px=SIDE + 1)


@pytest.mark.parametrize("damaged", [b"\xff\xd8\xff no photograph", None], ids=["not an image", "null"])
def test_an_image_that_cannot_be_decoded_is_named_and_nothing_counts_as_done(damaged, accelerator, tmp_path):
    images = dataset_of([*photographs()[:2], damaged])
    for _ in range(2):  # the second time as well
        with pytest.raises(
            errors.InputError, match=r"^image P\.2 cannot be decoded \(.+\); build the dataset again"
        ) as no:
            cached(accelerator, images, tmp_path)
        assert "\n" not in str(no.value)
    assert not list(tmp_path.glob("*.json")) and not list(tmp_path.glob(".*"))


def test_normalised_pixels_are_what_the_backbone_wants():
    uint8 = np.random.default_rng(0).integers(0, 256, (2, 5, 5, 3), np.uint8)
    backbone = Backbone(torch.nn.Identity(), 5, mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 1 / 255))
    pixels = normalise(uint8, backbone, torch.device("cpu"))
    expected = (uint8 / 255 - np.array(backbone.mean)) / np.array(backbone.std)
    assert pixels.dtype == torch.float32 and pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels.permute(0, 2, 3, 1).numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)
