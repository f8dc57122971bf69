"""Restores rows of config `real`: photographs go through the networks, and what was done to each is recorded."""

import dataclasses
import hashlib
import io
import warnings
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from PIL import Image, ImageOps

from curation import schema
from harness.errors import one_line
from imaging import faces, photographs, restoration
from imaging.restoration import Network
from imaging.restoration_settings import RestorationSettings

FACE_THRESHOLD = 0.9  # of MTCNN: what is less certainly a face is left as it is


@dataclasses.dataclass
class Networks:
    """The networks that restore a photograph, in the order of their use; None if one was not asked for."""

    upscaler: Network
    face_enhancer: Network | None = None
    face_detector: faces.Detector | None = None
    colorizer: Network | None = None


def load_networks(sources: Mapping[str, str | None], device: torch.device) -> Networks:
    """The networks of these weights; sources: role (restoration_settings.ROLES) -> weights, None if not asked for.

    Raises InputError as restoration.load_network does."""
    networks = {
        role: restoration.load_network(source, role, device) if source else None for role, source in sources.items()
    }
    detector = faces.load_detector(device=str(device)) if networks["face_enhancer"] else None
    return Networks(face_detector=detector, **networks)


def restore_block(
    rows: list[dict], networks: Networks, settings: RestorationSettings, autocast: Callable
) -> tuple[list[dict], list[str]]:
    """The restored rows of a block, in its order, and for each photograph that failed its name and the reason.

    rows: of config real, with the image as {bytes, path}. Photographs of one size go through the upscaler together."""
    pictures, restored, failures = {}, {}, []
    rows_by_size = defaultdict(list)
    for i, row in enumerate(rows):
        try:
            pictures[i] = decode(row["image"])
            rows_by_size[square(pictures[i], settings.pad_to).shape].append(i)
        except Exception as error:  # Pillow's parsers raise a dozen kinds over damaged files
            failures.append(f"{row['image_id']} cannot be decoded ({one_line(error)})")
    batches = deque()
    for same_size in rows_by_size.values():
        starts = range(0, len(same_size), settings.batch_size)
        batches += [same_size[start : start + settings.batch_size] for start in starts]
    while batches:
        batch = batches.popleft()
        try:
            results = restore([pictures[i] for i in batch], networks, settings, autocast)
            for i, changes in zip(batch, results, strict=True):
                restored[i] = changed_row(rows[i], changes)
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            if len(batch) > 1:
                batches += [[i] for i in batch]  # one by one, to see which photograph fails
            else:
                failures.append(f"{rows[batch[0]]['image_id']}: {one_line(error)}")
    return [restored[i] for i in sorted(restored)], failures


def decode(image: dict | None) -> np.ndarray:
    """The upright photograph (h, w, 3) uint8. Raises OSError or ValueError where there is none."""
    if not image or not image["bytes"]:
        raise ValueError("it holds no bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of large pictures and of metadata
        photograph = Image.open(io.BytesIO(image["bytes"]), formats=photographs.FORMATS)
        to_srgb = photographs.conversion(photograph, image["bytes"])
        photograph = ImageOps.exif_transpose(photograph)
        if to_srgb:  # as today's builds publish it
            photograph = to_srgb.apply(photograph.convert(to_srgb.input_mode))
        return np.array(photograph.convert("RGB"))


def square(picture: np.ndarray, pad_to_px: int) -> np.ndarray:
    """The picture in the middle of a black square with a side of at least pad_to_px; 0 leaves it as it is."""
    if not pad_to_px:
        return picture
    height, width = picture.shape[:2]
    side = max(pad_to_px, height, width)
    padded = np.zeros((side, side, 3), np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    padded[top : top + height, left : left + width] = picture
    return padded


def restored_scale(longer_side_px: int, settings: RestorationSettings) -> float:
    """output_scale, or less if the result would exceed max_side; 1 if the photograph is that large already."""
    return max(1.0, min(settings.output_scale, settings.max_side / longer_side_px))


def restore(
    originals: list[np.ndarray], networks: Networks, settings: RestorationSettings, autocast: Callable
) -> Iterator[dict]:
    """Restores photographs (h, w, 3) uint8 with squares of one size; yields `picture` and the columns that change.

    Padding comes first, in the order of the paper: the networks see the square, which also makes most photographs
    equally large. Its border is blackened again at the end, since no network leaves it quite black."""
    padded = np.stack([square(original, settings.pad_to) for original in originals])
    scale = restored_scale(max(padded.shape[1:3]), settings)
    enlarged = padded
    if scale > 1:
        enlarged = restoration.upscale(networks.upscaler, padded, settings.tile, autocast)
    detected = [None] * len(padded)
    if networks.face_enhancer:
        detected = networks.face_detector.detect(list(padded), FACE_THRESHOLD)
    for original, before, after, face in zip(originals, padded, enlarged, detected, strict=True):
        size = round(before.shape[1] * scale), round(before.shape[0] * scale)
        picture = np.array(Image.fromarray(after).resize(size, Image.Resampling.LANCZOS))
        if face:
            picture = restoration.enhance_face(networks.face_enhancer, picture, before, face.landmarks)
        original_image = Image.fromarray(original)
        colorized = networks.colorizer is not None and restoration.is_monochrome(original_image)
        if colorized:
            picture = restoration.colorize(networks.colorizer, picture)
        elif photographs.is_grayscale(original_image):  # the upscaler has three channels and may tint what had no tint
            picture = np.array(Image.fromarray(picture).convert("L").convert("RGB"))
        blacken_border(picture, original, before)
        used = {
            "upscaler": networks.upscaler if scale > 1 else None,
            "face_enhancer": networks.face_enhancer if face else None,
            "colorizer": networks.colorizer if colorized else None,
        }
        yield {
            "picture": picture,
            "scale": scale,
            "faces_enhanced": int(face is not None),
            "original_width": original.shape[1],
            "original_height": original.shape[0],
            **{role: network and network.name for role, network in used.items()},
            **{f"{role}_sha256": network and network.sha256 for role, network in used.items()},
        }


def blacken_border(picture: np.ndarray, original: np.ndarray, padded: np.ndarray) -> None:
    """Blacken, in place, the part of a restored picture that lies outside of the photograph in its square."""
    for axis in (0, 1):
        scale = picture.shape[axis] / padded.shape[axis]
        first = (padded.shape[axis] - original.shape[axis]) // 2
        last = first + original.shape[axis]
        along = np.moveaxis(picture, axis, 0)  # a view
        along[: round(first * scale)] = 0
        along[round(last * scale) :] = 0


def was_made_of(restored: dict, row: dict) -> bool:
    """Whether a row of config `restored` was made from this row of `real`, and still holds the picture made then."""
    original, picture = row["image"]["bytes"], restored["image"]["bytes"]
    if original is None or restored["original_sha256"] != hashlib.sha256(original).hexdigest():
        return False
    if picture is None or restored["sha256"] != hashlib.sha256(picture).hexdigest():
        return False
    return all(restored[name] == value for name, value in row.items() if name not in schema.ABOUT_THE_PICTURE)


def changed_row(row: dict, changes: dict) -> dict:
    """The row of config `restored`: that of `real`, with the changed picture and what is recorded about it."""
    picture = Image.fromarray(changes.pop("picture"))
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    restored = row | changes | {"original_sha256": hashlib.sha256(row["image"]["bytes"]).hexdigest()}
    restored["image"] = {"bytes": encoded.getvalue(), "path": f"{row['image_id']}.png"}
    restored |= {"width": picture.width, "height": picture.height}
    restored["is_grayscale"] = photographs.is_grayscale(picture)
    restored["sha256"] = hashlib.sha256(encoded.getvalue()).hexdigest()
    return restored
