"""Constrained answers, judged by others: `jsonschema` and Python's `re`.

What finishes must obey; what the token limit cuts short says so and is set aside. The schemas of `schemas.json` must be
enforced. Of those in INGLE_SCHEMAS (a folder of published schemas; the one beside the repository, if it is there), some
may be refused, and a sample is taken that fits INGLE_STRUCTURED_SECONDS (60).
"""

import json
import os
import random
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import jsonschema
import pytest

from conftest import API_KEY, BASE_URL

HERE = Path(__file__).parent
ROOT = BASE_URL.removesuffix("/v1")
OURS = json.loads((HERE / "schemas.json").read_text())
PUBLISHED = Path(os.environ.get("INGLE_SCHEMAS", HERE / "../../../shared/data/schemas/maskbench"))
SECONDS = float(os.environ.get("INGLE_STRUCTURED_SECONDS", "60"))
PROMPT = "Describe something as JSON."
# Seeds with temperatures: from the likeliest answer to any that is allowed.
SAMPLING = [(1, 0.0), (2, 0.7), (3, 1.0), (4, 1.5)]
MAX_TOKENS = 400
AT_ONCE = 8


@pytest.fixture(scope="module")
def http():
    headers = {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}
    with httpx.Client(base_url=ROOT, headers=headers, timeout=120) as client:
        yield client


class Refused(Exception):
    """The server says that it cannot enforce the format."""


def post(http, route, body):
    reply = http.post(route, json=body)
    if reply.status_code == 400:
        raise Refused(reply.text)
    assert reply.status_code == 200, reply.text
    return reply.json()


def messages(prompt):
    return [{"role": "user", "content": prompt}]


def by_chat(http, schema, seed, temperature):
    named = {"name": "answer", "schema": schema, "strict": True}
    reply = post(http, "/v1/chat/completions", {
        "messages": messages(PROMPT), "response_format": {"type": "json_schema", "json_schema": named},
        "max_tokens": MAX_TOKENS, "seed": seed, "temperature": temperature,
    })["choices"][0]
    return reply["message"]["content"], reply["finish_reason"] == "stop"


def by_completion(http, schema, seed, temperature):
    reply = post(http, "/v1/completions", {
        "prompt": PROMPT, "json_schema": schema, "max_tokens": MAX_TOKENS, "seed": seed, "temperature": temperature,
    })["choices"][0]
    return reply["text"], reply["finish_reason"] == "stop"


def by_responses(http, schema, seed, temperature):
    form = {"type": "json_schema", "name": "answer", "schema": schema, "strict": True}
    reply = post(http, "/v1/responses", {
        "input": PROMPT, "text": {"format": form}, "max_output_tokens": MAX_TOKENS, "seed": seed,
        "temperature": temperature, "store": False,
    })
    texts = [item["content"][0]["text"] for item in reply["output"] if item["type"] == "message"]
    return "".join(texts), reply["status"] == "completed"


def by_messages(http, schema, seed, temperature):
    reply = post(http, "/v1/messages", {
        "messages": messages(PROMPT), "output_config": {"format": {"type": "json_schema", "schema": schema}},
        "max_tokens": MAX_TOKENS, "seed": seed, "temperature": min(temperature, 1.0),
    })
    texts = [block["text"] for block in reply["content"] if block["type"] == "text"]
    return "".join(texts), reply["stop_reason"] == "end_turn"


def by_ollama(http, schema, seed, temperature):
    options = {"num_predict": MAX_TOKENS, "seed": seed, "temperature": temperature}
    reply = post(http, "/api/chat", {
        "messages": messages(PROMPT), "format": schema, "stream": False, "options": options,
    })
    return reply["message"]["content"], reply["done_reason"] == "stop"


DIALECTS = [by_chat, by_completion, by_responses, by_messages, by_ollama]


def invalid(schema, text):
    """Why a finished answer does not obey; None if it does. Of a name that comes twice, the last value counts."""
    try:
        value = json.loads(text)
    except ValueError as error:
        return f"no JSON: {error}"
    validator = jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)
    errors = validator(schema, format_checker=validator.FORMAT_CHECKER).iter_errors(value)
    return next((error.message for error in errors), None)


def run(jobs, deadline=None):
    """Does jobs at the same time, as clients would; those that the deadline forbids are left out."""
    def one(job):
        if deadline and time.monotonic() > deadline:
            return None
        return job()

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [done for done in pool.map(one, jobs) if done is not None]


def judge(http, ask, name, schema, seed, temperature):
    """One answer: 'refused', 'cut', 'obeys', or a text that says what is wrong."""
    try:
        text, finished = ask(http, schema, seed, temperature)
    except Refused as refusal:
        return name, "refused", str(refusal)
    if not finished:
        return name, "cut", text
    wrong = invalid(schema, text)
    if wrong is None:
        return name, "obeys", text
    return name, "wrong", f"{ask.__name__}, seed {seed}, temperature {temperature}: {wrong}: {text!r}"


def report(verdicts):
    counts = {}
    for _, verdict, _ in verdicts:
        counts[verdict] = counts.get(verdict, 0) + 1
    print(counts)
    return counts


def bad(verdicts, verdict):
    return [f"{name}: {text}" for name, found, text in verdicts if found == verdict]


def test_our_schemas(http):
    jobs = [
        lambda entry=entry, seed=seed, t=t: judge(http, by_chat, entry["name"], entry["schema"], seed, t)
        for entry in OURS
        for seed, t in SAMPLING
    ]
    verdicts = run(jobs)
    counts = report(verdicts)
    assert not bad(verdicts, "wrong")
    assert not bad(verdicts, "refused")
    assert counts["obeys"] > 0.8 * len(jobs), "most answers are short enough to finish"


@pytest.mark.parametrize("ask", DIALECTS, ids=lambda ask: ask.__name__)
def test_every_dialect(http, ask):
    jobs = [
        lambda entry=entry, i=i: judge(http, ask, entry["name"], entry["schema"], 10 + i, 0.8)
        for i, entry in enumerate(OURS[::3])
    ]
    verdicts = run(jobs)
    counts = report(verdicts)
    assert not bad(verdicts, "wrong") and not bad(verdicts, "refused")
    assert counts["obeys"] > len(jobs) // 2


def test_published_schemas(http):
    if not PUBLISHED.is_dir():
        pytest.skip(f"no schemas at {PUBLISHED}")
    files = sorted(PUBLISHED.glob("*.json"))
    random.Random(1).shuffle(files)
    deadline = time.monotonic() + SECONDS

    def job(i, path):
        schema = json.loads(path.read_text())["schema"]
        seed, temperature = SAMPLING[i % len(SAMPLING)]
        return judge(http, by_chat, path.name, schema, seed, temperature)

    verdicts = run([lambda i=i, path=path: job(i, path) for i, path in enumerate(files)], deadline)
    counts = report(verdicts)
    assert not bad(verdicts, "wrong")
    assert counts.get("obeys", 0) >= 1, "some answer is short enough to finish"


@pytest.mark.parametrize("pattern", [
    r"[a-c]{2,4}!",
    r"(yes|no|maybe)",
    r"\d{4}-\d{2}-\d{2}",
    r"[A-Z][a-z]{1,8}( [A-Z][a-z]{1,8})?",
    r"(\+|-)?[0-9]{1,3}(\.[0-9]{1,2})?",
    r"#[0-9a-fA-F]{6}",
    r"a{3}b{0,2}c+d?",
    r"[^a-z\s]{4}",
    r"\w{1,5}@\w{1,5}\.(com|org)",
    r"(ab|a)(bc|c)?",
    r"[äöü]{2}",
    r"\"[^\"\\]{0,6}\"",
], ids=str)
def test_expressions(http, pattern):
    def one(seed, temperature):
        reply = post(http, "/v1/chat/completions", {
            "messages": messages("Say something."), "regex": pattern, "max_tokens": 100, "seed": seed,
            "temperature": temperature,
        })["choices"][0]
        return reply["message"]["content"], reply["finish_reason"]

    for text, reason in run([lambda s=s, t=t: one(s, t) for s, t in SAMPLING]):
        assert reason == "length" or re.fullmatch(pattern, text), text


@pytest.mark.parametrize("choices", [
    ["yes", "no"], ["a", "ab", "abc"], ["<tag>", "x|y", "(z)", "\\d+", "\"q\""], ["Grüße", "世界", "🙂🙂"],
    [f"choice number {n}" for n in range(300)],
], ids=lambda choices: choices[0])
def test_choices(http, choices):
    def one(seed, temperature):
        reply = post(http, "/v1/completions", {
            "prompt": "Choose:", "guided_choice": choices, "max_tokens": 100, "seed": seed, "temperature": temperature,
        })["choices"][0]
        assert reply["finish_reason"] == "stop"
        return reply["text"]

    said = run([lambda s=s, t=t: one(s, t) for s, t in SAMPLING])
    assert all(text in choices for text in said), said


def test_what_is_cut_says_so(http):
    schema = {"type": "array", "items": {"type": "integer"}, "minItems": 500}
    text, finished = by_chat(http, schema, 1, 0.5)
    assert not finished and text.startswith("[")


def test_what_cannot_be_enforced_is_refused(http):
    for schema in [
        {"type": "something"},
        {"not": {}},
        {"type": "string", "pattern": "(?<=a)b"},
        {"type": "integer", "minimum": 2, "maximum": 1},
        # Names may come twice, and then there is one of them.
        {"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 2},
    ]:
        with pytest.raises(Refused):
            by_chat(http, schema, 1, 0.0)
