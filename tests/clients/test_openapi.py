"""schemathesis against /openapi.json: requests made of the description, and replies compared with it.

INGLE_SCHEMATHESIS_SECONDS  how long it goes on (60)
INGLE_BINARY                a binary to serve the shipped model with: a server of its own, with a short context, so
                            that no answer is long; without it, the server of INGLE_BASE_URL
INGLE_SCHEMATHESIS_SEED     repeats a run
"""

import os
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import httpx
import pytest

from conftest import API_KEY, BASE_URL

SECONDS = int(os.environ.get("INGLE_SCHEMATHESIS_SECONDS", "60"))
SEED = os.environ.get("INGLE_SCHEMATHESIS_SEED")
BINARY = os.environ.get("INGLE_BINARY")
KEY = API_KEY or "openapi-test-key"
CONTEXT = 192
# A description says which requests are well formed. Which models there are, what a template takes and which texts
# are grammars it cannot say. What is not well formed is refused: openapi_hooks.py has that check, with an exception.
EXCLUDED = ["positive_data_acceptance", "negative_data_rejection"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    if not BINARY:
        yield BASE_URL.removesuffix("/v1")
        return
    data = tmp_path_factory.mktemp("data")
    command = [BINARY, "serve", "--port", "0", "--api-key", KEY, "--ctx-size", str(CONTEXT), "--data-dir", str(data),
               "--offline"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            log, address = [], None
            for line in process.stderr:
                log.append(line)
                if line.startswith("listening on "):
                    address = line.removeprefix("listening on ").strip()
                if " is ready" in line:
                    break
            assert address, "".join(log)
            reader = threading.Thread(target=lambda: log.extend(process.stderr), daemon=True)
            reader.start()
            yield address
            assert process.poll() is None, "the server is gone:\n" + "".join(log[-50:])
        finally:
            process.terminate()
    reader.join(timeout=10)
    assert not [line for line in log if "panicked" in line], log


def test_description_is_public(server):
    reply = httpx.get(f"{server}/openapi.json")
    assert reply.status_code == 200
    assert reply.json()["openapi"].startswith("3.1")


@pytest.mark.parametrize("plain", [False, True], ids=["all_fields", "plain"])
def test_requests_made_of_the_description(server, tmp_path, plain):
    """With all fields, which mostly contradict each other, and without those that do: see openapi_hooks.py."""
    seconds = max(SECONDS // 2, 1)
    # The bounds of each field are gone through once; without contradictions the time is for answers.
    phases = "fuzzing,stateful" if plain else "examples,coverage,fuzzing,stateful"
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{server}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}"),
        # One worker: Python 3.11's parser, which the generators use, does not bear two threads.
        *("--max-time", str(seconds), "--request-timeout", "60", "--workers", "1", "--phases", phases),
        *("--exclude-checks", ",".join(EXCLUDED), "--continue-on-failure"),
        # Made-up keys beside the right one would be refused, and nothing behind them seen.
        *("--generation-with-security-parameters", "false"),
        *("--suppress-health-check", "all", "--generation-database", "none", "--no-color"),
        *(("--seed", SEED) if SEED else ()),
    ]
    hooks = {"SCHEMATHESIS_HOOKS": "openapi_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    hooks["INGLE_OPENAPI_PLAIN"] = "1" if plain else ""
    before = replies_by_status(server)
    run = subprocess.run(
        command, env=os.environ | hooks, cwd=tmp_path, capture_output=True, text=True, timeout=seconds * 2 + 300
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-5_000:]
    cases = re.search(r"\d+ generated, .*", run.stdout)
    replies = replies_by_status(server) - before
    print(f"{seconds} s: {cases and cases[0]}; replies by status: {dict(sorted(replies.items()))}")
    # Most requests pass the gate (each route is tried without a key, too), and enough of them get an answer.
    assert replies["401"] < 150 + replies.total() / 10, replies
    assert replies["200"] > replies.total() / (5 if plain else 20), replies
    # The server still answers, and nothing is left behind.
    health = httpx.get(f"{server}/health").json()
    assert health["ready"] and health["requests"] == {"running": 0, "waiting": 0}, health


def replies_by_status(server):
    page = httpx.get(f"{server}/metrics", headers={"Authorization": f"Bearer {KEY}"}).text
    lines = re.findall(r'ingle_http_requests_total\{route="[^"]*",status="(\d+)"\} (\d+)', page)
    counts = Counter()
    for status, count in lines:
        counts[status] += int(count)
    return counts
