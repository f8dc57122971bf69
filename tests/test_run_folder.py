"""What stops a run: a folder that is another's, damaged records, full and read-only disks, signals, poor terminals."""

import argparse
import contextlib
import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from harness import commands, errors, files, launched_processes, run_folder

ROOT = Path(__file__).resolve().parents[1]
HOLD = "import pathlib, sys; from harness.run_folder import prepare_output"
HOLD += "; prepare_output(pathlib.Path(sys.argv[1]), {}, 'parts', (), False)"
HOLD += "; print('held', flush=True); sys.stdin.read()"
MIB = 1 << 20


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A small disk of its own, in memory; skips where only root may mount one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a disk that is full or read-only has to be mounted, and only root may")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_folder_takes_one_run_at_a_time_and_is_free_once_that_is_killed(tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        part = folder / "parts" / "0"
        part.mkdir(parents=True)
        for resume in (False, True):
            with pytest.raises(errors.InputError, match="another run is writing into it; wait for it to end"):
                run_folder.prepare_output(folder, {}, "parts", (), resume)
        assert part.is_dir()  # nothing of the other's was removed
        other.kill()
    run_folder.prepare_output(folder, {}, "parts", (), True)
    assert part.is_dir()
    run_folder.prepare_output(folder, {}, "parts", (), False)  # this process may begin anew
    assert not part.exists()


def test_of_runs_that_start_at_the_same_moment_one_goes_on_and_the_others_say_why(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "out")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(4)]
    first_lines = [process.stdout.readline() for process in started]  # empty once a process has ended
    assert sorted(first_lines) == ["", "", "", "held\n"]
    spoken = [process.communicate()[1] for process in started]
    refused = [stderr.splitlines()[-1] for stderr in spoken if stderr]
    assert len(refused) == 3
    assert all("another run is writing into it; wait for it to end" in line for line in refused)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP], ids=errno.errorcode.get)
def test_a_disk_without_locks_is_named_in_one_line(number, tmp_path, monkeypatch):
    def no_locks(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with pytest.raises(errors.InputError, match=f"{os.strerror(number)}.*; name a new folder") as refused:
        run_folder.prepare_output(tmp_path / "out", {}, "parts", (), False)
    assert "\n" not in str(refused.value)


# ---- records


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b'{"seed": 0, "fo', "is cut short or not JSON (Unterminated string"),
        (b"\x00" * 40, "is cut short or not JSON"),  # as after a crash of the machine
        (b"\xff\xfe{}", "is cut short or not JSON ('utf-8' codec"),
        (b"[" * 100_000, "is cut short or not JSON"),
        (b"[1]", "holds a JSON list, not an object"),
        (b"0", "holds a JSON int, not an object"),
        (b"null", "holds a JSON NoneType, not an object"),
        (None, "cannot be read (Is a directory)"),
    ],
    ids=["empty", "cut", "zeros", "no UTF-8", "deep", "list", "number", "null", "folder"],
)
def test_a_damaged_record_is_named_with_reason_and_remedy(content, reason, tmp_path):
    file = tmp_path / "fold.json"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(errors.InputError) as refused:
        files.read_json(file, "train again")
    assert str(refused.value).startswith(f"{file} {reason}") and str(refused.value).endswith("; train again")
    assert "\n" not in str(refused.value)


def test_damaged_settings_stop_a_run_that_goes_on_and_lose_nothing_and_not_one_that_starts_anew(tmp_path):
    run_folder.prepare_output(tmp_path, {"seed": 1}, "parts", ("results.json",), False)
    part, result = tmp_path / "parts", tmp_path / "results.json"
    part.mkdir()
    result.write_text("{}")
    for content in ("", '{"seed"', "[]"):
        (tmp_path / "settings.json").write_text(content)
        with pytest.raises(
            errors.InputError, match="leave out --resume_from_checkpoint to start anew, or give another"
        ):
            run_folder.prepare_output(tmp_path, {"seed": 1}, "parts", ("results.json",), True)
        assert part.is_dir() and result.is_file()
    run_folder.prepare_output(tmp_path, {"seed": 1}, "parts", ("results.json",), False)
    assert not part.exists() and not result.exists()
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 1}


def test_a_finished_run_is_kept_until_the_one_that_replaces_it_is_finished(tmp_path, capsys):
    def prepare(settings: dict, resume: bool = False) -> str:
        run_folder.prepare_output(tmp_path, settings, ("parts", "more"), ("results.json",), resume)
        return capsys.readouterr().out

    def finish(number: int) -> None:
        (tmp_path / "parts").mkdir(exist_ok=True)
        (tmp_path / "parts" / "model").write_text(str(number))
        (tmp_path / "results.json").write_text(str(number))
        run_folder.finish_output(tmp_path, {"number": number})

    kept, aside = {"parts", "results.json", "run.json", "settings.json"}, tmp_path / "replaced_run"
    assert prepare({"seed": 1, "dataset": "a"}) == "" and not aside.exists()
    finish(1)
    said = f"{tmp_path}: the finished run that lay here is kept in replaced_run until this one is finished; it "
    assert prepare({"seed": 1, "dataset": "b"}) == f"{said}differed in dataset\n"
    assert {path.name for path in aside.iterdir()} == kept and (aside / "parts" / "model").read_text() == "1"
    assert json.loads((aside / "settings.json").read_text()) == {"seed": 1, "dataset": "a"}
    (tmp_path / "parts").mkdir()  # this run fails, and another one is begun and resumed: the last finished one is kept
    assert prepare({"seed": 2, "dataset": "b"}) == prepare({"seed": 2, "dataset": "b"}, resume=True) == ""
    assert not (tmp_path / "parts").exists() and (aside / "results.json").read_text() == "1"
    finish(2)
    assert not aside.exists() and json.loads((tmp_path / "run.json").read_text()) == {"number": 2}
    assert prepare({"seed": 2, "dataset": "b"}, resume=True) == ""  # its own results are no other run's
    assert not aside.exists() and (tmp_path / "parts" / "model").read_text() == "2"
    finish(2)
    assert prepare({"seed": 2, "dataset": "b"}) == f"{said}had the same settings\n"


def test_setting_a_finished_run_aside_goes_on_where_it_was_interrupted(tmp_path):
    prepare = ({"seed": 1}, ("one", "two"), ("results.json",), False)
    run_folder.prepare_output(tmp_path, *prepare)
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    run_folder.finish_output(tmp_path, {})
    (tmp_path / "replaced_run").mkdir()  # as if killed when the first file had been moved
    (tmp_path / "one").rename(tmp_path / "replaced_run" / "one")
    run_folder.prepare_output(tmp_path, *prepare)
    names = {path.name for path in (tmp_path / "replaced_run").iterdir()}
    assert names == {"one", "two", "run.json", "settings.json"} and not (tmp_path / "run.json").exists()


def test_an_output_folder_that_is_a_file_is_refused_in_a_sentence(tmp_path):
    (file := tmp_path / "README.md").write_text("mine")
    accelerator = SimpleNamespace(num_processes=1, is_main_process=True)
    for refuse in (
        lambda folder: run_folder.prepare_output(folder, {}, (), (), False),
        lambda folder: launched_processes.check_output_dir(accelerator, folder, []),
    ):
        with pytest.raises(errors.InputError) as refusal:
            refuse(file)
        assert str(refusal.value) == f"--output_dir {file} is a file; name a new folder"
        with pytest.raises(errors.InputError) as refusal:
            refuse(file / "run")
        assert (
            str(refusal.value) == f"--output_dir {file / 'run'} would lie in {file}, which is a file; name a new folder"
        )
    assert file.read_text() == "mine"


def test_a_run_from_before_something_was_recorded_is_not_gone_on_with(tmp_path):
    run_folder.prepare_output(tmp_path, {"seed": 1}, "folds", (), False)
    said = r"does not say with which input_std it was started, which is 0\.5 now; leave out --resume_from_checkpoint"
    with pytest.raises(errors.InputError, match=said):
        run_folder.prepare_output(tmp_path, {"seed": 1, "input_std": 0.5}, "folds", (), True)
    run_folder.prepare_output(tmp_path, {"seed": 1, "input_std": None}, "folds", (), True)


def test_the_folder_of_another_command_is_refused_and_one_without_a_name_or_with_damaged_settings_is_not(tmp_path):
    def prepare(command: str, resume: bool = False) -> None:
        run_folder.prepare_output(tmp_path, {"seed": 1}, "parts", ("results.json",), resume, command)

    run_folder.prepare_output(tmp_path, {"seed": 1}, "parts", ("results.json",), False)  # as before commands were named
    prepare("filter_synthetic.py")
    (tmp_path / "results.json").write_text("{}")
    before = (tmp_path / "settings.json").read_bytes()
    for resume in (False, True):
        with pytest.raises(
            errors.InputError, match=r"holds results of filter_synthetic.py, which train_fastgan.py does"
        ):
            prepare("train_fastgan.py", resume)
    assert (tmp_path / "results.json").is_file() and (tmp_path / "settings.json").read_bytes() == before
    prepare("filter_synthetic.py", resume=True)
    (tmp_path / "settings.json").write_text('{"seed')
    prepare("train_fastgan.py")
    with pytest.raises(errors.InputError, match=r"holds results of train_fastgan.py"):
        prepare("filter_synthetic.py")


def test_parts_of_an_earlier_run_that_cannot_be_removed_are_not_taken_for_this_ones(tmp_path):
    run_folder.prepare_output(tmp_path, {"seed": 1}, ("parts", "fold0"), (), False)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "fold0").symlink_to(tmp_path / "elsewhere")  # which rmtree refuses to follow
    with pytest.raises(errors.InputError, match="symbolic link; remove it, or name a new folder"):
        run_folder.prepare_output(tmp_path, {"seed": 2}, ("parts", "fold0"), (), False)
    assert json.loads((tmp_path / "settings.json").read_text()) == {"seed": 1}  # so that it cannot be gone on with


# ---- disks


def test_a_full_disk_leaves_the_earlier_file_and_nothing_beside_it_and_says_so_whoever_writes(tmp_path):
    tensors = {"weight": torch.zeros(MIB)}  # 4 MiB
    writers = (
        lambda file: torch.save(tensors, file),
        lambda file: save_file(tensors, file),
        lambda file: file.write_bytes(bytes(4 * MIB)),
    )
    with mounted(tmp_path / "disk", "size=2m") as disk:
        (disk / "file").write_text("earlier")
        for write in writers:
            with pytest.raises(OSError, match="No space left on device") as full:
                files.write_atomically(disk / "file", write)
            assert full.value.errno == errno.ENOSPC
            assert [path.read_text() for path in disk.iterdir()] == ["earlier"]


def test_other_errors_stay_as_they_are_and_leave_nothing_either(tmp_path):
    def stop(file: Path) -> None:
        file.write_text("half")
        raise raised

    for raised in (RuntimeError("unexpected pos"), KeyboardInterrupt(), errors.Terminated(), ValueError("x")):
        with pytest.raises(type(raised)) as same:
            files.write_atomically(tmp_path / "file", stop)
        assert same.value is raised and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("size=48k", "No space left on device; make room there, or name another folder"),
        ("size=4m,ro", "Read-only file system; name another folder"),
    ],
)
def test_a_folder_in_which_nothing_can_be_written_is_refused_before_anything_is_removed(options, reason, tmp_path):
    with mounted(tmp_path / "disk", options.removesuffix(",ro")) as disk:
        files.write_json(disk / "settings.json", {})
        (disk / "parts").mkdir()
        (disk / "results.json").write_text("{}")
        if options.endswith(",ro"):
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        before = sorted(disk.iterdir())
        for resume in (False, True):
            with pytest.raises(errors.InputError, match=f"^--output_dir {disk}: {reason}$"):
                run_folder.prepare_output(disk, {}, "parts", ("results.json",), resume)
        assert sorted(disk.iterdir()) == before


def test_results_do_not_go_into_a_datasets_folder(tmp_path):
    dataset, other = tmp_path / "rdface", tmp_path / "synthetic"
    for folder in (dataset, other):
        folder.mkdir()
    (tmp_path / "link").symlink_to(dataset)
    names = [str(dataset), "ORG/NAME", str(other)]
    for inside in (dataset, dataset / "runs" / "new", tmp_path / "link" / "new", other / "..", tmp_path / "new"):
        if inside in (other / "..", tmp_path / "new"):  # that holds datasets, and that is beside them
            run_folder.check_apart(inside, names)
            continue
        with pytest.raises(errors.InputError, match="would be published with it; name a folder outside"):
            run_folder.check_apart(inside, names)
    with pytest.raises(errors.InputError, match=r"of the dataset .*synthetic"):
        run_folder.check_apart(other / "x", names)


# ---- signals, terminals, flags


def ended(main: object, capsys: pytest.CaptureFixture) -> tuple[int, str]:
    """Exit status and what was said of a script whose main this is."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit) as end:
            commands.run_command(lambda: None, main, GO_ON)
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return end.value.code, said.partition(": ")[2].strip()


GO_ON = "--resume_from_checkpoint latest goes on from here"


def test_sigterm_ends_a_script_in_one_line_and_what_was_begun_is_removed(tmp_path, capsys):
    def preempted(_: object) -> None:
        def write(file: Path) -> None:
            file.write_text("half")
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)  # a second one changes nothing

        (tmp_path / "results.json").write_text("earlier")
        files.write_atomically(tmp_path / "results.json", write)

    assert ended(preempted, capsys) == (143, f"stopped by SIGTERM; {GO_ON}")
    assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (KeyboardInterrupt(), 130, f"stopped; {GO_ON}"),
        (OSError(errno.ENOSPC, "No space left on device", "f"), 1, f"make room, and {GO_ON}"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), 1, f"make room, and {GO_ON}"),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 1, f"Permission denied: 'f'; {GO_ON}"),
        (Exception("I/O error: No space left on device (os error 28)"), 1, f"make room, and {GO_ON}"),
        (RuntimeError("[pair.cc:561] Connection closed by peer [::1]:1"), 1, "another process ended"),
        (errors.InputError("a reason; a remedy"), 2, "a reason; a remedy"),
    ],
    ids=str,
)
def test_what_a_user_can_put_right_is_one_line(raised, status, said, capsys):
    def stopped(_: object) -> None:
        raise raised

    code, line = ended(stopped, capsys)
    assert code == status and said in line


def test_a_bug_keeps_its_traceback():
    def broken(_: object) -> None:
        raise RuntimeError("a bug")

    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(RuntimeError, match="a bug"):
            commands.run_command(lambda: None, broken, GO_ON)
    finally:
        signal.signal(signal.SIGTERM, handler)


def test_a_terminal_that_is_not_utf8_ends_no_script():
    script = "from harness import commands, errors; commands.begin_command(); print('Noé 王'); "
    script += "errors.fail('fehlt: Ähre', 2)"
    for encoding in ("ascii", "latin-1"):
        environment = os.environ | {"PYTHONIOENCODING": encoding, "LANG": "C"}
        run = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, check=False
        )
        assert run.returncode == 2 and run.stdout.decode(encoding).startswith("No")
        assert b"\\u738b" in run.stdout and b"Traceback" not in run.stderr


@pytest.mark.parametrize(
    ("capabilities", "emulated"),
    [
        ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, True),
        ({"avx512_bf16": True, "amx_bf16": False}, False),
        ({"amx_bf16": True}, False),
        ({"architecture": "aarch64", "bf16": True}, False),
    ],
)
def test_bf16_on_a_processor_without_it_is_announced(capabilities, emulated, monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    for precision in ("no", "bf16"):
        AcceleratorState._reset_state(reset_partial_state=True)
        launched_processes.open_accelerator(precision)
        assert ("bf16: this processor" in capsys.readouterr().out) == (emulated and precision == "bf16")
    AcceleratorState._reset_state(reset_partial_state=True)


# ---- folders that are replaced


def test_a_datasets_folder_takes_one_writer_at_a_time_and_the_lock_is_beside_it(tmp_path):
    target = tmp_path / "new" / "rdface"
    with run_folder.sole_writer(target):
        assert [path.name for path in target.parent.iterdir()] == [".rdface.lock"]  # where another machine sees it
        with (
            pytest.raises(
                errors.InputError, match=r"^rdface: is being written by another build, .*; wait for it to end$"
            ),
            run_folder.sole_writer(target),
        ):
            pass
        with run_folder.sole_writer(tmp_path / "new" / "other"):  # in peace
            pass
    assert list(target.parent.iterdir()) == []
    with run_folder.sole_writer(target):  # free again
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.InputError, match="rdface: cannot be written"):
        run_folder.sole_writer(tmp_path / "file" / "rdface").__enter__()


def test_a_mount_point_cannot_be_replaced_and_what_is_in_it_can(small_disk):
    with pytest.raises(errors.InputError, match=r"disk: is a mount point.*choose a folder inside of it"):
        run_folder.check_replaceable(small_disk)
    (small_disk / ".rdface.trial-left").mkdir()
    run_folder.check_replaceable(small_disk / "rdface")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_read_only_is_told_before_the_work(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(
        errors.InputError, match=r"^rdface: cannot be written \(Read-only file system\); choose another"
    ):
        run_folder.sole_writer(small_disk / "rdface").__enter__()


def test_a_file_that_a_full_disk_cuts_short_leaves_nothing_and_the_folder_is_named(small_disk):
    file = small_disk / "settings.json"
    file.write_text("as before")
    with (
        pytest.raises(OSError, match=r"^there is no space left in .*disk; make room$"),
        run_folder.full_disk_named(small_disk, "make room"),
    ):
        files.write_atomically(file, lambda partial: partial.write_bytes(bytes(5_000_000)))
    assert file.read_text() == "as before" and list(small_disk.iterdir()) == [file]
    with pytest.raises(FileNotFoundError), run_folder.full_disk_named(small_disk, "make room"):
        (small_disk / "none").read_text()


def test_a_home_is_a_home_also_where_no_shell_saw_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/curator")
    home = Path("/home/curator")
    paths = {"~/x": home / "x", "~": home, "a/~": Path("a/~"), "./~/x": Path("~/x"), "/x": Path("/x")}
    assert {text: commands.path_argument(text) for text in paths} == paths
    assert (
        commands.dataset_argument("~/rdface") == "/home/curator/rdface"
        and commands.dataset_argument("lab/x") == "lab/x"
    )
    for text, reason in (("~nobody-has-this-name/x", "no such home"), (" ", "names no folder")):
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            commands.path_argument(text)


def test_a_command_is_stopped_by_sigterm_as_by_ctrl_c_and_writes_to_any_terminal(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    before = signal.getsignal(signal.SIGTERM)
    try:
        commands.begin_command()
        print("Ménière ±", flush=True)
        with pytest.raises(KeyboardInterrupt) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert terminal.buffer.getvalue() == b"M\\xe9ni\\xe8re \\xb1\n"
    assert (errors.stopped_status(stop.value), errors.stopped_status(KeyboardInterrupt())) == (143, 130)


def test_no_item_is_nobodys_if_one_process_is_done_before_another_looks():
    done: dict[str, int] = {}
    meeting = threading.Barrier(2, timeout=20)

    def work(process: int) -> None:
        time.sleep(0.2 * process)
        accelerator = SimpleNamespace(process_index=process, num_processes=2, wait_for_everyone=meeting.wait)
        for item in launched_processes.own_share(accelerator, [item for item in "abcdef" if item not in done]):
            done[item] = process

    done["c"] = 7  # by an earlier run
    threads = [threading.Thread(target=work, args=(process,)) for process in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(sorted(done.items())) == {"a": 0, "b": 1, "c": 7, "d": 0, "e": 1, "f": 0}
