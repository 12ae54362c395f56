"""A hub of models on loopback, and servers with stores of their own that pull from it.

INGLE_BINARY   the program
INGLE_HUB      the hub's program (cargo build -p ingle-testkit --example hub)
"""

import os
import subprocess

import pytest

from hub import WEIGHTS, Hub
from serving import BINARY, serving


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A repository: the model that ships with Ingle, and texts."""
    folder = tmp_path_factory.mktemp("repo")
    (folder / "README.md").write_text("# tiny")
    (folder / "LICENSE").write_text("MIT")
    (folder / "sub").mkdir()
    (folder / "sub" / "notes.txt").write_text("notes")
    (folder / "tiny-Q4_K_M.gguf").write_bytes(WEIGHTS.read_bytes())
    return folder


@pytest.fixture(scope="session")
def hub(files):
    hub = Hub("--repo", f"maker/tiny-GGUF={files}", "--repo", f"maker/gated={files}", "--gate", "maker/gated=hf_right",
              "--model", f"team/tiny:v1={WEIGHTS}", "--model", f"team/base:v1={WEIGHTS}")
    yield hub
    hub.close()


@pytest.fixture(scope="session")
def environment(hub):
    """What Ingle is told of the hub: it is this machine, where only what an operator names may be fetched from."""

    def environment(home):
        names = ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
        kept = {name: value for name, value in os.environ.items()
                if name not in ("INGLE_API_KEY", "HF_TOKEN", "HF_HOME", "HF_HUB_CACHE")}
        return {**kept, **{name: str(home) for name in names}, "HF_ENDPOINT": hub.url, "INGLE_PRIVATE_HOSTS": "127.0.0.1",
                "INGLE_MODELS": str(home / "models"), "INGLE_CONFIG": "/dev/null"}

    return environment


@pytest.fixture
def ingle(environment, tmp_path):
    """The program, with a home of its own: what it prints, or with `fails` what it says when it fails."""

    def ingle(*args, fails=False, stdin="", env=None, home=tmp_path):
        run = subprocess.run([BINARY, *map(str, args)], env={**environment(home), **(env or {})}, capture_output=True,
                             text=True, timeout=120, input=stdin)
        assert (run.returncode != 0) == fails, f"{args}: {run.stdout}{run.stderr}"
        return run.stderr if fails else run.stdout

    return ingle


@pytest.fixture(scope="module")
def address(environment, tmp_path_factory):
    """A server whose store is empty at first."""
    home = tmp_path_factory.mktemp("home")
    with serving(home / "models", env=environment(home), more=()) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    import ollama

    return ollama.Client(host=address, timeout=120)
