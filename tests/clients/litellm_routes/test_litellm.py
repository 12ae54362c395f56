"""litellm's three ways to a running server: OpenAI's dialect, Anthropic's and Ollama's. Nothing here depends on which
model it serves."""

import asyncio
import json
import os
from typing import Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from conftest import API_KEY, BASE_URL, ROOT

# Else it looks for prices in the network.
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
# Here it asks whether a model of Ollama's calls tools.
os.environ["OLLAMA_API_BASE"] = ROOT
os.environ["OLLAMA_API_KEY"] = API_KEY or "none"

import litellm  # noqa: E402

PROMPT = [{"role": "user", "content": "Once upon a time there was a"}]
BASES = {"openai": BASE_URL, "anthropic": ROOT, "ollama_chat": ROOT}


@pytest.fixture(params=BASES)
def ask(request, model):
    def ask(messages=PROMPT, asynchronous=False, **more):
        complete = litellm.acompletion if asynchronous else litellm.completion
        options = {"max_tokens": 12, "temperature": 0, "num_retries": 0, "timeout": 120, **more}
        options.setdefault("model", f"{request.param}/{model}")
        return complete(messages=messages, api_base=BASES[request.param], api_key=API_KEY or "none", **options)

    ask.provider = request.param
    return ask


def said(reply):
    return reply.choices[0].message.content


def test_completion(ask):
    reply = ask()
    assert isinstance(said(reply), str) and reply.choices[0].finish_reason in ("stop", "length")
    usage = reply.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_streamed_is_whole(ask):
    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == said(whole)
    built = litellm.stream_chunk_builder(chunks, messages=PROMPT)
    assert said(built) == said(whole)
    assert built.choices[0].finish_reason == whole.choices[0].finish_reason
    assert built.usage.completion_tokens == whole.usage.completion_tokens
    assert built.usage.prompt_tokens == whole.usage.prompt_tokens


def test_async(ask):
    async def both():
        replies = await asyncio.gather(*[ask(asynchronous=True) for _ in range(3)])
        stream = await ask(asynchronous=True, stream=True)
        return [said(r) for r in replies], "".join([c.choices[0].delta.content or "" async for c in stream])

    whole, streamed = asyncio.run(both())
    assert set(whole) == {streamed}


def test_options(ask):
    reply = ask([{"role": "system", "content": "Be brief."}, *PROMPT], top_p=0.9, stop=["\x01never\x01"])
    assert said(reply) is not None


WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "enum": ["Oslo", "Lima"]}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def test_tools(ask):
    # Ollama's dialect cannot make a model call tools.
    forced = {} if ask.provider == "ollama_chat" else {"tool_choice": "required"}
    question = [{"role": "user", "content": "How is the weather?"}]
    message = ask(question, tools=[WEATHER], max_tokens=200, **forced).choices[0].message
    if not forced and not message.tool_calls:
        pytest.skip("the model chose to call nothing")
    for call in message.tool_calls:
        assert call.id and call.function.name == "get_weather"
        assert json.loads(call.function.arguments)["place"] in ("Oslo", "Lima")
    built = litellm.stream_chunk_builder(list(ask(question, tools=[WEATHER], max_tokens=200, stream=True, **forced)))
    assert [(c.function.name, json.loads(c.function.arguments)) for c in built.choices[0].message.tool_calls] == [
        (c.function.name, json.loads(c.function.arguments)) for c in message.tool_calls
    ]
    results = [{"role": "tool", "tool_call_id": c.id, "content": "dry"} for c in message.tool_calls]
    after = ask([*question, message, *results], tools=[WEATHER], max_tokens=4)
    assert after.choices[0].message.role == "assistant"


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid")

    city: Literal["Oslo", "Lima"]
    floor: int = Field(ge=0, le=9)


def test_response_format(ask):
    reply = ask([{"role": "user", "content": "Go."}], response_format=Place, max_tokens=200)
    place = Place.model_validate_json(said(reply))
    stream = ask([{"role": "user", "content": "Go."}], response_format=Place, max_tokens=200, stream=True)
    text = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert Place.model_validate_json(text) == place


def test_json_object(ask):
    if ask.provider == "anthropic":
        pytest.skip("the dialect has none")
    question = [{"role": "user", "content": "Say it in JSON."}]
    reply = ask(question, response_format={"type": "json_object"}, max_tokens=100)
    if reply.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(said(reply)), dict)


def test_errors(ask, n_ctx):
    with pytest.raises((litellm.NotFoundError, litellm.APIConnectionError)) as e:
        ask(model=f"{ask.provider}/no-such-model")
    assert "no-such-model" in str(e.value)
    with pytest.raises((litellm.BadRequestError, litellm.APIConnectionError)) as e:
        ask([{"role": "user", "content": "one two three " * n_ctx}])
    # What is too long is told from what else is wrong, by the words of each dialect.
    if ask.provider != "ollama_chat":
        assert isinstance(e.value, litellm.ContextWindowExceededError)


def test_embedding(model):
    try:
        reply = litellm.embedding(model=f"openai/{model}", input=["a", "b"], api_base=BASE_URL,
                                  api_key=API_KEY or "none")
    except (litellm.BadRequestError, litellm.NotFoundError, litellm.APIError) as e:
        if e.status_code in (400, 404, 501):
            pytest.skip(f"the server refuses: {e.message}")
        raise
    assert [d["index"] for d in reply.data] == [0, 1]
