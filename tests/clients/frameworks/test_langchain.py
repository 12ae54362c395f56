"""langchain-openai against a running server. Nothing here depends on which model it serves."""

import asyncio
import json
from typing import Literal

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from pydantic import BaseModel, ConfigDict, Field

from conftest import API_KEY, BASE_URL

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def make(model):
    def make(**more):
        options = {"temperature": 0, "max_tokens": 12, "max_retries": 0, "timeout": 120, "stream_usage": True, **more}
        return ChatOpenAI(model=model, base_url=BASE_URL, api_key=API_KEY or "none", **options)

    return make


def check_usage(message, most=12):
    usage = message.usage_metadata
    assert usage["input_tokens"] > 0 and 0 < usage["output_tokens"] <= most
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]


# Asking.


def test_invoke(make, model):
    message = make().invoke([SystemMessage("Be brief."), HumanMessage(PROMPT)])
    assert isinstance(message, AIMessage) and isinstance(message.content, str)
    assert message.response_metadata["finish_reason"] in ("stop", "length")
    assert message.response_metadata["model_name"] == model
    check_usage(message)


def test_streamed_is_whole(make):
    llm = make()
    whole = llm.invoke(PROMPT)
    merged = None
    for chunk in llm.stream(PROMPT):
        merged = chunk if merged is None else merged + chunk
    assert merged.content == whole.content
    assert merged.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    for kind in ("input_tokens", "output_tokens", "total_tokens"):
        assert merged.usage_metadata[kind] == whole.usage_metadata[kind]


def test_async_and_batch(make):
    llm = make(max_tokens=6)
    whole = llm.invoke(PROMPT).content

    async def ask():
        streamed = "".join([chunk.content async for chunk in llm.astream(PROMPT)])
        return streamed, [m.content for m in await llm.abatch([PROMPT] * 3)]

    streamed, batch = asyncio.run(ask())
    assert streamed == whole and batch == [whole] * 3
    assert [m.content for m in llm.batch([PROMPT, PROMPT], {"max_concurrency": 2})] == [whole] * 2


def test_chain(make):
    prompt = ChatPromptTemplate.from_messages([("system", "Be brief."), ("user", "{question}")])
    chain = prompt | make() | StrOutputParser()
    whole = chain.invoke({"question": PROMPT})
    assert "".join(chain.stream({"question": PROMPT})) == whole


def test_history(make):
    first = make(max_tokens=4).invoke(PROMPT)
    again = make(max_tokens=4).invoke([HumanMessage(PROMPT), first, HumanMessage("Go on.")])
    assert again.usage_metadata["input_tokens"] > first.usage_metadata["input_tokens"]


def test_options(make):
    message = make(top_p=0.9, seed=3, stop=["\x01never\x01"], frequency_penalty=0.1, presence_penalty=0.1,
                   logprobs=True, top_logprobs=2, n=1, logit_bias={"65": -1},
                   extra_body={"top_k": 5, "min_p": 0.01}).invoke(PROMPT)
    content = message.response_metadata["logprobs"]["content"]
    assert 0 < len(content) <= 12 and all(len(t["top_logprobs"]) == 2 for t in content)


def test_responses_api(make):
    llm = make(use_responses_api=True)
    message = llm.invoke(PROMPT)
    assert message.text == make().invoke(PROMPT).content
    check_usage(message)
    assert "".join(chunk.text for chunk in llm.stream(PROMPT)) == message.text


# Tools.


@tool
def get_weather(place: Literal["Oslo", "Lima"]) -> str:
    """The weather at a place."""
    return f"dry in {place}"


@tool
def get_time(place: Literal["Oslo", "Lima"]) -> str:
    """The time at a place."""
    return f"noon in {place}"


TOOLS = {t.name: t for t in (get_weather, get_time)}


@pytest.mark.parametrize("choice, names", [("any", set(TOOLS)), ("get_time", {"get_time"})])
@pytest.mark.parametrize("api", ["chat", "responses"])
def test_tools(make, choice, names, api):
    llm = make(max_tokens=500, use_responses_api=api == "responses")
    bound = llm.bind_tools(list(TOOLS.values()), tool_choice=choice, strict=True, parallel_tool_calls=False)
    message = bound.invoke("How is the weather?")
    [call] = message.tool_calls
    assert call["name"] in names and call["args"]["place"] in ("Oslo", "Lima") and call["id"]
    merged = None
    for chunk in bound.stream("How is the weather?"):
        merged = chunk if merged is None else merged + chunk
    assert [(c["name"], c["args"]) for c in merged.tool_calls] == [(call["name"], call["args"])]
    result = TOOLS[call["name"]].invoke(call)
    assert isinstance(result, ToolMessage) and result.tool_call_id == call["id"]
    after = llm.bind_tools(list(TOOLS.values())).invoke(["How is the weather?", message, result], max_tokens=4)
    assert isinstance(after, AIMessage)


def test_tools_left_alone(make):
    auto = make().bind_tools(list(TOOLS.values())).invoke(PROMPT)
    assert auto.content or auto.tool_calls or auto.invalid_tool_calls
    none = make().bind_tools(list(TOOLS.values()), tool_choice="none").invoke(PROMPT)
    assert none.content == make().invoke(PROMPT).content and not none.tool_calls


# Structured output.


class Closed(BaseModel):
    """Of what fields it has, and of no others."""

    model_config = ConfigDict(extra="forbid")


class Place(Closed):
    """A place."""

    city: Literal["Oslo", "Lima"]
    floor: int = Field(ge=0, le=9)


class Trip(Closed):
    """A trip."""

    start: Place
    stops: list[Literal["a", "b"]] = Field(max_length=2)
    fast: bool | None


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Place, Trip])
@pytest.mark.parametrize("strict", [True, None])
def test_structured(make, schema, method, strict):
    bound = make(max_tokens=700).with_structured_output(schema, method=method, strict=strict)
    value = bound.invoke("Go.")
    assert isinstance(value, schema)
    assert list(bound.stream("Go."))[-1] == value
    raw = make(max_tokens=700).with_structured_output(schema, method=method, strict=strict, include_raw=True)
    reply = raw.invoke("Go.")
    assert reply["parsed"] == value and reply["parsing_error"] is None


def test_structured_as_dict(make):
    schema = {"title": "place", "description": "A place.", **Place.model_json_schema()}
    for method in ("json_schema", "function_calling"):
        value = make(max_tokens=700).with_structured_output(schema, method=method).invoke("Go.")
        Place.model_validate(value)


def test_json_mode(make):
    reply = make(max_tokens=100).with_structured_output(method="json_mode", include_raw=True).invoke("Say it in JSON.")
    if reply["raw"].response_metadata["finish_reason"] == "stop":
        assert reply["parsing_error"] is None and reply["parsed"] == json.loads(reply["raw"].content)
        assert isinstance(reply["parsed"], dict)


# Beside chat.


def test_embeddings(model):
    embeddings = OpenAIEmbeddings(model=model, base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0,
                                  check_embedding_ctx_length=False)
    try:
        vectors = embeddings.embed_documents(["a", "b"])
    except openai.APIStatusError as e:
        if e.status_code in (400, 404, 501):
            pytest.skip(f"the server refuses: {e.message}")
        raise
    assert len(vectors) == 2 and len(vectors[0]) == len(vectors[1]) > 0
    assert embeddings.embed_query("a") == pytest.approx(vectors[0])


def test_errors(make, n_ctx):
    from langchain_core.exceptions import ContextOverflowError

    with pytest.raises(openai.NotFoundError):
        make().bind(model="no-such-model").invoke(PROMPT)
    with pytest.raises(openai.BadRequestError, match="frobnicate"):
        make(extra_body={"frobnicate": 1}).invoke(PROMPT)
    # What is too long is told from what else is wrong.
    with pytest.raises(ContextOverflowError):
        make().invoke("one two three " * n_ctx)


def test_example(example):
    out = example("langchain_agent.py")
    assert "tool: " in out and "structured: " in out and "answer: " in out
