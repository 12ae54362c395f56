"""Fixtures: real clients pointed at a running server.

INGLE_BASE_URL   the server, such as http://127.0.0.1:8080/v1 (required)
INGLE_API_KEY    its key, if it wants one
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BASE_URL = os.environ.get("INGLE_BASE_URL", "").rstrip("/")
API_KEY = os.environ.get("INGLE_API_KEY", "")
# Without the version, as clients of other dialects want it.
ROOT = BASE_URL.removesuffix("/v1")
EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def pytest_configure(config):
    if not BASE_URL:
        raise pytest.UsageError("set INGLE_BASE_URL to the server under test, such as http://127.0.0.1:8080/v1")


@pytest.fixture(scope="session")
def client():
    import openai

    # No retries: a failure that only a second try hides is a failure.
    with openai.OpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def n_ctx(client, model):
    return client.models.retrieve(model).max_model_len


@pytest.fixture(scope="session")
def example():
    """Runs one of the examples as its reader would, and gives what it prints."""

    def example(name):
        keys = {f"{of}_API_KEY": API_KEY or "none" for of in ("OPENAI", "ANTHROPIC", "OLLAMA", "SGLANG")}
        bases = {"OPENAI_BASE_URL": BASE_URL, "ANTHROPIC_BASE_URL": ROOT, "OLLAMA_HOST": ROOT, "SGLANG_BASE_URL": ROOT}
        program = ["sh"] if name.endswith(".sh") else [sys.executable]
        run = subprocess.run([*program, EXAMPLES / name], env={**os.environ, **bases, **keys}, capture_output=True,
                             text=True, timeout=120)
        assert run.returncode == 0, f"{name}: {run.stdout}\n{run.stderr}"
        return run.stdout

    return example
