"""The temporary folder of an attempt, and what a dead one left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from worker.scratch import attempt_folder, scratch_root, sweep_orphans

_HOLD = """
import os, sys, time
from pathlib import Path
from worker.scratch import attempt_folder
with attempt_folder(Path(sys.argv[1]), "job_x", 1) as folder:
    (folder / "frame").write_bytes(b"1")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_the_folder_is_deleted_however_its_block_ends(tmp_path: Path) -> None:
    seen: list[Path] = []

    def end_inside() -> None:
        with attempt_folder(tmp_path, "job_1", 1) as folder:
            seen.append(folder)
            (folder / "deep").mkdir()
            (folder / "deep" / "file").write_bytes(b"1")
            raise SystemExit

    with pytest.raises(SystemExit):
        end_inside()
    assert len(seen) == 1
    assert not seen[0].exists()


def test_a_sweep_deletes_the_folders_of_dead_processes_only(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    theirs = Path(holder.stdout.readline().strip())
    (tmp_path / "of somebody else").mkdir()
    with attempt_folder(tmp_path, "job_y", 1) as mine:
        assert sweep_orphans(tmp_path) == 0
        holder.kill()
        holder.communicate()
        assert theirs.exists()
        assert sweep_orphans(tmp_path) == 1
        assert mine.exists()
    assert not theirs.exists()
    assert (tmp_path / "of somebody else").exists()


def test_the_default_place_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = scratch_root(None)
    assert root.parent == tmp_path
    assert root.stat().st_mode & 0o077 == 0
