"""runs.prepare_output: a run's folder belongs to one run at a time."""

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
