"""Reports that the miniature reporter writes of SIMULATED people, and how well their terms agree with the truth."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import PreTrainedModel, ProcessorMixin

from demo_models.simulated_people import IMAGE_SIZE, person_of, planned_photograph
from harness.files import write_atomically
from imaging import faces
from phenotyping import phenotypes
from reporting.report_terms import ReportTerms, find_terms
from scoring.intervals import bootstrap_interval
from simulation.people import Person, write_report
from simulation.photography import take

PHOTOGRAPH_SIZE = 512  # px, as simulate_faces.py makes them unless told otherwise
NUM_SAMPLES = 6


def aligned_photographs(numbers: range, seed: int, pool: tuple[phenotypes.Condition, ...]) -> tuple[np.ndarray, int]:
    """Faces (n, side, side, 3) uint8 of people, found and cut out by MTCNN, and in how many photographs it found none.

    Person i's photograph is read from JPEG and its face cut out upright; without a face it stays whole."""
    pictures = []
    for number in tqdm(numbers, desc="photographs", mininterval=10):
        picture, *_, quality = take(planned_photograph(number, seed, pool), PHOTOGRAPH_SIZE, seed)
        _, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
        pictures.append(np.ascontiguousarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR)[..., ::-1]))
    found = faces.load_detector("mtcnn").detect(pictures)
    aligned = [
        cv2.resize(picture, (IMAGE_SIZE, IMAGE_SIZE))
        if face is None
        else faces.align(picture, face.landmarks, IMAGE_SIZE)
        for picture, face in zip(pictures, found, strict=True)
    ]
    return np.stack(aligned), sum(face is None for face in found)


@torch.inference_mode()
def write_reports(
    model: PreTrainedModel, processor: ProcessorMixin, pictures: Sequence[np.ndarray], batch_size: int = 32
) -> list[str]:
    """A report per picture (h, w, 3) uint8, by the calls that any image-text-to-text model understands."""
    reports = []
    for start in tqdm(range(0, len(pictures), batch_size), desc="reports", mininterval=10):
        messages = [
            [{"role": "user", "content": [{"type": "image", "image": Image.fromarray(picture)}]}]
            for picture in pictures[start : start + batch_size]
        ]
        inputs = processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            add_generation_prompt=True,
            processor_kwargs={"padding": True},
        ).to(model.device)
        written = model.generate(**inputs)[:, inputs["input_ids"].shape[1] :]
        reports += processor.batch_decode(written, skip_special_tokens=True)
    return reports


def term_figures(people: list[Person], found: list[ReportTerms]) -> dict[str, float | list[float]]:
    """Precision, recall and F1 of the terms that reports call present, counted over all reports; 95 % intervals by the
    bootstrap over images.

    f1_shuffled is what the same reports reach if they are dealt to the images at random and no image gets its own. Its
    counts are the expectation over all such deals. Denied terms are those that a report calls absent."""
    ids = sorted(phenotypes.terms())
    truth = np.array([[hpo_id in person.present for hpo_id in ids] for person in people], float)
    said = np.array([[hpo_id in terms.present for hpo_id in ids] for terms in found], float)
    other = np.array([len(set(terms.present) - set(ids)) for terms in found])  # terms that no simulated person has
    n_true, n_said, hits = truth.sum(1), said.sum(1) + other, (truth * said).sum(1)
    others_hits = ((truth @ said.T).sum(1) - hits) / (len(people) - 1)
    others_said = (n_said.sum() - n_said) / (len(people) - 1)

    def share(weights: np.ndarray, part: np.ndarray, whole: np.ndarray) -> np.ndarray:
        return (weights @ part) / np.maximum(weights @ whole, 1e-9)  # 0 if there is nothing to count

    def f1(weights: np.ndarray) -> np.ndarray:
        return share(weights, 2 * hits, n_true + n_said)

    def f1_shuffled(weights: np.ndarray) -> np.ndarray:
        return share(weights, 2 * others_hits, n_true + others_said)

    statistics = {
        "precision": lambda weights: share(weights, hits, n_said),
        "recall": lambda weights: share(weights, hits, n_true),
        "f1": f1,
        "f1_shuffled": f1_shuffled,
        "f1_above_shuffled": lambda weights: f1(weights) - f1_shuffled(weights),
    }
    images = [str(i) for i in range(len(people))]
    figures: dict[str, float | list[float]] = {"images": len(people)}
    for name, statistic in statistics.items():
        figures[name] = float(statistic(np.ones((1, len(people))))[0])
        figures[f"{name}_interval"] = list(bootstrap_interval(statistic, images))
    denied = [hpo_id in person.present for person, terms in zip(people, found, strict=True) for hpo_id in terms.absent]
    figures["present_terms_per_person"] = float(n_true.mean())
    figures["present_terms_per_report"] = float(n_said.mean())
    figures["denied_terms_per_report"] = len(denied) / len(people)
    figures["denied_although_present"] = float(np.mean(denied)) if denied else None
    return figures


def report_figures(people: list[Person], reports: list[str]) -> dict[str, float | list[float]]:
    """term_figures of the reports of people, and how many reports differ."""
    return term_figures(people, [find_terms(report) for report in reports]) | {"distinct_reports": len(set(reports))}


def write_samples(
    folder: Path, pictures: np.ndarray, reports: list[str], seed: int, pool: tuple[phenotypes.Condition, ...]
) -> None:
    """samples_simulated.png, the first NUM_SAMPLES faces side by side, and samples_simulated.md with their reports."""
    sheet = np.concatenate(list(pictures[:NUM_SAMPLES]), axis=1)
    Image.fromarray(sheet).save(folder / "samples_simulated.png")
    text = "# SIMULATED faces, and what the miniature reporter writes of them\n"
    text += "From left to right in `samples_simulated.png`: the first people drawn of the study's conditions.\n"
    for number, report in enumerate(reports[:NUM_SAMPLES]):
        reference = write_report(person_of(number, seed, pool), np.random.default_rng([seed, 9, number]), 1.0)
        text += (
            f"\n## Face {number + 1}\nWritten:\n\n```text\n{report}\n```\n\nReference:\n\n```text\n{reference}\n```\n"
        )
    write_atomically(folder / "samples_simulated.md", lambda file: Path(file).write_text(text, encoding="utf-8"))
