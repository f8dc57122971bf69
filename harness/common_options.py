"""Options that several commands have in common, each defined once; `add` is the parser's add_argument."""

from collections.abc import Callable

from harness.commands import dataset_argument, path_argument
from harness.files import default_cache_dir


def add_dataset(add: Callable) -> None:
    """--dataset_name and --dataset_config_name."""
    text = "folder of a built dataset, or ORG/NAME on the Hub"
    add("--dataset_name", type=dataset_argument, required=True, help=text)
    add("--dataset_config_name", help="real or restored (default: the dataset's own default)")


def add_output(add: Callable, cached: str = "decoded photographs are kept") -> None:
    """--output_dir, --cache_dir and --resume_from_checkpoint; cached: what is kept between runs, with its verb."""
    text = "folder for the results; those of an earlier run are replaced once the new ones are finished"
    add("--output_dir", type=path_argument, required=True, help=text)
    text = f"folder where {cached} between runs"
    add("--cache_dir", type=path_argument, default=default_cache_dir(), help=text)
    text = "continue the run in --output_dir where it stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=text)
