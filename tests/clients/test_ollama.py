"""The ollama package against a running server. Nothing here depends on which model it serves."""

import asyncio
import json
import math
from datetime import datetime, timezone

import httpx
import ollama
import pytest
from pydantic import BaseModel

from conftest import API_KEY
from conftest import ROOT as HOST

HEADERS = {"Authorization": f"Bearer {API_KEY}"} if API_KEY else {}
PROMPT = "Once upon a time there was a"
GREEDY = {"temperature": 0, "seed": 1, "num_predict": 12}


@pytest.fixture(scope="module")
def client():
    return ollama.Client(host=HOST, headers=HEADERS, timeout=120)


@pytest.fixture(scope="module")
def name(client):
    return client.list().models[0].model


@pytest.fixture(scope="module")
def shown(client, name):
    return client.show(name)


@pytest.fixture(scope="module")
def n_ctx(client, name):
    [running] = [m for m in client.ps().models if m.model == name]
    return running.context_length


def messages(text=PROMPT):
    return [{"role": "user", "content": text}]


def chat(client, name, text=PROMPT, options=None, **more):
    return client.chat(name, messages(text), options={**GREEDY, **(options or {})}, **more)


def generate(client, name, prompt=PROMPT, options=None, **more):
    return client.generate(name, prompt, options={**GREEDY, **(options or {})}, **more)


def check_counts(reply):
    assert reply.done and reply.done_reason in ("stop", "length")
    assert reply.prompt_eval_count > 0 and 0 < reply.eval_count <= 12
    assert reply.prompt_eval_duration > 0 and reply.eval_duration >= 0 and reply.load_duration >= 0
    assert reply.total_duration >= reply.prompt_eval_duration + reply.eval_duration


# Where Ollama's own server listens, its clients find ours without any setting: `ingle serve --listen 127.0.0.1:11434`.


@pytest.mark.skipif(HOST != "http://127.0.0.1:11434" or bool(API_KEY), reason="the server listens elsewhere")
def test_no_setting_at_all(name, monkeypatch):
    monkeypatch.delenv("OLLAMA_HOST", raising=False)
    assert ollama.Client().list().models[0].model == name
    reply = ollama.Client().chat(name, messages(), options=GREEDY)
    assert reply.message.content is not None and reply.done


# What there is.


def test_root_and_version():
    with httpx.Client(base_url=HOST, headers=HEADERS) as http:
        assert http.get("/").text == "Ollama is running"
        head = http.head("/")
        assert (head.status_code, head.text) == (200, "")
        version = http.get("/api/version").json()["version"]
    assert len(version.split(".")) == 3 and all(part.isdigit() for part in version.split("."))


def test_list(client):
    [first, *_] = client.list().models
    assert ":" in first.model and first.size > 0 and len(first.digest) == 64
    assert first.details.format == "gguf" and first.details.family in first.details.families
    assert first.details.parameter_size and first.details.quantization_level
    assert first.modified_at < datetime.now(timezone.utc)


def test_show(client, name, shown, n_ctx):
    info = shown.modelinfo
    family = info["general.architecture"]
    assert info[f"{family}.context_length"] == n_ctx
    assert info["general.parameter_count"] > 0
    assert "completion" in shown.capabilities
    assert shown.template and shown.modelfile.startswith("FROM ")
    assert "num_ctx" in shown.parameters
    # Untagged names are the same model's.
    assert client.show(name.removesuffix(":latest")).modelinfo == info


def test_ps(client, name, n_ctx):
    [running] = [m for m in client.ps().models if m.model == name]
    assert n_ctx > 0 and running.size > 0 and running.size_vram == 0
    assert running.expires_at > datetime.now(timezone.utc)


# Generate.


def test_generate(client, name):
    reply = generate(client, name)
    assert reply.model == name and isinstance(reply.response, str)
    assert datetime.fromisoformat(reply.created_at) <= datetime.now(timezone.utc)
    check_counts(reply)


def test_generate_streamed_is_generate(client, name):
    whole = generate(client, name)
    *pieces, last = generate(client, name, stream=True)
    assert "".join(p.response for p in pieces) == whole.response
    assert not any(p.done for p in pieces) and not last.response
    assert last.done_reason == whole.done_reason and last.eval_count == whole.eval_count
    check_counts(last)


def test_generate_with_system(client, name):
    check_counts(generate(client, name, system="Be brief."))


def test_raw_is_the_prompt_alone(client, name):
    raw, templated = generate(client, name, raw=True), generate(client, name)
    check_counts(raw)
    assert raw.prompt_eval_count < templated.prompt_eval_count, "a template adds something"


def test_everything_unset(client, name):
    # The package sends nothing for None and empty values as they are.
    reply = client.generate(
        name, PROMPT, suffix="", system="", template="", context=[], images=[], format="", raw=False,
        keep_alive="5m", options={"num_predict": 1},
    )
    assert reply.eval_count == 1


def test_load(client, name):
    reply = client.generate(name)
    assert (reply.response, reply.done, reply.done_reason, reply.eval_count) == ("", True, "load", None)
    reply = client.chat(name, [])
    assert (reply.message.content, reply.done, reply.done_reason) == ("", True, "load")


def test_unload_is_refused(client, name):
    """The suite's key has no scope."""
    with pytest.raises(ollama.ResponseError, match="may not load and unload models") as e:
        client.generate(name, keep_alive=0)
    assert e.value.status_code == 403
    with pytest.raises(ollama.ResponseError, match="may not load and unload models"):
        generate(client, name, keep_alive=0)


# Chat.


def test_chat(client, name):
    reply = chat(client, name)
    assert reply.message.role == "assistant" and isinstance(reply.message.content, str)
    assert reply.message.tool_calls is None
    check_counts(reply)


def test_chat_is_generate(client, name):
    assert chat(client, name).message.content == generate(client, name).response


def test_chat_streamed_is_chat(client, name):
    whole = chat(client, name)
    *pieces, last = chat(client, name, stream=True)
    assert "".join(p.message.content for p in pieces) == whole.message.content
    assert {p.message.role for p in [*pieces, last]} == {"assistant"}
    check_counts(last)


def test_chat_async(name):
    async def ask():
        client = ollama.AsyncClient(host=HOST, headers=HEADERS)
        asks = [client.chat(name, messages(), options=GREEDY) for _ in range(4)]
        return [r.message.content for r in await asyncio.gather(*asks)]

    assert len(set(asyncio.run(ask()))) == 1, "company changes nothing"


def test_a_reply_can_be_sent_back(client, name):
    message = chat(client, name, options={"num_predict": 3}).message
    history = [{"role": "system", "content": "Be brief."}, *messages(), message, *messages("Go on.")]
    assert client.chat(name, history, options={"num_predict": 2}).message.role == "assistant"


def test_options(client, name):
    options = {
        "num_keep": 4, "seed": 42, "num_predict": 4, "top_k": 20, "top_p": 0.9, "min_p": 0.0, "typical_p": 0.7,
        "repeat_last_n": 33, "temperature": 0.8, "repeat_penalty": 1.2, "presence_penalty": 1.5,
        "frequency_penalty": 1.0, "penalize_newline": True, "stop": ["\x01never\x01"], "numa": False,
        "num_ctx": 64, "num_batch": 2, "num_gpu": 1, "main_gpu": 0, "use_mmap": True, "num_thread": 8,
        "mirostat": 0, "mirostat_tau": 5.0, "mirostat_eta": 0.1, "tfs_z": 1.0, "low_vram": False, "f16_kv": True,
        "vocab_only": False, "use_mlock": False, "logits_all": False, "embedding_only": False,
    }
    first, second = (client.generate(name, PROMPT, options=ollama.Options(**options)) for _ in range(2))
    assert first.eval_count <= 4 and first.response == second.response


def test_stop(client, name):
    text = generate(client, name, raw=True).response
    if len(text) < 6:
        pytest.skip("the model says too little to be stopped")
    stop = text[3:5]
    expected = text[: text.index(stop)]
    reply = generate(client, name, raw=True, options={"stop": [stop]})
    assert reply.response == expected and reply.done_reason == "stop"
    streamed = generate(client, name, raw=True, options={"stop": [stop]}, stream=True)
    assert "".join(p.response for p in streamed) == expected


def test_logprobs(client, name):
    whole = chat(client, name, logprobs=True, top_logprobs=2)
    assert len(whole.logprobs) == whole.eval_count
    for token in whole.logprobs:
        assert token.logprob <= 0 and len(token.top_logprobs) == 2
    streamed = [t for p in chat(client, name, logprobs=True, top_logprobs=2, stream=True) for t in p.logprobs or []]
    assert streamed == whole.logprobs


class Person(BaseModel):
    name: str
    age: int


@pytest.mark.parametrize("format", ["json", Person.model_json_schema()])
def test_format(client, name, format):
    try:
        reply = chat(client, name, "Describe a person.", format=format, options={"num_predict": 200})
    except ollama.ResponseError as e:
        assert e.status_code == 400, "what cannot be enforced is refused"
        pytest.skip(f"refused: {e.error}")
    if reply.done_reason == "length":
        pytest.skip("the model did not come to an end")
    value = json.loads(reply.message.content)
    assert isinstance(value, dict)
    if format != "json":
        Person.model_validate(value)


def add(a: int, b: int) -> int:
    """Adds two numbers.

    Args:
        a: the first
        b: the second
    """
    return a + b


def test_tools(client, name, shown):
    if "tools" not in shown.capabilities:
        pytest.skip("the model knows no tools")
    reply = chat(client, name, "What is 2 + 3? Use the tool.", tools=[add], options={"num_predict": 200})
    for call in reply.message.tool_calls or []:
        assert call.function.name == "add" and isinstance(call.function.arguments, dict)
    history = [
        *messages("What is 2 + 3?"),
        {"role": "assistant", "content": "",
         "tool_calls": [{"function": {"name": "add", "arguments": {"a": 2, "b": 3}}}]},
        {"role": "tool", "content": "5", "tool_name": "add"},
    ]
    assert client.chat(name, history, tools=[add], options={"num_predict": 2}).message.role == "assistant"


def test_think(client, name, shown):
    assert chat(client, name, think=False).done
    if "thinking" in shown.capabilities:
        assert chat(client, name, think=True).done


# Errors.


@pytest.mark.parametrize("stream", [False, True])
def test_unknown_model(client, stream):
    with pytest.raises(ollama.ResponseError) as e:
        list(client.generate("no-such-model", PROMPT, stream=stream))
    assert e.value.status_code == 404 and "no-such-model" in e.value.error
    with pytest.raises(ollama.ResponseError):
        client.show("no-such-model")


@pytest.mark.parametrize("stream", [False, True])
def test_context_length(client, name, n_ctx, stream):
    with pytest.raises(ollama.ResponseError, match=str(n_ctx)) as e:
        list(generate(client, name, "a b c " * n_ctx, raw=True, stream=stream))
    assert e.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="num_ctx"):
        generate(client, name, options={"num_ctx": n_ctx + 1})
    generate(client, name, options={"num_ctx": n_ctx})


@pytest.mark.parametrize(
    "field, value",
    [
        ("suffix", "x"),
        ("template", "{{ .Prompt }}"),
        ("context", [1, 2, 3]),
        ("images", ["aGVsbG8="]),
        ("think", "very"),
        ("keep_alive", "soon"),
        ("top_logprobs", 5),
    ],
)
def test_fields_are_refused_by_name(client, name, field, value):
    with pytest.raises(ollama.ResponseError, match=field) as e:
        generate(client, name, **{field: value})
    assert e.value.status_code == 400


@pytest.mark.parametrize("option, value", [("temperature", -1), ("frobnicate", 1), ("num_predict", 0)])
def test_options_are_refused_by_name(client, name, option, value):
    with pytest.raises(ollama.ResponseError, match=option):
        generate(client, name, options={option: value})


def test_what_a_key_without_the_scope_may_not(client, name):
    for ask in (
        lambda: client.pull("llama3"),
        lambda: client.push("llama3"),
        lambda: client.create("mine", from_=name),
        lambda: client.copy(name, "other"),
        lambda: client.delete(name),
    ):
        with pytest.raises(ollama.ResponseError, match="may not") as e:
            ask()
        assert e.value.status_code == 403


def test_wrong_key(name):
    if not API_KEY:
        pytest.skip("the server asks for no key; set INGLE_API_KEY to its key")
    with pytest.raises(ollama.ResponseError) as e:
        ollama.Client(host=HOST, headers={"Authorization": "Bearer wrong"}).list()
    assert e.value.status_code == 401


def test_a_stream_can_be_left(client, name):
    stream = chat(client, name, stream=True, options={"num_predict": 64})
    next(iter(stream))
    stream.close()
    assert chat(client, name, options={"num_predict": 1}).done, "the server goes on"


# Embeddings.


def length(vector):
    return math.sqrt(sum(x * x for x in vector))


def test_embed(client, name):
    reply = client.embed(name, ["the sea", "a ship", "the sea"])
    assert reply.model == name and len(reply.embeddings) == 3
    assert reply.embeddings[0] == reply.embeddings[2] != reply.embeddings[1]
    assert all(abs(length(v) - 1) < 1e-4 for v in reply.embeddings)
    assert reply.prompt_eval_count > 2 and reply.total_duration > 0 and reply.load_duration == 0
    [alone] = client.embed(name, "the sea").embeddings
    assert alone == reply.embeddings[0]
    assert client.embed(name, "").embeddings == []


def test_embed_dimensions(client, name):
    [whole] = client.embed(name, "the sea").embeddings
    [short] = client.embed(name, "the sea", dimensions=8).embeddings
    assert len(short) == 8 and abs(length(short) - 1) < 1e-4
    scale = length(whole[:8])
    assert all(abs(a - b / scale) < 1e-4 for a, b in zip(short, whole))
    with pytest.raises(ollama.ResponseError, match="dimensions"):
        client.embed(name, "the sea", dimensions=len(whole) + 1)


def test_embed_truncates_and_says_so(client, name):
    text = "word " * 20_000
    reply = client._client.post("/api/embed", json={"model": name, "input": ["a", text]})
    assert reply.status_code == 200 and reply.headers["x-truncated-inputs"] == "1"
    [cut] = reply.json()["truncated"]
    assert cut["input"] == "input[1]" and cut["tokens"] > cut["kept"] > 0
    with pytest.raises(ollama.ResponseError, match="context"):
        client.embed(name, text, truncate=False)


def test_embeddings_of_old(client, name):
    old = client.embeddings(name, "the sea").embedding
    [new] = client.embed(name, "the sea").embeddings
    scale = length(old)
    assert len(old) == len(new) and all(abs(a / scale - b) < 1e-4 for a, b in zip(old, new))


def test_embed_refuses_by_name(client, name):
    with pytest.raises(ollama.ResponseError, match="frobnicate"):
        client.embed(name, "a", options={"frobnicate": 1})
