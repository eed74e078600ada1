"""Builds the compiled core and plum-shim; the metadata is in pyproject.toml.

PLUM_DEBUG=1 builds the core with bounds checks, line tracing and an annotated listing.
"""

import os
import pathlib
import subprocess
import sysconfig

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

DEBUG = os.environ.get("PLUM_DEBUG") == "1"
SHIM = pathlib.Path("plumd/agent/shim.c")


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
    cmdclass={"build_ext": BuildAll},
)
