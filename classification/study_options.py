"""Options that the commands about classification have in common, each defined once; `add` is add_argument's."""

from collections.abc import Callable

from classification.backbone_names import PAPER_BACKBONES
from curation.protocols import fold_number
from harness.commands import path_argument
from imaging.detector_names import FACE_DETECTORS

A_BACKBONE = f"the paper's ({', '.join(PAPER_BACKBONES)}), a timm name, torchvision/NAME, or a folder in timm's layout"


def add_input(add: Callable, otherwise: str = "none") -> None:
    """--resolution and --align_faces; otherwise: what the detector is if a model says nothing of it."""
    add("--resolution", "--image_size", type=int, help="side of the square input in px (default: the backbone's own)")
    text = "detector that cuts out the faces; none: the whole photograph (default: the setting that the model was "
    text += f"trained with, else {otherwise})"
    add("--align_faces", choices=[*FACE_DETECTORS, "none"], help=text)


def add_fold(add: Callable) -> None:
    add("--fold", type=fold_number, default="all", help="all, or the number of one fold")


def add_knowledge(add: Callable, drawn: str = "draw class means") -> None:
    """--knowledge and --term_table; drawn: whose class means are drawn towards what terms predict."""
    text = f"terms: {drawn} towards what each condition's annotated terms predict"
    add("--knowledge", choices=("none", "terms"), default="none", help=text)
    text = "CSV of orphanet_code, hpo_id, frequency (default: the project's table of 309 conditions)"
    add("--term_table", type=path_argument, metavar="CSV", help=text)


def add_computing(add: Callable) -> None:
    """--mixed_precision and --eval_batch_size."""
    add("--mixed_precision", choices=("no", "fp16", "bf16"), help="(default: the setting of accelerate launch)")
    add("--eval_batch_size", type=int, default=32, help="images per step and process")
