"""The SDK as source: every compiler is content, the ABI is the listed one, bounds hold."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from plumd.sdk import protocol
from tests.sdk_c.building import (
    C99,
    CXX14,
    EXAMPLES,
    HERE,
    ROOT,
    SDK,
    WARNINGS,
    Workshop,
    run,
    tool,
)

HPP_USER = """
#include <plum.hpp>
int main() {
  plum::Worker worker("http://127.0.0.1:1");
  worker.on_cancel([](plum::Attempt &) {});
  worker.task("a", [](plum::Attempt &) {}).task("b", [](plum::Attempt &) {
    return std::string("1"); });
  plum::Client client("http://127.0.0.1:1");
  plum::Kv kv(client, "space");
  const plum::Result<plum::Entry> entry = kv.get("x");
  std::vector<plum::Order> orders;
  orders.emplace_back("a");
  orders.emplace_back("b", "{}");
  if (client.submit_all(orders).status().code() != PLUM_E_UNREACHABLE
      || client.retry_after_ms() != -1)
    return 2;
  orders.emplace_back("c", "{");
  if (client.submit_all(orders).status().code() != PLUM_E_INVALID)
    return 3;
#ifdef PLUM_NO_EXCEPTIONS
  plum::Worker none("ftp://nowhere");   // a chain says at its end what its first link met
  none.capacity(4).label("a", "b").task("a", [](plum::Attempt &) {});
  if (none.run().code() != PLUM_E_INVALID)
    return 1;
#endif
  return entry.status().code() == PLUM_E_UNREACHABLE && !client.submit(plum::Order("x")) ? 0 : 1;
}
"""


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_c_without_a_warning(compiler: str, workshop: Workshop) -> None:
    """gcc's warnings that need the optimizer come with each build of plum.c."""
    workshop.sdk("plain")
    sources = [SDK / "plum.c", SDK / "plum_openssl.c", *EXAMPLES.glob("*.c"),
               HERE / "scenarios.c", ROOT / "bench/c_worker.c"]
    run(tool(compiler), *C99, f"-I{SDK}", "-fsyntax-only", *sources)


@pytest.mark.parametrize(("compiler", "standard"),
                         [("g++", "-std=c++11"), ("clang++", "-std=c++20")])
def test_cpp_without_a_warning(compiler: str, standard: str, tmp_path: Path) -> None:
    source = tmp_path / "user.cpp"
    source.write_text(HPP_USER, encoding="utf-8")
    run(tool(compiler), standard, *WARNINGS, f"-I{SDK}", "-fsyntax-only", source)
    if compiler == "clang++":       # the others are built by g++ for their own tests
        run(tool(compiler), *CXX14, f"-I{SDK}", "-fsyntax-only", *EXAMPLES.glob("*.cpp"))


def test_cpp_without_exceptions(tmp_path: Path, workshop: Workshop) -> None:
    source, program = tmp_path / "user.cpp", tmp_path / "user"
    source.write_text(HPP_USER, encoding="utf-8")
    run(tool("g++"), "-fno-exceptions", *CXX14, f"-I{SDK}", source, workshop.sdk("plain"), "-o",
        program, "-lpthread")
    run(program)


def test_the_plain_line_of_the_readme(tmp_path: Path) -> None:
    """A worker from two files and one line."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(cc .*|c\+\+ .*)$", readme, re.MULTILINE)
    assert len(lines) == 3, lines
    for name in ("plum.c", "plum.h", "plum.hpp"):
        (tmp_path / name).write_bytes((SDK / name).read_bytes())
    for path in EXAMPLES.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for line in lines:
        subprocess.run(line.replace("-O2", "-O0"), shell=True, cwd=tmp_path, check=True)
    assert (tmp_path / "echo_worker").exists()
    assert (tmp_path / "file_worker").exists()


def test_the_symbols_are_the_listed_ones(tmp_path: Path) -> None:
    """What a shared library shows is its ABI: a symbol goes or comes by a decision."""
    run(tool("make"), "-C", ROOT, "sdk", f"SDK_OUT={tmp_path}", "CC=gcc", "AR=ar",
        "CFLAGS=-O0")
    shown = run(tool("nm"), "-D", "--defined-only", "--format=posix", tmp_path / "lib/libplum.so")
    names = sorted(line.split()[0] for line in shown.splitlines())
    assert names == (SDK / "plum.sym").read_text(encoding="ascii").split()
    declared = set(re.findall(r"\b(plum_\w+)\(", (SDK / "plum.h").read_text(encoding="utf-8")))
    assert declared == set(names)
    # Constants that hold addresses are in .data.rel.ro, which is read-only once they are filled in.
    writable = [line for line in run(tool("objdump"), "-t", tmp_path / "lib/libplum.a")
                .splitlines() if re.search(r" O (\.data|\.bss|\*COM\*)\s", line)]
    assert not writable, f"no globals: {writable}"
    flags = run(tool("env"), f"PKG_CONFIG_PATH={tmp_path}/lib/pkgconfig", tool("pkg-config"),
                "--cflags", "--libs", "plum").split()
    program = tmp_path / "echo"
    run(tool("gcc"), EXAMPLES / "echo_worker.c", "-o", program, *flags,
        f"-Wl,-rpath,{tmp_path}/lib")
    assert "cannot be used" not in run(program, "ftp://nowhere", code=1)


def test_cmake(tmp_path: Path) -> None:
    build, prefix, user = tmp_path / "build", tmp_path / "prefix", tmp_path / "user"
    run(tool("cmake"), "-S", SDK, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}",
        "-DCMAKE_INSTALL_LIBDIR=lib", "-DPLUM_OPENSSL=ON")
    run(tool("cmake"), "--build", build)
    run(tool("cmake"), "--install", build)
    user.mkdir()
    (user / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.16)\nproject(User C)\nfind_package(Plum REQUIRED)\n"
        f"add_executable(user {EXAMPLES}/echo_worker.c)\n"
        "target_link_libraries(user Plum::plum_static)\n", encoding="utf-8")
    run(tool("cmake"), "-S", user, "-B", user / "build", f"-DCMAKE_PREFIX_PATH={prefix}")
    run(tool("cmake"), "--build", user / "build")
    assert run(user / "build/user", "ftp://nowhere", code=1) == ""
    # Where a distribution puts libraries elsewhere, pkg-config finds them there, static ones too.
    prefix = tmp_path / "distribution"
    run(tool("cmake"), "-S", SDK, "-B", build, f"-DCMAKE_INSTALL_PREFIX={prefix}",
        "-DCMAKE_INSTALL_LIBDIR=lib/any-linux")
    run(tool("cmake"), "--install", build)
    asks = (tool("env"), f"PKG_CONFIG_PATH={prefix}/lib/any-linux/pkgconfig", tool("pkg-config"))
    flags = run(*asks, "--static", "--cflags", "--libs", "plum").split()
    assert "-lssl" in flags
    run(tool("gcc"), EXAMPLES / "echo_worker.c", "-o", tmp_path / "echo", *flags)
    version = re.findall(r'SDK_VERSION "(.*)"', (SDK / "plum.h").read_text(encoding="utf-8"))
    assert run(*asks, "--modversion", "plum").split() == version


def test_bounds_are_those_of_the_protocol() -> None:
    header = (SDK / "plum.h").read_text(encoding="utf-8")
    names = {"PROTOCOL_VERSION": "VERSION"}
    found = dict(re.findall(r"^#define PLUM_(\w+) ([0-9(\"].*)$", header, re.MULTILINE))
    for name in ("PROTOCOL_VERSION", "ITEMS_MAX", "MESSAGE_BYTES_MAX", "VALUE_BYTES_MAX",
                 "CAPACITY_MAX", "ERROR_CHARS_MAX", "PROGRESS_CHARS_MAX", "DEPTH_MAX", "LOST"):
        wanted = getattr(protocol, names.get(name, name))
        text = found[name].strip("()\"")
        if isinstance(wanted, str):
            assert text == wanted
        else:
            product = 1
            for factor in text.split("*"):
                product *= int(factor)
            assert product == wanted, name
    assert found["SDK_VERSION"].strip('"') in (SDK / "CMakeLists.txt").read_text(encoding="ascii")


def test_lines_are_short_and_files_are_found() -> None:
    for path in (*SDK.glob("plum*"), *EXAMPLES.iterdir(), *HERE.glob("*.c")):
        if path.is_file():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
                assert len(line) <= 100, f"{path}:{number} is {len(line)} columns wide"
    assert run(sys.executable, "-m", "plumd.sdk.c").strip() == str(SDK)
