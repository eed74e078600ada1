"""Machines with a systemd of their own as the first process, made of this machine's /usr.

The control groups are below ours, one in each hierarchy of version 1, so that limits bite. Their
directories are all that could stay behind; the next run removes those of runs that are gone.
"""

from __future__ import annotations

import itertools
import os
import shutil
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.daemon.plant import wait_for
from tests.machines.network import TIED, Machine, Network, cannot, child_of

HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parent.parent
GROUPS: Final = Path("/sys/fs/cgroup")
MARK: Final = "plum-box"
ENTER: Final = 'for d in $GROUPS; do echo $$ > "$d/cgroup.procs"; done; exec "$@"'
PYTHON: Final = Path("/opt/python")
LIB: Final = Path("/opt/plum/lib")
SITE: Final = Path("/opt/plum/site")
PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_count = itertools.count()


class Box(Machine):
    """A machine that systemd runs, with Plum in /opt/plum as an installation has it."""

    def __init__(self, network: Network, name: str, number: int) -> None:
        self._groups = make_groups()
        super().__init__(network, name, number)
        wait_for(lambda: self.systemctl("is-system-running", check=False).stdout.strip()
                 in ("running", "degraded"), "systemd is up")
        self.install()

    def boot(self) -> tuple[subprocess.Popen[bytes], int]:
        """The holder of its namespaces, and its systemd."""
        binds = [f"{ROOT / name}={LIB / name}" for name in ("plumd", "systemd")]
        binds.append(f"{site.getsitepackages()[0]}={SITE}")
        if not self.python_is_usr():
            binds.append(f"{sys.base_prefix}={PYTHON}")
        process = subprocess.Popen(
            [*TIED, "sh", "-c", ENTER, "sh", "unshare", "--pid", "--fork", "--kill-child",
             "--mount", "--propagation", "private", "--uts", "--ipc", "--net", "--cgroup", "--",
             str(HERE / "boot.sh"), *binds],
            env={"GROUPS": " ".join(map(str, self._groups)), "PATH": os.environ["PATH"]})

        def is_up() -> bool:
            inner = child_of(process.pid)
            return inner is not None and (
                Path(f"/proc/{inner}/comm").read_text() == "systemd\n")

        wait_for(is_up, "systemd begins")
        inner = child_of(process.pid)
        assert inner is not None
        return process, inner

    @staticmethod
    def python_is_usr() -> bool:
        """Whether the machine's own Python is the one that runs us."""
        return Path(sys.base_prefix) == Path("/usr")

    @property
    def root(self) -> Path:
        """Its files, as they are seen from here."""
        return Path(f"/proc/{self.init}/root")

    def install(self) -> None:
        """As docs/systemd.md says, but for pip."""
        python = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
        if not self.python_is_usr():
            python = f"{PYTHON}/bin/{Path(python).name}"
        program = self.root / "opt/plum/bin/plumd"
        program.write_text(
            f"#!/bin/sh\nexport PYTHONPATH={LIB}:{SITE} LD_LIBRARY_PATH={PYTHON}/lib\n"
            f'exec {python} -m plumd "$@"\n')
        program.chmod(0o755)
        self.run("/opt/plum/bin/plumd", "install-units")
        self.run("systemd-sysusers")
        self.run("systemd-tmpfiles", "--create")
        self.systemctl("daemon-reload")

    def drop_in(self, unit: str, text: str) -> None:
        """What `systemctl edit` would write."""
        folder = self.root / f"etc/systemd/system/{unit}.d"
        folder.mkdir(exist_ok=True)
        (folder / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """What systemctl says."""
        return subprocess.run([*self.way_in, "systemctl", *words], check=check, timeout=60,
                              capture_output=True, text=True, env={"PATH": PATH})

    def shows(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", "--property", name, unit).stdout.strip()

    def journal(self, unit: str) -> str:
        """What a unit and systemd said of it."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)

    def close(self) -> None:
        """Cut the power."""
        super().close()
        for group in self._groups:
            remove(group)


def make_groups() -> list[Path]:
    """A group for one machine in each hierarchy."""
    if not (GROUPS / "memory").is_dir():
        cannot("there are no control groups of version 1, which these boxes are made of")
    found = []
    for kind, own in own_groups():
        parent = GROUPS / kind / own.lstrip("/")
        for old in parent.glob(f"{MARK}.*"):
            if not Path(f"/proc/{old.name.split('.')[1]}").exists():
                remove(old)
        group = parent / f"{MARK}.{os.getpid()}.{next(_count)}"
        try:
            group.mkdir()
        except OSError as error:
            cannot(f"a control group cannot be made: {error}")
        found.append(group)
        for name in ("cpuset.cpus", "cpuset.mems") if kind == "cpuset" else ():
            (group / name).write_text((parent / name).read_text())
    return found


def own_groups() -> Iterator[tuple[str, str]]:
    """(directory of a hierarchy, our group in it)."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        kind = controllers.removeprefix("name=") or "unified"
        if (GROUPS / kind).is_dir():
            yield kind, own


def remove(group: Path) -> None:
    """A group without processes, with all below it."""
    for folder, _, _ in os.walk(group, topdown=False):
        wait_for(lambda: gone(Path(folder)), f"{folder} is empty", 10)     # noqa: B023 - at once


def gone(folder: Path) -> bool:
    """Whether a group went."""
    try:
        folder.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def check_systemd() -> None:
    """Skip where there is none."""
    if shutil.which("systemctl") is None or not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not here: apt-get install systemd")
