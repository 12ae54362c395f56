"""Builds of llama.cpp: one virtual environment per compiler, with llama-cpp-python from PyPI."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PACKAGE = "llama-cpp-python==0.3.36"
NATIVE = "-DGGML_NATIVE=ON"
AVX2 = ("-DGGML_NATIVE=OFF -DGGML_SSE42=ON -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON "
        "-DGGML_AVX512=OFF")


class VenvError(Exception):
    """A build cannot be had."""


def version(program):
    """The first line that a compiler says about itself, or None if it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return (done.stdout.splitlines() or [""])[0]


def newest(name, programs):
    """Of `clang`, `clang-18`, `clang-19` the one with the highest version in its name; without one, the plain name."""
    def rank(program):
        found = re.fullmatch(re.escape(name) + r"-(\d+)", program)
        return int(found.group(1)) if found else 0

    fitting = [p for p in programs if p == name or rank(p)]
    return max(fitting, key=rank, default=None)


def programs_on_path():
    found = set()
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        try:
            found.update(entry.name for entry in os.scandir(folder or "."))
        except OSError:
            pass
    return found


def compilers():
    """Name to (C compiler, C++ compiler), for those that are here: gcc, and the newest clang."""
    found = {}
    programs = programs_on_path()
    gcc, clang = newest("gcc", ["gcc"] if "gcc" in programs else programs), newest("clang", programs)
    for name, c, cxx in (("gcc", gcc, (gcc or "").replace("gcc", "g++")),
                         ("clang", clang, (clang or "").replace("clang", "clang++"))):
        if c and shutil.which(cxx):
            found[name] = (c, cxx)
    return found


def python_of(venv):
    return Path(venv) / "bin" / "python"


def has_llama_cpp(venv):
    python = python_of(venv)
    return python.exists() and subprocess.run(
        [python, "-c", "import llama_cpp"], capture_output=True).returncode == 0


def build(venv, c, cxx, cmake_args, say):
    """Makes the environment unless it is there. The compile takes some minutes of all cores."""
    if has_llama_cpp(venv):
        return
    say(f"building {PACKAGE} with {c} in {venv} (some minutes, once)")
    log = Path(f"{venv}.log")
    venv.parent.mkdir(parents=True, exist_ok=True)
    env = {**os.environ, "CC": c, "CXX": cxx, "CMAKE_ARGS": cmake_args}
    try:
        with open(log, "wb") as out:
            for command in (
                [sys.executable, "-m", "venv", "--clear", str(venv)],
                # A wheel from the cache may be another compiler's.
                [str(python_of(venv)), "-m", "pip", "install", "--no-cache-dir", "--no-binary", "llama-cpp-python",
                 PACKAGE],
            ):
                subprocess.run(command, env=env, stdout=out, stderr=subprocess.STDOUT, check=True)
    except (OSError, subprocess.CalledProcessError):
        shutil.rmtree(venv, ignore_errors=True)
        raise VenvError(f"building {PACKAGE} with {c} failed; {log} tells why") from None
    built = {"compiler": version(c), "cmake_args": cmake_args}
    (venv / "built.json").write_text(json.dumps(built) + "\n")


def built_with(venv):
    """What `build` wrote down; nothing for environments that somebody else made."""
    try:
        return json.loads((Path(venv) / "built.json").read_text())
    except (OSError, ValueError):
        return {}


def given(pairs):
    """`NAME=PATH` options as a dictionary of usable environments."""
    found = {}
    for pair in pairs:
        name, separator, path = pair.partition("=")
        if not separator or not name or not path:
            raise VenvError(f"`{pair}` is not NAME=PATH")
        if name in found or name == "ingle":
            raise VenvError(f"the name `{name}` is taken")
        if not has_llama_cpp(path):
            raise VenvError(f"{path}: no virtual environment in which `import llama_cpp` works")
        found[name] = Path(path)
    return found


def native(folder, say):
    """One environment per compiler, built for this machine. At least one must succeed."""
    return built(folder, "", NATIVE, say)


def avx2(folder, say):
    """The same without AVX-512."""
    return built(folder, "-avx2", AVX2, say)


def built(folder, suffix, cmake_args, say):
    found, failures = {}, []
    for name, (c, cxx) in compilers().items():
        venv = Path(folder) / f"{name}{suffix}"
        try:
            build(venv, c, cxx, cmake_args, say)
            found[f"{name}{suffix}"] = venv
        except VenvError as error:
            failures.append(str(error))
            say(str(error))
    if not found:
        raise VenvError("; ".join(failures) or "neither gcc with g++ nor clang with clang++ is on PATH: install one, "
                        "or give a built environment with --peer-venv NAME=PATH")
    return found
