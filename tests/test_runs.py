"""What commands share: one run at a time in a folder, paths as users write them, stops and terminals."""

import argparse
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import runs

ROOT = Path(__file__).resolve().parents[1]
HOLD = "import pathlib, sys, runs; runs.prepare_output(pathlib.Path(sys.argv[1]), {}, 'parts', (), False)"
HOLD += "; print('held', flush=True); sys.stdin.read()"


def test_a_folder_takes_one_run_at_a_time_and_is_free_once_that_is_killed(tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "-c", HOLD, str(folder)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        part = folder / "parts" / "0"
        part.mkdir(parents=True)
        for resume in (False, True):
            with pytest.raises(runs.InputError, match="another run is writing into it; wait for it to end"):
                runs.prepare_output(folder, {}, "parts", (), resume)
        assert part.is_dir()  # nothing of the other's was removed
        other.kill()
    runs.prepare_output(folder, {}, "parts", (), True)
    assert part.is_dir()
    runs.prepare_output(folder, {}, "parts", (), False)  # this process may begin anew
    assert not part.exists()


def test_a_datasets_folder_takes_one_writer_at_a_time_and_the_lock_is_beside_it(tmp_path):
    target = tmp_path / "new" / "rdface"
    with runs.sole_writer(target):
        assert [path.name for path in target.parent.iterdir()] == [".rdface.lock"]  # where another machine sees it
        with (
            pytest.raises(
                runs.InputError, match=r"^rdface: is being written by another build, .*; wait for it to end$"
            ),
            runs.sole_writer(target),
        ):
            pass
        with runs.sole_writer(tmp_path / "new" / "other"):  # in peace
            pass
    assert list(target.parent.iterdir()) == []
    with runs.sole_writer(target):  # free again
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(runs.InputError, match="rdface: cannot be written"):
        runs.sole_writer(tmp_path / "file" / "rdface").__enter__()


def test_a_mount_point_cannot_be_replaced_and_what_is_in_it_can(small_disk):
    with pytest.raises(runs.InputError, match=r"disk: is a mount point.*choose a folder inside of it"):
        runs.check_replaceable(small_disk)
    (small_disk / ".rdface.trial-left").mkdir()
    runs.check_replaceable(small_disk / "rdface")
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_is_read_only_is_told_before_the_work(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(runs.InputError, match=r"^rdface: cannot be written \(Read-only file system\); choose another"):
        runs.sole_writer(small_disk / "rdface").__enter__()


def test_a_file_that_a_full_disk_cuts_short_leaves_nothing_and_the_folder_is_named(small_disk):
    file = small_disk / "settings.json"
    file.write_text("as before")
    with (
        pytest.raises(OSError, match=r"^there is no space left in .*disk; make room$"),
        runs.full_disk_named(small_disk, "make room"),
    ):
        runs.write_atomically(file, lambda partial: partial.write_bytes(bytes(5_000_000)))
    assert file.read_text() == "as before" and list(small_disk.iterdir()) == [file]
    with pytest.raises(FileNotFoundError), runs.full_disk_named(small_disk, "make room"):
        (small_disk / "none").read_text()


def test_a_home_is_a_home_also_where_no_shell_saw_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/curator")
    home = Path("/home/curator")
    paths = {"~/x": home / "x", "~": home, "a/~": Path("a/~"), "./~/x": Path("~/x"), "/x": Path("/x")}
    assert {text: runs.path_argument(text) for text in paths} == paths
    assert runs.dataset_argument("~/rdface") == "/home/curator/rdface" and runs.dataset_argument("lab/x") == "lab/x"
    for text, reason in (("~nobody-has-this-name/x", "no such home"), (" ", "names no folder")):
        with pytest.raises(argparse.ArgumentTypeError, match=reason):
            runs.path_argument(text)


def test_a_command_is_stopped_by_sigterm_as_by_ctrl_c_and_writes_to_any_terminal(monkeypatch):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", terminal)
    before = signal.getsignal(signal.SIGTERM)
    try:
        runs.begin_command()
        print("Ménière ±", flush=True)
        with pytest.raises(KeyboardInterrupt) as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert terminal.buffer.getvalue() == b"M\\xe9ni\\xe8re \\xb1\n"
    assert (runs.stopped_status(stop.value), runs.stopped_status(KeyboardInterrupt())) == (143, 130)
