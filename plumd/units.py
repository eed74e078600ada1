"""The systemd units, which come with the package: where they are, and where they go."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

PROGRAM: Final = "/opt/plum/bin/plumd"
"""What the units call."""
PLACES: Final = {
    "plumd.service": "etc/systemd/system", "plumd.socket": "etc/systemd/system",
    "plum-agent@.service": "etc/systemd/system", "plum.sysusers": "etc/sysusers.d/plum.conf",
    "plum.tmpfiles": "etc/tmpfiles.d/plum.conf"}
NEXT: Final = """Next:
  systemd-sysusers && systemd-tmpfiles --create && systemctl daemon-reload
  systemctl enable --now plumd.socket plumd.service       # the controller
  systemctl enable --now plum-agent@$(hostname).service   # an agent
"""


UNSEEN: Final = ("home", "root", "tmp")
"""What ProtectHome= and PrivateTmp= of plumd.service hide from it."""


def unseen(program: str) -> bool:
    """Whether plumd.service could not start this program."""
    return Path(program).parts[1:2] in {(each,) for each in UNSEEN}


def folder() -> Path:
    """Where they are: in the package, or beside it in a checkout."""
    own = Path(__file__).parent
    return own / "units" if (own / "units").is_dir() else own.parent / "systemd"


def own_program() -> str:
    """The plumd that runs now, as far as that can be told."""
    return os.path.abspath(sys.argv[0]) if Path(sys.argv[0]).name == "plumd" else PROGRAM


def install(root: Path, program: str) -> list[Path]:
    """Write them below root; the paths. Raises OSError."""
    written = []
    for name, place in PLACES.items():
        path = root / place if place.endswith(".conf") else root / place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        text = (folder() / name).read_text(encoding="utf-8").replace(PROGRAM, program)
        path.write_text(text, encoding="utf-8")
        written.append(path)
    etc = root / "etc/plum/plumd.toml"
    if not etc.exists():        # the unit names it; an empty file is all defaults
        etc.parent.mkdir(parents=True, exist_ok=True)
        etc.write_text("# plumd sample-config shows what may stand here\n", encoding="utf-8")
        written.append(etc)
    return written
