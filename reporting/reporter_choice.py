"""Opens the reporter that a command names, and says what its reports depend on."""

from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import torch

from harness.errors import InputError
from imaging import faces
from imaging.face_cache import CachedDetector
from imaging.faces import Detector
from reporting import landmark_reporter, report_sections
from reporting.landmark_reporter import LandmarkReporter, Norms
from reporting.report_inputs import ReportInputs
from reporting.reporter_names import LANDMARKS, NORMS, REPORTERS
from reporting.reporters import Reporter, RuleReporter


@dataclass(frozen=True)
class ReporterChoice:
    """The arguments of the same names of vlm_report_eval.py generate."""

    reporter: str
    base_url: str | None
    photographs_leave_this_machine: bool
    concurrency: int
    timeout: float
    detector: str
    detector_model: Path | None
    norms: Path | None
    batch_size: int
    max_new_tokens: int
    cache_dir: Path


def open_reporter(
    choice: ReporterChoice, inputs: ReportInputs, device: torch.device
) -> tuple[Reporter, dict[str, object]]:
    """The reporter, and a record of what its reports depend on: its name, its weights, its settings, its prompts.

    Raises InputError if it cannot be opened."""
    if choice.reporter in REPORTERS:
        reporter = resolve_name(REPORTERS[choice.reporter])(choice, inputs, device)
        record = reporter.record()
    elif choice.base_url:
        reporter = _server(choice)
        record = reporter.record()
    else:
        from reporting.image_text_reporter import load_image_text_reporter, model_digest

        reporter = load_image_text_reporter(choice.reporter, device, choice.batch_size, choice.max_new_tokens)
        record = reporter.record() | {"model_digest": model_digest(choice.reporter, reporter.model)}
    if reporter.prompt is not None:
        record["prompt_sha256"] = report_sections.prompt_sha256(reporter.asked(0))
        record["second_prompt_sha256"] = report_sections.prompt_sha256(reporter.asked(1))
    return reporter, record


def open_landmarks(choice: ReporterChoice, inputs: ReportInputs, device: torch.device) -> Reporter:
    """The reporter that measures proportions. Raises InputError if there is no detector or there are no norms."""
    detector = open_detector(choice.detector, choice.detector_model, choice.cache_dir, device)
    rules = LandmarkReporter(detector, norms_of(inputs, detector, choice.norms))
    return RuleReporter(LANDMARKS, rules, choice.batch_size)


def _server(choice: ReporterChoice) -> Reporter:
    from reporting.server_reporter import ServerReporter

    return ServerReporter(
        choice.reporter,
        choice.base_url,
        choice.photographs_leave_this_machine,
        choice.concurrency,
        choice.timeout,
        choice.max_new_tokens,
    )


def open_detector(name: str, model: Path | None, cache_dir: Path, device: torch.device) -> Detector | None:
    """The face detector of that name, with a cache; None for the name none. Raises InputError."""
    if name == "none":
        return None
    return CachedDetector(faces.load_detector(name, device.type, model=model), cache_dir)


def norms_of(inputs: ReportInputs, detector: Detector, file: Path | None) -> Norms:
    """What faces measure: as a file says, or on all photographs of the dataset, held-out ones included.

    Raises InputError for synthetic images without a file: compared with one another, whatever a generator exaggerates
    would be normal."""
    if file:
        return landmark_reporter.read_norms(file, detector)
    if inputs.id_column != "image_id":
        remedy = f"give --norms {NORMS} of a run on the photographs that they were made from"
        raise InputError(f"--reporter {LANDMARKS}: synthetic images are not to be compared with themselves; {remedy}")
    measured = []
    for row in range(len(inputs.images)):
        try:
            measured.append(landmark_reporter.measure(detector, [inputs.picture(row)[0]]))
        except InputError:
            continue  # it is named when its report is due
    return landmark_reporter.fit_norms(np.concatenate(measured) if measured else np.zeros((0, 0)), detector)
