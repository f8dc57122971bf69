"""Heat maps of where in a face a classifier looks (Grad-CAM or integrated gradients), and a sheet of them.

    maps = heat_maps(classifier, pixels, classes)   # (b, s, s) in 0..1, for one class per image

A map shows what influenced one score of one network. It is not a finding about the condition, and networks that are
wrong have convincing maps too.
"""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from PIL import Image, ImageDraw, ImageFont
from torchvision.transforms.v2.functional import gaussian_blur

from classification.backbones import normalise
from classification.classifiers import load_classifier
from classification.study_inputs import Job, Study
from harness.files import write_atomically

METHODS = ("gradcam", "integrated_gradients")
STEPS = 32  # of integrated gradients, between the mean colour and the image
SMOOTHING = 0.03  # sigma as a share of the image's side: attributions of single pixels look like noise
TILE_PX, CAPTION_PX, MARGIN_PX = 224, 14, 10
OPACITY = 0.65  # of the colour where the map is 1; where it is 0, only the photograph is visible


def heat_maps(
    classifier: torch.nn.Module, pixels: torch.Tensor, classes: Sequence[int], method: str = "gradcam"
) -> np.ndarray:
    """How strongly each place of an image speaks for one class: 1 for the strongest place, 0 for none.

    classifier: maps pixels to logits (b, C), in evaluation mode and not compiled; its parameters may be frozen and get
    no gradients. pixels (b, 3, s, s): normalised floats on its device; classes (b,) in 0..C-1. Returns (b, s, s)
    float32, each map divided by its largest value; all 0 if nothing speaks for the class. "gradcam" (Selvaraju et al.,
    ICCV 2017) uses the last layer whose output is a map that influences the score. If there is none, a warning says so,
    and "integrated_gradients" (Sundararajan et al., ICML 2017) is used instead: from the mean colour to the image,
    summed over channels, positive part, slightly smoothed. Raises ValueError for another method, a class out of range,
    a number of classes other than b, and a classifier in training mode."""
    if method not in METHODS:
        raise ValueError(f"there is no heat map {method!r}; choose from {', '.join(METHODS)}")
    if classifier.training:
        raise ValueError("heat maps of a network in training mode depend on chance; call its eval() first")
    if len(classes) != len(pixels):
        raise ValueError(f"{len(pixels)} images but {len(classes)} classes; give one class for each image")
    # Gradients flow to the pixels, so frozen parameters and torch.inference_mode in the caller make no difference.
    with torch.inference_mode(False), torch.enable_grad():
        pixels = pixels.detach().clone().requires_grad_()
        target = torch.as_tensor(list(classes), device=pixels.device)
        layer = _last_map(classifier, pixels, target)
        if method == "gradcam" and layer is None:
            warnings.warn("no layer of this network has a map; integrated gradients instead", stacklevel=2)
            method = "integrated_gradients"
        attribution = _gradcam if method == "gradcam" else _integrated_gradients
        evidence = attribution(classifier, layer, pixels, target).detach().float().relu()  # (b, s, s)
    largest = evidence.amax(dim=(1, 2), keepdim=True)
    return torch.where(largest > 0, evidence / largest, 0.0).cpu().numpy()


def _gradcam(
    classifier: torch.nn.Module, layer: torch.nn.Module, pixels: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Evidence (b, s, s) at the output of the layer, whatever its layout."""
    import captum.attr  # here, because it imports matplotlib's pyplot, which training never needs

    view = torch.nn.Identity()  # here captum reads as (b, c, h, w) the map that the layer has in its own layout
    prefix = _prefix_tokens(classifier)

    def through_view(_module: torch.nn.Module, _inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        return _from_map(view(_as_map(output, len(pixels), prefix)), output, prefix)

    hook = layer.register_forward_hook(through_view)
    try:
        coarse = captum.attr.LayerGradCam(classifier, view).attribute(pixels, target, relu_attributions=True)
    finally:
        hook.remove()
    return captum.attr.LayerAttribution.interpolate(coarse, pixels.shape[2:], "bilinear")[:, 0]


def _integrated_gradients(
    classifier: torch.nn.Module, _layer: None, pixels: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """Evidence (b, s, s); the baseline 0 is the mean colour, since pixels are normalised."""
    import captum.attr

    integrated = captum.attr.IntegratedGradients(classifier)
    evidence = integrated.attribute(pixels, target=target, n_steps=STEPS, internal_batch_size=len(pixels))
    sigma = SMOOTHING * pixels.shape[-1]
    return gaussian_blur(evidence.sum(dim=1, keepdim=True), [2 * math.ceil(3 * sigma) + 1] * 2, [sigma])[:, 0]


def _last_map(classifier: torch.nn.Module, pixels: torch.Tensor, target: torch.Tensor) -> torch.nn.Module | None:
    """The last layer whose output is a map that the scores depend on, or None.

    In a transformer that classifies by its class token, the patches have no influence after the last attention layer,
    so the map is that layer's input. Projections to queries, keys and values, and adapters within them, carry only a
    part of the score: therefore linear layers are left out, and all maps but those as wide as the last one."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes 3 s to import; needed here only

    outputs: dict[torch.nn.Module, torch.Tensor] = {}  # of each module's last call, in the order of these calls

    def keep(module: torch.nn.Module, _inputs: tuple, output: object) -> None:
        outputs.pop(module, None)
        if isinstance(output, torch.Tensor):
            outputs[module] = output

    linear = [module for module in classifier.modules() if isinstance(module, torch.nn.Linear | BaseTunerLayer)]
    left_out = {classifier, *(part for module in linear for part in module.modules())}
    hooks = [module.register_forward_hook(keep) for module in classifier.modules() if module not in left_out]
    try:
        logits = classifier(pixels)
    finally:
        for hook in hooks:
            hook.remove()
    if target.min() < 0 or target.max() >= logits.shape[1]:
        raise ValueError(f"classes {target.tolist()} are not all among the {logits.shape[1]} classes of this network")
    prefix = _prefix_tokens(classifier)
    maps = {module: _as_map(output, len(pixels), prefix) for module, output in outputs.items()}
    layers = [module for module, features in maps.items() if features is not None]
    layers = [module for module in layers if maps[module].shape[1] == maps[layers[-1]].shape[1]]
    scores = logits.gather(1, target[:, None]).sum()
    gradients = torch.autograd.grad(scores, [outputs[module] for module in layers], allow_unused=True) if layers else ()
    for module, gradient in zip(reversed(layers), reversed(gradients), strict=True):
        if gradient is not None and _as_map(gradient, len(pixels), prefix).any():
            return module
    return layers[-1] if layers else None  # if the score depends on no map, its heat map is empty


def _as_map(output: torch.Tensor, n_images: int, prefix: int | None) -> torch.Tensor | None:
    """A layer's output as (b, c, h, w) with h = w > 1, or None if it is not a map; the images are square.

    Layouts: (b, c, h, w); (b, h, w, c), recognised by its equal sides; tokens (b, prefix + h w, c) row by row."""
    if len(output) != n_images or not output.is_floating_point():
        return None
    if output.ndim == 4 and output.shape[2] == output.shape[3] > 1:
        return output
    if output.ndim == 4 and output.shape[1] == output.shape[2] > 1:
        return output.permute(0, 3, 1, 2)
    if output.ndim == 3:
        side = math.isqrt(output.shape[1] - (prefix or 0)) if output.shape[1] > (prefix or 0) else 0
        prefix = output.shape[1] - side**2 if prefix is None else prefix
        if side > 1 and side**2 + prefix == output.shape[1]:
            return output[:, prefix:].transpose(1, 2).unflatten(2, (side, side))
    return None


def _from_map(features: torch.Tensor, output: torch.Tensor, prefix: int | None) -> torch.Tensor:
    """Undo _as_map: the layer's own output with its map replaced by `features` (b, c, h, w)."""
    if output.ndim == 3:
        tokens = features.flatten(2).transpose(1, 2)
        return torch.cat([output[:, : output.shape[1] - tokens.shape[1]], tokens], dim=1)
    return features if output.shape == features.shape else features.permute(0, 2, 3, 1)


def _prefix_tokens(classifier: torch.nn.Module) -> int | None:
    """How many class and register tokens precede the patches. timm's networks say so; None means unknown: then any
    number is accepted that leaves a square number of patches."""
    counts = (getattr(module, "num_prefix_tokens", None) for module in classifier.modules())
    return next((count for count in counts if isinstance(count, int)), None)


def explain_held_out(
    accelerator: Accelerator, study: Study, jobs: Sequence[Job], image_ids: Sequence[str], output_file: Path
) -> None:
    """Write a sheet of the chosen images, each explained by the model that was tested on it, for this user only.

    jobs: the finished folds of one seed, with their models saved."""
    rows = []
    for job in jobs:
        tested = pd.read_parquet(job.folder / "predictions.parquet").query("split == 'test'").set_index("image_id")
        chosen = [image_id for image_id in image_ids if image_id in tested.index]
        classifier = load_classifier(job.folder / "model", study.backbone).to(accelerator.device) if chosen else None
        for image_id in chosen:
            row = int(np.flatnonzero(study.image_columns["image_id"] == image_id)[0])
            probabilities = tested.loc[image_id, "probabilities"]
            true, predicted = int(study.labels[row]), int(np.argmax(probabilities))
            pixels = normalise(study.pixels.uint8[[row, row]], study.backbone, accelerator.device)
            heat_true, heat_predicted = heat_maps(classifier, pixels, [true, predicted])
            names = {"image_id": image_id, "true": study.label.names[true], "predicted": study.label.names[predicted]}
            names |= {"p_true": probabilities[true], "p_predicted": probabilities[predicted]}
            heat = {"heat_true": heat_true, "heat_predicted": None if true == predicted else heat_predicted}
            rows.append(names | heat | {"pixels": np.array(study.pixels.uint8[row])})
    simulated = "SIMULATED faces, " if study.is_simulated else ""
    title = f"{simulated}{study.names['backbone']}, {study.names['recipe']}, held-out images"
    heat_map_sheet(rows, output_file, title)
    output_file.chmod(0o600)  # photographs


def heat_map_sheet(rows: Sequence[dict], output_file: Path, title: str) -> None:
    """Write one PNG: per row the photograph and where the network looked for the true and for the predicted class.

    A row has image_id; pixels (h, w, 3) uint8 RGB; true and predicted, the names of the classes; p_true and
    p_predicted, their probabilities 0..1; heat_true (h, w) in 0..1, and heat_predicted, left out or None if both
    classes are the same. title: stands at the top and says what kind of images these are. The file is written whole or
    not at all. Raises ValueError if there are no rows."""
    if not rows:
        raise ValueError("no image was chosen for the heat-map sheet; name at least one")
    font = ImageFont.load_default(CAPTION_PX)
    line_px = CAPTION_PX + 4
    width = 3 * TILE_PX + 4 * MARGIN_PX
    heading = _wrapped(title, font, width - 2 * MARGIN_PX)
    top = MARGIN_PX + line_px * (len(heading) + 1)  # one more line for the names of the columns
    row_px = TILE_PX + line_px + MARGIN_PX
    sheet = Image.new("RGB", (width, top + row_px * len(rows)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.multiline_text((MARGIN_PX, MARGIN_PX // 2), "\n".join(heading), "black", font=font, spacing=4)
    columns = [MARGIN_PX + n * (TILE_PX + MARGIN_PX) for n in range(3)]
    for x, name in zip(columns, ("photograph", "for the true class", "for the predicted class"), strict=True):
        draw.text((x, top - line_px), name, "grey", font=font)
    for number, row in enumerate(rows):
        y = top + number * row_px
        sheet.paste(_tile(row["pixels"]), (columns[0], y))
        for x, heat in zip(columns[1:], (row["heat_true"], row.get("heat_predicted")), strict=True):
            if heat is None:  # the third place stays empty if the classes agree
                continue
            sheet.paste(_tile(_overlay(row["pixels"], heat)), (x, y))
            if not heat.any():  # otherwise it would look like a faint map
                draw.text(
                    (x + 4, y + 4), "nothing speaks for it", "black", font=font, stroke_width=2, stroke_fill="white"
                )
        draw.text((MARGIN_PX, y + TILE_PX + 2), _caption(row), "black", font=font)
    write_atomically(output_file, lambda file: sheet.save(file, format="PNG"))  # the temporary name has no suffix


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width_px: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width_px else [*lines, word]
    return lines


def _caption(row: dict) -> str:
    true, predicted = (f"{name} {row[name]} p={row[f'p_{name}']:.2f}" for name in ("true", "predicted"))
    return f"{row['image_id']}: {true}, {predicted}"


def _tile(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels).resize((TILE_PX, TILE_PX), Image.Resampling.BICUBIC)


def _overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """The heat map in colours over the photograph, (h, w, 3) uint8."""
    colours = cv2.applyColorMap((255 * heat).round().astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]  # it gives BGR
    opacity = OPACITY * heat[..., None]
    return ((1 - opacity) * pixels + opacity * colours).round().astype(np.uint8)
