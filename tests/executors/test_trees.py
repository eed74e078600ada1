"""What programs leave goes, whatever it is, and nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from plumd.executors.trees import remove_tree

DEEP = 3_000
"""More than Python's stack, a process's descriptors, or the length of a path would bear."""
DIG = ("import os, sys; os.chdir(sys.argv[1])\n"
        "for _ in range(int(sys.argv[2])):\n    os.mkdir('deep'); os.chdir('deep')\n"
        "open('file', 'w').close()")


def test_depth_has_no_bound(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "beside").mkdir()
    (root / "beside" / "file").touch()
    subprocess.run([sys.executable, "-c", DIG, root, str(DEEP)], check=True)
    remove_tree(root)
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir(mode=0o500)
    (tmp_path / "root" / "a").mkdir(parents=True)
    (tmp_path / "root" / "a" / "link").symlink_to(other)
    (tmp_path / "root" / "nowhere").symlink_to("nowhere")
    os.mkfifo(tmp_path / "root" / "fifo")
    remove_tree(tmp_path / "root")
    assert list(tmp_path.iterdir()) == [other]
    assert other.stat().st_mode & 0o777 == 0o500
    (tmp_path / "link").symlink_to(other)
    other.chmod(0o700)
    (other / "file").touch()
    remove_tree(tmp_path / "link")
    assert (other / "file").exists()
    remove_tree(tmp_path / "no such directory")


@pytest.mark.parametrize("mode", [0o555, 0o000, 0o300])
def test_what_its_own_user_may_not_write_goes_too(tmp_path: Path, mode: int) -> None:
    root = tmp_path / "root"
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "file").touch()
    for folder in (root / "a" / "b", root / "a", root):
        folder.chmod(mode)
    code = ("import sys, pathlib; from plumd.executors.trees import remove_tree;"
            "remove_tree(pathlib.Path(sys.argv[1]))")
    words = [sys.executable, "-c", code, str(root)]
    if os.geteuid() == 0:
        words = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *words]
    subprocess.run(words, check=True)
    assert not root.exists()
