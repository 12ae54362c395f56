"""The examples whose packages are those of this folder's other tests."""

import json

import pytest


@pytest.mark.parametrize(
    "name, parts",
    [
        ("openai_chat.py", ["answer: ", "streamed: ", "tokens: "]),
        ("openai_structured.py", ["pep: ", "level: "]),
        ("openai_tools.py", ["call: add(", "result: ", "answer: "]),
        ("openai_responses.py", ["first: ", "second: "]),
        ("anthropic_messages.py", ["answer: ", "streamed: ", "call: "]),
        ("ollama_chat.py", ["answer: ", "streamed: ", "level: "]),
    ],
)
def test_python(example, name, parts):
    out = example(name)
    for part in parts:
        assert part in out, f"{name} prints no {part!r}: {out}"


def test_curl(example):
    out = example("curl.sh").split("\n== ")
    sections = {title.strip(): body for title, _, body in (section.partition("\n") for section in out)}
    chat = json.loads(sections["chat"])
    assert chat["choices"][0]["message"]["content"]
    assert "data: [DONE]" in sections["a stream"]
    assert json.loads(json.loads(sections["a schema"])["choices"][0]["message"]["content"])["level"] in ("low", "high")
    assert json.loads(sections["Anthropic's messages"])["type"] == "message"
    assert json.loads(sections["Ollama's chat"])["done"] is True
    assert json.loads(sections["SGLang's generate"])["meta_info"]["completion_tokens"] > 0
