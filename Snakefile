# A whole study: each step of the configuration is a job of the rule that has its command's name.
#
#     snakemake --configfile config/demo.yaml                                  on this machine; --dry-run shows the plan
#     snakemake --configfile config/paper.yaml --profile config/slurm          on a cluster
#
# Only the last file of each step is declared: Snakemake removes declared files before a job and after its failure, and
# a step that was killed goes on from its own checkpoints (harness/study_step.py). docs/cluster.md explains the rest.
import atexit
import contextlib
import importlib
import io
import json
import logging
import os
import re
import sys

from filelock import FileLock, Timeout
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import Quietness
from snakemake_interface_executor_plugins.settings import ExecMode

from harness import study_plan, study_report
from harness.errors import InputError
from harness.source_files import digest_of

MAIN = workflow.exec_mode == ExecMode.DEFAULT  # else this is a job of a cluster, which reads this file again
PYTHON = sys.executable
MIXED_PRECISION = (config.get("launch") or {}).get("mixed_precision", "no")
os.environ.setdefault("HF_HUB_OFFLINE", str(int(bool((config.get("launch") or {}).get("offline", True)))))

try:
    study = study_plan.read_study(config)
except InputError as error:
    raise WorkflowError(str(error)) from None


def check_command_lines():
    """Every command reads its arguments before the first job starts, as it will when its turn comes."""
    for name in study.steps:
        script, *arguments = study.command_line(name, study.folder / "steps" / "not_yet_there")
        said = io.StringIO()
        try:
            with contextlib.redirect_stderr(said):
                importlib.import_module(script.removesuffix(".py")).parse_args(arguments)
        except SystemExit:
            raise WorkflowError(f"step {name}: {said.getvalue().strip().partition(': ')[2]}") from None


if MAIN:
    check_command_lines()
if {Quietness.RULES, Quietness.PROGRESS} <= set(workflow.output_settings.quiet or ()):
    logger.addFilter(lambda record: record.levelno > logging.INFO)  # the steps say themselves when they are done
outcome = {"failed": False}


def inputs_of(wildcards):
    step = study.steps[wildcards.step]
    return [*(str(study.last_file(name)) for name in step.needs), *step.files]


def asked(resource):
    return lambda wildcards: study.steps[wildcards.step].resources[resource]


rule all:
    default_target: True
    input:
        [str(study.last_file(name)) for name in study.steps],


for command, details in study_plan.COMMANDS.items():
    names = [name for name, step in study.steps.items() if step.command == command]
    if not names:
        continue

    rule:
        name:
            command.replace(" ", "_")
        input:
            inputs_of,
        output:
            str(study.folder / "{step}" / details.last_file) if details.last_file else str(study.folder / "{step}"),
        wildcard_constraints:
            step="|".join(map(re.escape, names)),
        params:
            command=lambda wildcards: study.command_line(wildcards.step),
            code=digest_of(details.script.split()[0]),
        log:
            str(study.folder / "logs" / "{step}.log"),
        threads: asked("threads")
        resources:
            gpu=asked("gpu"),
            mem_mb=asked("mem_mb"),
            runtime=asked("runtime"),
            processes=lambda wildcards, launched=details.launched: (
                max(1, study.steps[wildcards.step].resources["gpu"]) if launched else 0
            ),
        message:
            "{wildcards.step}"
        shell:
            "PYTHONPATH={workflow.basedir:q} {PYTHON} -m harness.study_step "
            "--study {study.folder:q} --step {wildcards.step:q} --code {params.code} --log {log:q} "
            "--processes {resources.processes} --mixed_precision {MIXED_PRECISION} "
            "--gpus {resources.gpu} --threads {threads} "
            + ("--resumes " if details.resumes else "")
            + "--made_from {input:q} -- {params.command:q}"


onstart:
    to_run = [job.wildcards.step for job in workflow.dag.needrun_jobs() if job.rule.name != "all"]
    if missing := study.missing_weights(to_run):
        outcome["failed"] = True
        raise WorkflowError(missing)
    study.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(study.folder / "study.lock")  # released by the system, however this process ends
    try:
        lock.acquire(timeout=0)
    except Timeout:
        outcome["failed"] = True
        raise WorkflowError(f"{study.folder}: another run of this study is under way; wait for it to end")
    outcome["lock"] = lock
    study_report.begin(study)
    os.environ["RDFACE_STUDY_JOBS"] = str(len(to_run))
    gpus = workflow.global_resources.get("gpu").value or 0
    if workflow.local_exec and gpus:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
        os.environ["RDFACE_STUDY_GPUS"] = ",".join(visible.split(",")[:gpus])
    print(f"{len(to_run)} of {len(study.steps)} steps to do; what they say is kept in {study.folder}/logs", flush=True)


onsuccess:
    outcome["lock"].release()


onerror:
    outcome["failed"] = True
    outcome["lock"].release()


@atexit.register  # Snakemake calls no handler after a dry run, or if there was nothing to do
def end():
    if not MAIN or outcome["failed"] or workflow.dag is None:
        return
    if workflow.dryrun:
        jobs = [job.wildcards.step for job in workflow.dag.needrun_jobs(exclude_finished=False) if job.rule.name != "all"]
        print(study_report.plan(study, jobs))
    elif all(study.last_file(name).exists() for name in study.steps):
        print(f"all {len(study.steps)} steps of {study.folder} are done")
        results, page = study.folder / "results.json", study.folder / "report.html"
        if results.is_file() and page.is_file():
            from pages.study_page import headline_lines

            print("\n".join([*headline_lines(json.loads(results.read_text())), f"open {page}"]))
