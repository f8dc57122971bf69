"""A run's scores in the forms that leaderboards read: of the Hugging Face Hub, and of Every Eval Ever.

`eval.yaml` registers a dataset as a benchmark, and a model's repository reports scores in `.eval_results/*.yaml`
(https://huggingface.co/docs/hub/eval-results, read by huggingface_hub.parse_eval_result_entries). A record of Every
Eval Ever (arXiv 2606.14516, schema 0.3.0) has all scores with their intervals. None of them names an image or a person.
"""

import re
import time
from collections.abc import Collection, Mapping

from harness.counts import counted
from harness.errors import InputError
from harness.real_or_simulated import REAL, SIMULATED
from scoring.run_scores import TOP_K, interval_words
from scoring.score_tables import shown_interval

SCHEMA_VERSION = "0.3.0"
TASKS = tuple(f"{protocol}_top{k}" for protocol in ("strict", "paper") for k in (1, 5))  # each is a leaderboard
METRICS = {  # name -> words, whether lower is better, largest value
    **{f"top{k}": (f"top-{k} accuracy", False, 1) for k in TOP_K},
    "macro_f1": ("macro F1 over all conditions", False, 1),
    "balanced_accuracy": ("balanced accuracy", False, 1),
    "mrr": ("mean reciprocal rank", False, 1),
    "nll": ("negative log-likelihood, nats", True, "Infinity"),
    "ece": ("expected calibration error, 15 bins", True, 1),
    "smece": ("smooth calibration error", True, 1),
    "aurc": ("area under the risk-coverage curve", True, 1),
}


def check_names(dataset_id: str, model_id: str, simulated: bool | None) -> None:
    """Raise InputError for names that are not ORG/NAME, and for a dataset whose name hides that scores are of simulated
    images, or claims it of real ones. simulated: None if the run does not say."""
    for flag, name in (("--dataset_id", dataset_id), ("--model_id", model_id)):
        if len(name.split("/")) != 2 or not all(part.strip() for part in name.split("/")):
            raise InputError(f"{flag} {name}: is not ORG/NAME, as on the Hub")
    if simulated is not None and simulated != is_called_simulated(dataset_id):
        remedy = f"report them for ORG/{SIMULATED}" if simulated else f"report them for ORG/{REAL}"
        what = "SIMULATED" if simulated else "real"
        raise InputError(f"--dataset_id {dataset_id}: these scores are of {what} images; {remedy}")


def check_whole(run: str, results: Mapping, folds: Collection[int], only_fold: object) -> None:
    """Raise InputError for a run whose scores are those of no benchmark: a control, conditions without photographs
    (--k_shot 0), or a part of the folds.

    run: its name, for messages; results: as results.json; folds: those that were predicted; only_fold: the number
    that its run.json says it was limited to, None if it was not. Under `paper`, whose folds test the same images,
    somebody else's predictions may be of one model."""
    if "shuffled labels" in results["recipe"]:
        raise InputError(f"{run}: was trained on shuffled labels, as a control; export a run without --shuffle_labels")
    if "top1_unseen" in results["metrics"] or re.search(r"\b0-shot\b", results["recipe"]):
        raise InputError(f"{run}: is of --k_shot 0, whose conditions no photograph showed; export a run without it")
    if only_fold is not None or (results["protocol"] == "strict" and len(folds) == 1):
        what = f"tests fold {next(iter(folds))} alone, {results['n_test']} images"
        raise InputError(f"{run}: {what}; run all folds, and export that run")


def is_called_simulated(dataset_id: str) -> bool:
    """Whether a dataset has the ending of simulated ones: ORG/rdface-sim."""
    return dataset_id.endswith(SIMULATED.removeprefix(REAL))


def eval_yaml(simulated: bool) -> dict:
    """The content of eval.yaml, for the root of the dataset's repository.

    It names no `evaluation_framework`: the Hub accepts only those on its list (huggingface.js, EVALUATION_FRAMEWORKS).
    The one split of the dataset is called train; its columns strict_fold and paper_split say what is held out."""
    what = "SIMULATED faces, which show that software works" if simulated else "photographs of children"
    description = (
        f"Recognition of rare genetic conditions on {what}. Tasks strict_*: five folds that divide no patient, each "
        "image predicted out of fold. Tasks paper_*: the published split (arXiv 2604.03454), with its leaks. Values: "
        "percent of held-out images whose condition is among the k most probable. For research, not for diagnosis."
    )
    tasks = [{"id": task, "config": "real", "split": "train"} for task in TASKS]
    return {"name": "RDFace (SIMULATED)" if simulated else "RDFace", "description": description, "tasks": tasks}


def eval_results(results: Mapping, dataset_id: str, simulated: bool, revision: str | None = None) -> list[dict]:
    """The content of .eval_results/NAME.yaml, for the repository of the model: one entry per task that the run has.

    results: as results.json; revision: commit of the dataset. Values are percent, two decimals."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    entries = []
    for name, values in results["metrics"].items():
        if (task := f"{results['protocol']}_{name}") not in TASKS:
            continue
        people = counted(results["n_subjects"], "person", "people")
        notes = [results["recipe"], f"n {counted(results['n_test'], 'image')} of {people}"]
        notes += [f"seeds {', '.join(map(str, results['seeds']))}"]
        notes += [f"95 % interval {shown_interval(name, values)}"] if values["low"] is not None else []
        notes = [*(["SIMULATED faces"] if simulated else []), *notes]
        value = round(100 * values["mean"], 2)
        entries.append(EvalResultEntry(dataset_id, task, value, dataset_revision=revision, notes="; ".join(notes)))
    return eval_result_entries_to_yaml(entries)


def every_eval_ever(
    results: Mapping, dataset_id: str, model_id: str, simulated: bool, version: str | None, now: float | None = None
) -> dict:
    """The record of a run in the schema of Every Eval Ever 0.3.0, with every score that results.json has.

    version: commit of this software, None if not known; now: seconds since 1970. The ids of test images, which the
    schema has room for, are left out: they are those of patients' photographs."""
    created = str(time.time() if now is None else now)
    organization = model_id.partition("/")[0]
    facts = {name: str(results[name]) for name in ("n_test", "n_subjects", "n_classes", "n_classes_tested")}
    facts |= {"protocol": results["protocol"], "seeds": str(results["seeds"]), "simulated": str(simulated).lower()}
    source = {"dataset_name": dataset_id.partition("/")[2], "source_type": "hf_dataset", "hf_repo": dataset_id}
    source |= {"hf_split": "train", "samples_number": results["n_test"], "additional_details": facts}
    return {
        "schema_version": SCHEMA_VERSION,
        "evaluation_id": f"rdface_{results['protocol']}/{model_id}/{created}",
        "retrieved_timestamp": created,
        "source_metadata": {
            "source_name": "RDFace",
            "source_type": "evaluation_run",
            "source_organization_name": organization,
            "evaluator_relationship": "first_party",
        },
        "eval_library": {"name": "rdface", "version": version or "unknown"},
        "model_info": {
            "name": f"{results['backbone']}, {results['recipe']}",
            "id": model_id,
            "additional_details": {"deployment_type": "self_deployed", "model_availability": "unknown"},
        },
        "evaluation_results": [
            _result(name, values, results, source) for name, values in results["metrics"].items() if name in METRICS
        ],
    }


def _result(name: str, values: Mapping, results: Mapping, source: Mapping) -> dict:
    """One score with its interval."""
    words, lower_is_better, largest = METRICS[name]
    parameters = {"k": int(name.removeprefix("top"))} if name.startswith("top") else {}
    score = {"score": values["mean"]}
    if values["low"] is not None:
        interval = {"lower": values["low"], "upper": values["high"], "confidence_level": 0.95}
        interval["method"] = interval_words(name)
        score["uncertainty"] = {"confidence_interval": interval, "num_samples": results["n_subjects"]}
    return {
        "evaluation_result_id": name,
        "evaluation_name": f"RDFace, protocol {results['protocol']}",
        "source_data": dict(source),
        "metric_config": {
            "evaluation_description": "recognition of rare genetic conditions in photographs of faces",
            "metric_id": "accuracy" if name == "top1" else "f1_macro" if name == "macro_f1" else f"rdface.{name}",
            "metric_name": words,
            "metric_unit": "nats" if name == "nll" else "proportion",
            "metric_parameters": parameters,
            "lower_is_better": lower_is_better,
            "score_type": "continuous",
            "min_score": 0,
            "max_score": largest,
        },
        "score_details": score,
    }
