"""Phenotype reports by vision-language models, and how far those on real and on synthetic images agree.

    accelerate launch vlm_report_eval.py generate --dataset_name ./rdface --output_dir runs/real_reports
    accelerate launch vlm_report_eval.py generate --dataset_name runs/filtered --per_class 11 \\
        --output_dir runs/syn_reports
    python vlm_report_eval.py score --real_reports runs/real_reports --synthetic_reports runs/syn_reports \\
        --output_dir runs/agreement
    python vlm_report_eval.py terms --text "Widely spaced eyes; no epicanthus."

`generate` writes config `reports`, which load_dataset opens; `score` compares reports of the same condition with those
of other conditions; `terms` prints the HPO terms of a text. docs/reports.md explains reporters, servers and scores.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands import RESUMED, Parser, dataset_argument, from_args, path_argument, run_command
from harness.counts import counted
from harness.derived_places import RUN, note
from harness.errors import InputError
from harness.files import default_cache_dir, write_atomically, write_json
from harness.hub_availability import check_name, work_offline_if_unreachable
from harness.real_or_simulated import BUILD, is_simulated
from harness.run_folder import check_apart, finish_output, prepare_output, run_record
from imaging.detector_names import FACE_DETECTORS, MODEL_DETECTORS
from reporting.reporter_names import DEFAULT_REPORTER, LANDMARKS, NORMS, REPORTERS

if TYPE_CHECKING:
    import numpy as np
    from accelerate import Accelerator

    from reporting.report_dataset import Reports
    from reporting.report_inputs import ReportInputs
    from reporting.reporters import Reporter

NAME = "vlm_report_eval.py"
STOPPED = RESUMED
WRITE_REPORTS = "write reports with generate"
PACKAGES = ("torch", "transformers", "datasets", "accelerate", "httpx2", "hpo3", "pillow", "numpy")
ANSWERS = "answers"  # folder of every answer as it came, in the output folder
RESULTS = ("results.json", "run.json", NORMS, "README.md", "LICENSE", "croissant.json")
MATRIX_SIMILARITY = "findings/ontology"  # of report_scores' matrix; pairs are shown by it
SCORES = ("results.json", "pairs.parquet", "pairs.html", "run.json")
# What may differ between a run and the one it goes on from: none of it changes an answer by more than rounding.
FREE_SETTINGS = ("command", "dataset_name", "output_dir", "resume_from_checkpoint", "cache_dir", "batch_size")
FREE_SETTINGS += ("per_class", "reporter", "base_url", "photographs_leave_this_machine", "concurrency", "timeout")
FREE_SETTINGS += ("detector_model", "norms")


# --------------------------------------------------------------------------------------------------------- arguments


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = Parser(description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    generating = commands.add_parser("generate", help="write a report on every image of a dataset")
    add_generate(generating.add_argument)
    scoring = commands.add_parser("score", help="compare reports on real images with reports on synthetic ones")
    add_score(scoring.add_argument)
    finding = commands.add_parser("terms", help="print the HPO terms of reports, a JSON object for each")
    source = finding.add_mutually_exclusive_group(required=True)
    source.add_argument(
        "file",
        nargs="?",
        type=path_argument,
        metavar="FILE",
        help="text file with one report per line (blank lines are passed over), or - for standard input",
    )
    source.add_argument("--text", help="one report")
    args = parser.parse_args(argv)
    if args.command == "generate":
        check_generate(generating, args)
    return args


def add_generate(add: Callable[..., object]) -> None:
    text = "folder of a built dataset or of synthetic images, or ORG/NAME on the Hub; of filtered images, those kept"
    add("--dataset_name", type=dataset_argument, required=True, help=text)
    text = "real, restored or synthetic (default: synthetic if the folder holds it, else the dataset's own default)"
    add("--dataset_config_name", help=text)
    text = f"a model for image-text-to-text (ORG/NAME on the Hub, or a folder), or {' or '.join(REPORTERS)}; with "
    text += "--base_url the name that the server gives its model"
    add("--reporter", type=dataset_argument, default=DEFAULT_REPORTER, help=text)
    text = "address of a server that speaks OpenAI's protocol, such as http://127.0.0.1:8000/v1; its key, if it wants "
    text += "one, stands in the environment variable OPENAI_API_KEY"
    add("--base_url", metavar="URL", help=text)
    text = "permit a --base_url on another machine, to which every photograph is then sent"
    add("--photographs_leave_this_machine", action="store_true", help=text)
    add("--concurrency", type=int, default=8, help="requests to the server that are under way at a time, per process")
    add("--timeout", type=float, default=300.0, help="seconds for which an answer of the server is awaited")
    text = "report on this many images of each condition: the best by the filter's score, else the first; the paper's "
    text += "is 11 (default: all)"
    add("--per_class", type=int, metavar="N", help=text)
    text = "detector that cuts out the faces; none: the whole picture"
    add("--align_faces", choices=[*FACE_DETECTORS, "none"], default="none", help=text)
    text = f"detector of the reporter {LANDMARKS}; all but mtcnn require --detector_model"
    add("--detector", choices=[*FACE_DETECTORS, *MODEL_DETECTORS], default="mtcnn", help=text)
    text = "file of the detector's weights; a folder for a pack of insightface"
    add("--detector_model", type=path_argument, help=text)
    text = f"what faces measure, for the reporter {LANDMARKS}: {NORMS} of an earlier run on photographs (default: "
    text += "measured on the dataset's photographs)"
    add("--norms", type=path_argument, metavar="FILE", help=text)
    add("--batch_size", type=int, default=8, help="pictures per step and process")
    add("--max_new_tokens", type=int, default=1024, help="longest answer in tokens; 1024 is the paper's")
    add("--output_dir", type=path_argument, required=True, help="folder for the reports; replaces those of other runs")
    text = "folder where detected faces are kept between runs, by the content of the picture"
    add("--cache_dir", type=path_argument, default=default_cache_dir(), help=text)
    text = "continue the run in --output_dir where it stopped"
    add("--resume_from_checkpoint", choices=("latest",), help=text)


def add_score(add: Callable[..., object]) -> None:
    text = "folder that generate wrote, or a dataset with config reports: reports on photographs"
    add("--real_reports", type=dataset_argument, required=True, metavar="DIR", help=text)
    text = "the same on synthetic images"
    add("--synthetic_reports", type=dataset_argument, required=True, metavar="DIR", help=text)
    text = "sentence encoders to compare texts with: folders or names on the Hub (default: the paper's three; those "
    text += "that are not on this machine are named in the results)"
    add("--encoders", nargs="+", type=dataset_argument, default=[], metavar="NAME_OR_PATH", help=text)
    add("--seed", type=int, default=0, help="for intervals, and for the pairs that do not belong together")
    add("--output_dir", type=path_argument, required=True, help="folder for the scores; replaces those of other runs")


def check_generate(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Exit with one line if values are out of range or flags do not go together."""
    for flag in ("batch_size", "max_new_tokens", "concurrency", "per_class"):
        if getattr(args, flag) is not None and getattr(args, flag) < 1:
            parser.error(f"--{flag} must be at least 1")
    if not args.timeout > 0:
        parser.error("--timeout must be positive")
    is_known = args.reporter in REPORTERS or args.base_url or Path(args.reporter).exists()
    if not is_known and (similar := difflib.get_close_matches(args.reporter.lower(), REPORTERS, n=1, cutoff=0.8)):
        parser.error(f"--reporter {args.reporter}: there is no such model; did you mean {similar[0]}?")
    if args.reporter in REPORTERS and args.base_url:
        parser.error(f"--reporter {args.reporter} needs no server; leave out --base_url")
    if args.reporter == LANDMARKS and args.align_faces != "none":
        parser.error(f"--reporter {LANDMARKS} finds the faces itself; leave out --align_faces")
    if args.norms and args.reporter != LANDMARKS:
        parser.error(f"--norms is for --reporter {LANDMARKS}")
    if args.photographs_leave_this_machine and not args.base_url:
        parser.error("--photographs_leave_this_machine is about a --base_url, and there is none")
    if args.detector in MODEL_DETECTORS and args.detector_model is None:
        parser.error(f"--detector {args.detector} requires --detector_model FILE")


def main(args: argparse.Namespace) -> None:
    {"generate": generate, "score": score, "terms": print_terms}[args.command](args)


# ---------------------------------------------------------------------------------------------------------- generate


def generate(args: argparse.Namespace) -> None:
    started = time.monotonic()
    check_name(args.dataset_name, BUILD)
    model = None if args.base_url or args.reporter in REPORTERS else args.reporter
    if args.base_url:
        from reporting.server_reporter import check_base_url

        check_base_url(args.base_url, args.photographs_leave_this_machine)
    work_offline_if_unreachable([args.dataset_name, model])
    # Imported here, since they take seconds: what is refused above, and --help, must not wait for them.
    from generation.synthetic_mix import RANKED_BY
    from harness.launched_processes import check_output_dir, device_record, in_main_process, open_accelerator
    from reporting.report_inputs import open_inputs
    from reporting.reporter_choice import ReporterChoice, open_detector, open_reporter

    # ---- pictures, reporter, output folder: whatever can be refused is refused before anything slow begins
    accelerator = open_accelerator(None)
    places = (args.output_dir, [args.dataset_name], args.cache_dir)
    check_output_dir(accelerator, *places)
    with accelerator.main_process_first():
        inputs = open_inputs(args.dataset_name, args.dataset_config_name, args.per_class, RANKED_BY)
        inputs.detector = open_detector(args.align_faces, None, args.cache_dir, accelerator.device)
        reporter, identity = open_reporter(from_args(ReporterChoice, args), inputs, accelerator.device)
    settings = settings_of(args, inputs, identity)
    answers = args.output_dir / ANSWERS
    resume = bool(args.resume_from_checkpoint)
    in_main_process(accelerator, lambda: prepare(args.output_dir, settings, inputs, resume))
    accelerator.print(
        f"{args.dataset_name} ({'SIMULATED, ' * bool(inputs.is_simulated)}config {inputs.images.config_name}, "
        f"fingerprint {inputs.images._fingerprint}): "
        f"{len(inputs.rows)} of {counted(len(inputs.images), 'image')}, {inputs.chosen}\n"
        f"reporter {reporter.name}, {'whole pictures' if inputs.detector is None else 'faces by ' + args.align_faces}, "
        f"{counted(accelerator.num_processes, 'process', 'processes')} on {accelerator.device}"
    )
    if args.photographs_leave_this_machine:
        accelerator.print("every picture is sent to the server of --base_url, on another machine")

    # ---- every picture is asked about once, and once more after a malformed answer
    problems = []
    for attempt in range(2 if reporter.asks_again else 1):
        problems += ask(accelerator, reporter, inputs, answers, attempt)
    reporter.close()

    # ---- the reports
    if accelerator.is_main_process:
        results = write_reports_of(args.output_dir, inputs, reporter, identity, problems)
        if args.reporter == LANDMARKS:
            write_json(args.output_dir / NORMS, reporter.rules.norms.as_dict())
        record = run_record(vars(args), PACKAGES, started) | identity
        record |= {"dataset": {"fingerprint": inputs.images._fingerprint, "config_name": inputs.images.config_name}}
        finish_output(args.output_dir, record | device_record(accelerator))
        for problem in problems:
            print(f"left out: {problem}")
        print(f"written: {args.output_dir}: config reports ({counted(results['n_reports'], 'report')}, "
              f"malformed: {results['n_malformed']}), results.json, run.json")  # fmt: skip
    accelerator.wait_for_everyone()
    accelerator.end_training()


def settings_of(args: argparse.Namespace, inputs: ReportInputs, identity: dict) -> dict:
    """Everything that an answer depends on, as JSON returns it."""
    settings = {name: value for name, value in vars(args).items() if name not in FREE_SETTINGS}
    settings |= {"fingerprint": inputs.images._fingerprint, **identity}
    return json.loads(json.dumps(settings, default=str))


def prepare(output_dir: Path, settings: dict, inputs: ReportInputs, resume: bool) -> None:
    """Start the run's folder anew, or make it ready to go on; it is open to this user alone, and says what it is about.

    sources.json names the photographs, so that publishing/withdrawal.py finds the answers about them."""
    from reporting import answer_files
    from reporting.report_inputs import sources_of

    prepare_output(output_dir, settings, (ANSWERS, "reports"), RESULTS, resume, f"{NAME} generate")
    folder = output_dir / ANSWERS
    folder.mkdir(mode=0o700, exist_ok=True)
    os.chmod(folder, 0o700)
    write_json(folder / "sources.json", sources_of(inputs))
    answer_files.repair(folder)


def ask(accelerator: Accelerator, reporter: Reporter, inputs: ReportInputs, folder: Path, attempt: int) -> list[str]:
    """All processes together ask about every picture that lacks an answer to this attempt, and keep the answers.

    Returns a line for each picture that cannot be decoded, in all processes."""
    from accelerate.utils import gather_object
    from tqdm import tqdm

    from harness.launched_processes import own_share
    from reporting import answer_files

    accelerator.wait_for_everyone()
    keys = answer_files.still_to_ask(map(str, inputs.rows), answer_files.read_answers(folder), attempt)
    mine = own_share(accelerator, keys)
    flags: dict[str, tuple[str, ...]] = {}
    problems: list[str] = []

    def pictures() -> Iterator[tuple[str, np.ndarray]]:
        for key in mine:
            try:
                picture, flags[key] = inputs.picture(int(key))
            except InputError as error:
                problems.append(str(error))
            else:
                yield key, picture

    with answer_files.AnswerFile(folder, accelerator.process_index) as file:
        progress = tqdm(
            total=len(mine), desc="second answers" if attempt else "reports", disable=not accelerator.is_main_process
        )
        for key, answer in reporter.answers(pictures(), attempt):
            file.append(answer_files.kept(key, attempt, answer, flags.pop(key)))
            progress.update()
        progress.close()
    accelerator.wait_for_everyone()
    return gather_object(problems)


def write_reports_of(
    output_dir: Path, inputs: ReportInputs, reporter: Reporter, identity: dict, problems: Sequence[str]
) -> dict:
    """Config `reports` from the answers, and results.json, which is returned."""
    from reporting import answer_files, report_dataset
    from reporting.reporters import CUT_OFF, REPETITION, WHITESPACE, is_malformed

    answers = answer_files.read_answers(output_dir / ANSWERS)
    rows = []
    for row in inputs.rows:
        if own := answers.get(str(row)):
            answer = answer_files.best(own)
            prompt = identity.get("prompt_sha256")
            rows.append(report_dataset.report_row(inputs.origin(row), answer.text, reporter.name, prompt, answer.flags))
    if not rows:
        raise InputError(f"no report was written: {problems[0]}" if problems else "no report was written; start anew")
    report_dataset.write_reports(output_dir, rows, inputs.class_names)
    flags = Counter(flag for row in rows for flag in row["flags"])
    results = {
        "simulated": inputs.is_simulated,
        "reporter": identity,
        "chosen": inputs.chosen,
        "n_reports": len(rows),
        "n_malformed": sum(is_malformed(row["flags"]) for row in rows),
        "n_retried": flags[answer_files.RETRIED],
        "n_second_answers": flags[answer_files.SECOND],
        "n_cut": sum(not {CUT_OFF, REPETITION, WHITESPACE}.isdisjoint(row["flags"]) for row in rows),
        "flags": dict(sorted(flags.items())),
        "left_out": list(problems),
    }
    write_json(output_dir / "results.json", results)
    return results


# ------------------------------------------------------------------------------------------------------- score, terms


def score(args: argparse.Namespace) -> None:
    started = time.monotonic()
    for name in (args.real_reports, args.synthetic_reports):
        check_name(name, WRITE_REPORTS)
    work_offline_if_unreachable([args.real_reports, args.synthetic_reports, *args.encoders])
    import pyarrow.parquet as pq

    from pages.reports_page import write_page
    from reporting.report_dataset import open_reports, sources_of
    from reporting.report_scores import common_conditions, headline, score_reports
    from reporting.text_similarity import open_encoders

    # ---- both sets of reports, sentence encoders, output folder
    check_apart(args.output_dir, [args.real_reports, args.synthetic_reports])
    note([args.real_reports, args.synthetic_reports], args.output_dir, RUN)
    real, synthetic = open_reports(args.real_reports), open_reports(args.synthetic_reports)
    check_sides(real, synthetic)
    common_conditions(real, synthetic)  # raises if nothing can be compared, before an earlier result is removed
    encoders, not_run = open_encoders(args.encoders or None)
    settings = {"real": real.fingerprint, "synthetic": synthetic.fingerprint, "encoders": list(encoders)}
    prepare_output(args.output_dir, settings | {"seed": args.seed}, (), SCORES, False, f"{NAME} score")
    os.chmod(args.output_dir, 0o700)  # the page shows reports on patients
    write_json(args.output_dir / "sources.json", sources_of(real, synthetic))
    print(
        f"{counted(len(real), 'report')} of {args.real_reports}, {len(synthetic)} of {args.synthetic_reports}; "
        f"encoders {', '.join(encoders) or 'none'}"
        + (f" (not on this machine: {', '.join(not_run)})" if not_run else "")
    )

    # ---- scores, pairs, page
    scores = score_reports(real, synthetic, encoders, args.seed)
    write_atomically(args.output_dir / "pairs.parquet", lambda file: pq.write_table(scores.pairs, file))
    of_matrix = MATRIX_SIMILARITY if MATRIX_SIMILARITY in scores.pairs.column_names else None
    page = (scores.pairs, real, synthetic, scores.matrix, scores.condition_names, of_matrix, headline(scores.results))
    write_page(args.output_dir / "pairs.html", *page)
    write_json(args.output_dir / "results.json", {"seed": args.seed} | scores.results)
    finish_output(args.output_dir, run_record(vars(args), PACKAGES, started) | settings)
    simulated = is_simulated(real.columns["source_type"])
    print(f"{'SIMULATED: ' if simulated else ''}{headline(scores.results)}")
    print(f"written: {args.output_dir}: {', '.join(SCORES)}")


def check_sides(real: Reports, synthetic: Reports) -> None:
    """Raise InputError if the reports called real are about synthetic images, or if both sets are the same reports."""
    if real.id_column == "synthetic_id":
        reason = f"--real_reports {real.name} holds reports on synthetic images"
        raise InputError(f"{reason}; are the two folders swapped?")
    if real.fingerprint == synthetic.fingerprint:
        reason = f"--real_reports {real.name} and --synthetic_reports {synthetic.name} hold the same reports"
        raise InputError(f"{reason}, so there is no pair of two different images; name reports on synthetic images")


def print_terms(args: argparse.Namespace) -> None:
    """One JSON object per report, found as in the columns of config reports."""
    reports = {"--text": args.text} if args.file is None else reports_of(args.file)

    from reporting.report_sections import is_english, without_suggestion
    from reporting.report_terms import find_terms

    for place, report in reports.items():
        if not is_english(report):
            print(f"{place}: does not look English; its terms may be wrong", file=sys.stderr)
        print(json.dumps(find_terms(without_suggestion(report)).as_dict()))


def reports_of(file: Path) -> dict[str, str]:
    """Place ("FILE, line 3") -> line, of each line of a text file that is not blank; the file - is standard input.

    Raises InputError if the file cannot be read or holds no report, naming the first line that is not UTF-8."""
    name = "standard input" if str(file) == "-" else str(file)
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise InputError(f"{name}: {error.strerror or error}; name a text file with one report per line") from error
    reports = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
        place = f"{name}, line {number}"
        try:
            report = line.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{place}: is not UTF-8; save the file in that encoding") from error
        if report.strip():
            reports[place] = report
    if not reports:
        raise InputError(f"{name}: holds no report; write one report per line")
    return reports


if __name__ == "__main__":
    run_command(parse_args, main, STOPPED)
