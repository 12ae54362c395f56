"""Fixtures: real clients pointed at a running server.

INGLE_BASE_URL   the server, such as http://127.0.0.1:8080/v1 (required)
INGLE_API_KEY    its key, if it wants one
"""

import os

import openai
import pytest

BASE_URL = os.environ.get("INGLE_BASE_URL", "").rstrip("/")
API_KEY = os.environ.get("INGLE_API_KEY", "")


def pytest_configure(config):
    if not BASE_URL:
        raise pytest.UsageError("set INGLE_BASE_URL to the server under test, such as http://127.0.0.1:8080/v1")


@pytest.fixture(scope="session")
def client():
    # No retries: a failure that only a second try hides is a failure.
    with openai.OpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=120) as client:
        yield client


@pytest.fixture(scope="session")
def model(client):
    return client.models.list().data[0].id


@pytest.fixture(scope="session")
def n_ctx(client, model):
    return client.models.retrieve(model).max_model_len
