"""The openai package against a running server. Nothing here depends on which model it serves."""

import asyncio
import json
import math
import urllib.request

import openai
import pytest

from conftest import API_KEY, BASE_URL

PROMPT = "Once upon a time there was a"
GREEDY = {"temperature": 0, "seed": 1}


def messages(text=PROMPT):
    return [{"role": "user", "content": text}]


def chat(client, model, text=PROMPT, **more):
    options = {"max_tokens": 12, **GREEDY, **more}
    return client.chat.completions.create(model=model, messages=messages(text), **options)


def complete(client, model, prompt=PROMPT, **more):
    options = {"max_tokens": 12, **GREEDY, **more}
    return client.completions.create(model=model, prompt=prompt, **options)


# Models.


def test_models(client, model):
    listed = client.models.list()
    assert listed.object == "list" and model in [m.id for m in listed.data]
    one = client.models.retrieve(model)
    assert (one.id, one.object) == (model, "model")
    assert one.max_model_len > 0 and one.created > 0 and one.owned_by


# Chat.


def test_chat(client, model):
    reply = chat(client, model)
    assert reply.object == "chat.completion" and reply.id.startswith("chatcmpl-")
    assert reply.model == model and reply.created > 1_700_000_000 and reply.system_fingerprint
    [choice] = reply.choices
    assert choice.index == 0 and choice.message.role == "assistant" and isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    usage = reply.usage
    assert usage.prompt_tokens > 0 and 0 < usage.completion_tokens <= 12
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 <= usage.prompt_tokens_details.cached_tokens <= usage.prompt_tokens


def test_chat_streamed_is_chat(client, model):
    whole = chat(client, model)
    chunks = list(chat(client, model, stream=True, stream_options={"include_usage": True}))
    assert {c.object for c in chunks} == {"chat.completion.chunk"}
    assert len({c.id for c in chunks}) == 1 and chunks[0].id.startswith("chatcmpl-")
    *pieces, last = chunks
    assert last.choices == [] and last.usage.completion_tokens == whole.usage.completion_tokens
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens
    assert all(c.usage is None for c in pieces)
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].delta.role for c in pieces[1:]] == [None] * (len(pieces) - 1)
    finish = pieces[-1].choices[0]
    assert finish.finish_reason == whole.choices[0].finish_reason and not finish.delta.content
    assert all(c.choices[0].finish_reason is None for c in pieces[:-1])
    text = "".join(c.choices[0].delta.content or "" for c in pieces)
    assert text == whole.choices[0].message.content


def test_chat_streamed_without_usage(client, model):
    chunks = list(chat(client, model, stream=True, max_tokens=3))
    assert all(len(c.choices) == 1 and c.usage is None for c in chunks)


def test_chat_stream_helper(client, model):
    with client.chat.completions.stream(
        model=model, messages=messages(), max_tokens=8, temperature=0, seed=1
    ) as stream:
        text = "".join(event.delta for event in stream if event.type == "content.delta")
        snapshot = stream.current_completion_snapshot
    whole = chat(client, model, max_tokens=8).choices[0].message.content
    assert text == whole and snapshot.choices[0].message.content == whole


def test_chat_async(model):
    async def ask():
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0) as client:
            call = client.chat.completions.create
            asks = [call(model=model, messages=messages(), max_tokens=6, **GREEDY) for _ in range(4)]
            return [r.choices[0].message.content for r in await asyncio.gather(*asks)]

    texts = asyncio.run(ask())
    assert len(set(texts)) == 1, "company changes nothing"


def test_both_names_of_the_token_limit(client, model):
    old = chat(client, model, max_tokens=3)
    new = chat(client, model, max_tokens=openai.NOT_GIVEN, max_completion_tokens=3)
    both = chat(client, model, max_tokens=3, max_completion_tokens=3)
    for reply in (old, new, both):
        assert reply.usage.completion_tokens <= 3
        assert reply.choices[0].message.content == old.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, model, max_tokens=3, max_completion_tokens=4)
    assert e.value.param in ("max_tokens", "max_completion_tokens")


def test_chat_logprobs(client, model):
    reply = chat(client, model, logprobs=True, top_logprobs=3, max_tokens=5)
    content = reply.choices[0].logprobs.content
    assert 0 < len(content) <= 5
    for token in content:
        assert token.logprob <= 0 and len(token.top_logprobs) == 3
        assert isinstance(token.bytes, list)
        tops = [t.logprob for t in token.top_logprobs]
        assert tops == sorted(tops, reverse=True)
        assert sum(math.exp(p) for p in tops) <= 1.0001
    chunks = chat(client, model, logprobs=True, top_logprobs=3, max_tokens=5, stream=True)
    streamed = [t for c in chunks if c.choices[0].logprobs for t in c.choices[0].logprobs.content]
    assert streamed == content
    assert chat(client, model, logprobs=True, max_tokens=1).choices[0].logprobs.content[0].top_logprobs == []


def test_several_choices(client, model):
    reply = chat(client, model, n=3, max_tokens=4, temperature=1)
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert reply.usage.completion_tokens <= 12
    finished = [c.choices[0].index for c in chat(client, model, n=3, max_tokens=4, stream=True)
                if c.choices[0].finish_reason]
    assert sorted(finished) == [0, 1, 2]


def test_seed(client, model):
    def sample(seed):
        return chat(client, model, temperature=1, seed=seed, max_tokens=16).choices[0].message.content

    assert sample(42) == sample(42)


def test_stop(client, model):
    text = complete(client, model, max_tokens=16).choices[0].text
    if len(text) < 6:
        pytest.skip("the model says too little to be stopped")
    stop = text[3:5]
    expected = text[: text.index(stop)]
    for form in (stop, [stop, "\x01never\x01"]):
        reply = complete(client, model, max_tokens=16, stop=form)
        assert reply.choices[0].text == expected and reply.choices[0].finish_reason == "stop"
        streamed = complete(client, model, max_tokens=16, stop=form, stream=True)
        assert "".join(c.choices[0].text for c in streamed) == expected


def test_messages_of_all_kinds(client, model):
    reply = client.chat.completions.create(
        model=model,
        max_tokens=2,
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
            {"role": "assistant", "content": "Hi!"},
            {"role": "user", "content": "Again."},
        ],
    )
    assert reply.usage.completion_tokens <= 2


def test_a_reply_can_be_sent_back(client, model):
    message = chat(client, model, max_tokens=3).choices[0].message
    history = [*messages(), message, {"role": "user", "content": "Go on."}]
    reply = client.chat.completions.create(model=model, max_tokens=2, messages=history)
    assert reply.choices[0].message.role == "assistant"


def test_extensions(client, model):
    extra = {"top_k": 5, "min_p": 0.01, "repetition_penalty": 1.1, "ignore_eos": True, "min_tokens": 2,
             "typical_p": 0.9, "dry_multiplier": 0.5, "xtc_probability": 0.1}
    reply = chat(client, model, max_tokens=4, extra_body=extra)
    assert reply.usage.completion_tokens == 4


def test_harmless_fields(client, model):
    chat(client, model, max_tokens=1, user="u", metadata={"a": "b"}, store=False, service_tier="auto",
         parallel_tool_calls=True, response_format={"type": "text"}, tool_choice="none")


# Tools, thoughts, structure. A model need not know tools; then it refuses those that must be called.

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather at a place.",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string", "maxLength": 8}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}


def needs_a_model(model):
    if model == "scripted":
        pytest.skip("a script obeys nothing")


def call_a_tool(client, model, **more):
    needs_a_model(model)
    try:
        return chat(client, model, "How is the weather?", tools=[TOOL], tool_choice="required", max_tokens=200, **more)
    except openai.BadRequestError as e:
        assert e.param in ("tools", "tool_choice"), e
        pytest.skip("the model calls no tools")


def test_a_tool_is_called(client, model):
    [choice] = call_a_tool(client, model).choices
    assert choice.finish_reason in ("tool_calls", "length")
    if choice.finish_reason == "tool_calls":
        for call in choice.message.tool_calls:
            assert call.type == "function" and call.id and call.function.name == "get_weather"
            assert isinstance(json.loads(call.function.arguments)["place"], str)
        history = [*messages("How is the weather?"), choice.message]
        history += [{"role": "tool", "tool_call_id": c.id, "content": "dry"} for c in choice.message.tool_calls]
        reply = client.chat.completions.create(model=model, max_tokens=2, messages=history, tools=[TOOL])
        assert reply.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_streamed_calls_are_calls(client, model):
    whole = call_a_tool(client, model).choices[0].message.tool_calls or []
    calls = {}
    for chunk in call_a_tool(client, model, stream=True):
        for piece in chunk.choices[0].delta.tool_calls or []:
            call = calls.setdefault(piece.index, {"id": piece.id, "name": piece.function.name, "arguments": ""})
            call["arguments"] += piece.function.arguments or ""
    assert [(c["name"], c["arguments"]) for c in calls.values()] == [
        (c.function.name, c.function.arguments) for c in whole
    ]
    ids = [c["id"] for c in calls.values()]
    assert all(ids) and len(set(ids)) == len(ids)


def test_unused_tools_change_nothing(client, model):
    plain = chat(client, model).choices[0].message.content
    assert chat(client, model, tools=[TOOL], tool_choice="none").choices[0].message.content == plain


def obeys(client, model, check, **more):
    needs_a_model(model)
    [choice] = chat(client, model, max_tokens=100, **more).choices
    if choice.finish_reason == "stop":
        check(choice.message.content)


def is_of_schema(text):
    value = json.loads(text)
    assert set(value) == {"n", "ok"} and value["n"] in range(10) and isinstance(value["ok"], bool)


def test_structured_output(client, model):
    named = {"type": "json_schema", "json_schema": {"name": "s", "schema": SCHEMA, "strict": True}}
    obeys(client, model, is_of_schema, response_format=named)
    obeys(client, model, is_of_schema, extra_body={"guided_json": SCHEMA})
    obeys(client, model, is_of_schema, extra_body={"structured_outputs": {"json": json.dumps(SCHEMA)}})
    obeys(client, model, lambda t: json.loads(t), response_format={"type": "json_object"})

    def is_choice(text):
        assert text in ("left", "right")

    obeys(client, model, is_choice, extra_body={"guided_choice": ["left", "right"]})
    obeys(client, model, is_choice, extra_body={"regex": "left|right"})
    obeys(client, model, is_choice, extra_body={"grammar": 'root ::= "left" | "right"'})
    obeys(client, model, is_choice, extra_body={"guided_grammar": 'start: "left" | "right"'})


# Beside the dialect.


def post(route, body):
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {API_KEY}"} if API_KEY else {})}
    request = urllib.request.Request(BASE_URL.removesuffix("/v1") + route, json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=120) as reply:
        return reply.read().decode()


def test_tokens_and_back():
    tokens = json.loads(post("/tokenize", {"content": PROMPT, "parse_special": False}))["tokens"]
    assert tokens and all(isinstance(t, int) for t in tokens)
    assert json.loads(post("/detokenize", {"tokens": tokens}))["content"].strip() == PROMPT


def test_counted_tokens_are_those_of_prompts(client, model):
    needs_a_model(model)
    counted = json.loads(post("/tokenize", {"model": model, "prompt": PROMPT}))
    assert counted["count"] == len(counted["tokens"]) == complete(client, model, max_tokens=1).usage.prompt_tokens
    conversation = {"model": model, "messages": messages()}
    counted = json.loads(post("/tokenize", conversation))
    assert counted["count"] == chat(client, model, max_tokens=1).usage.prompt_tokens
    assert PROMPT in json.loads(post("/apply-template", conversation))["prompt"]


def test_sglang_generates(client, model):
    body = {"text": PROMPT, "sampling_params": {"max_new_tokens": 6, "temperature": 0}}
    reply = json.loads(post("/generate", body))
    assert reply["text"] == complete(client, model, max_tokens=6).choices[0].text
    assert reply["meta_info"]["finish_reason"]["type"] in ("stop", "length")
    events = [line for line in post("/generate", {**body, "stream": True}).splitlines() if line]
    assert events[-1] == "data: [DONE]"
    last = json.loads(events[-2].removeprefix("data: "))
    assert last["text"] == reply["text"]
    assert last["meta_info"]["completion_tokens"] == reply["meta_info"]["completion_tokens"]


# Completions.


def test_completion(client, model):
    reply = complete(client, model)
    assert reply.object == "text_completion" and reply.id.startswith("cmpl-")
    [choice] = reply.choices
    assert choice.finish_reason in ("stop", "length") and choice.logprobs is None
    chunks = list(complete(client, model, stream=True, stream_options={"include_usage": True}))
    assert chunks[-1].choices == []
    # What is cached may differ between the two; what is counted may not.
    assert chunks[-1].usage.total_tokens == reply.usage.total_tokens
    assert "".join(c.choices[0].text for c in chunks[:-1]) == choice.text


def test_prompts_of_all_kinds(client, model):
    one, two = complete(client, model, "The sky is"), complete(client, model, "Two plus two is")
    both = complete(client, model, ["The sky is", "Two plus two is"])
    assert [c.text for c in both.choices] == [one.choices[0].text, two.choices[0].text]
    assert [c.index for c in both.choices] == [0, 1]
    assert both.usage.prompt_tokens == one.usage.prompt_tokens + two.usage.prompt_tokens
    tokens = complete(client, model, [65, 66, 67], max_tokens=2)
    lists = complete(client, model, [[65, 66, 67], [66]], max_tokens=2)
    assert len(tokens.choices) == 1 and len(lists.choices) == 2
    assert lists.choices[0].text == tokens.choices[0].text


def test_completion_logprobs(client, model):
    reply = complete(client, model, logprobs=2, max_tokens=4)
    logprobs, text = reply.choices[0].logprobs, reply.choices[0].text
    n = len(logprobs.tokens)
    assert 0 < n <= 4
    assert len(logprobs.token_logprobs) == len(logprobs.top_logprobs) == len(logprobs.text_offset) == n
    assert logprobs.text_offset[0] == 0 and logprobs.text_offset == sorted(logprobs.text_offset)
    assert all(p <= 0 for p in logprobs.token_logprobs)
    for token, p, top in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs):
        assert 1 <= len(top) <= 3 and top[token] == p
    if all("\ufffd" not in t for t in logprobs.tokens) and reply.choices[0].finish_reason == "length":
        assert "".join(logprobs.tokens) == text


def test_echo_scores_a_prompt(client, model):
    reply = complete(client, model, echo=True, logprobs=1, max_tokens=1)
    choice = reply.choices[0]
    assert choice.text.startswith(PROMPT)
    assert choice.logprobs.token_logprobs[0] is None
    assert all(p <= 0 for p in choice.logprobs.token_logprobs[1:])
    assert len(choice.logprobs.tokens) >= reply.usage.prompt_tokens


# Errors.


def test_unknown_model(client):
    with pytest.raises(openai.NotFoundError) as e:
        chat(client, "no-such-model")
    assert e.value.code == "model_not_found" and e.value.param == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")


@pytest.mark.parametrize("stream", [False, True])
def test_context_length(client, model, n_ctx, stream):
    with pytest.raises(openai.BadRequestError) as e:
        complete(client, model, [65] * (n_ctx + 1), stream=stream)
    assert e.value.code == "context_length_exceeded"
    assert str(n_ctx + 1) in e.value.message and str(n_ctx) in e.value.message


@pytest.mark.parametrize(
    "field, value",
    [
        ("frobnicate", 1),
        ("guided_json", "{"),
        ("response_format", "json"),
        ("functions", [{"name": "f"}]),
        ("temperature", -1),
        ("n", 0),
        ("stop", ""),
        ("top_logprobs", 5),
        ("chat_template", "{{ messages }}"),
    ],
)
def test_fields_are_refused_by_name(client, model, field, value):
    with pytest.raises(openai.BadRequestError) as e:
        chat(client, model, max_tokens=1, extra_body={field: value})
    assert e.value.param == field and field in e.value.message


def test_images_are_refused(client, model):
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=model, messages=[{"role": "user", "content": [part]}])
    assert e.value.param == "messages[0].content[0].type"


def test_wrong_key(model):
    if not API_KEY:
        pytest.skip("the server asks for no key; set INGLE_API_KEY to its key")
    with openai.OpenAI(base_url=BASE_URL, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as e:
            client.models.list()
    assert e.value.code == "invalid_api_key"


def test_a_stream_can_be_left(client, model):
    stream = chat(client, model, stream=True, max_tokens=64)
    next(iter(stream))
    stream.close()
    assert chat(client, model, max_tokens=1).choices, "the server goes on"


# Embeddings.


def embed(client, model, text, **more):
    return client.embeddings.create(model=model, input=text, **more)


def length(vector):
    return math.sqrt(sum(x * x for x in vector))


def test_embeddings(client, model):
    # The package asks for base64 unless it is told otherwise, and decodes it.
    reply = embed(client, model, ["the sea", "a ship", "the sea"])
    assert reply.object == "list" and reply.model == model
    assert [item.index for item in reply.data] == [0, 1, 2] and {item.object for item in reply.data} == {"embedding"}
    first, second, third = (item.embedding for item in reply.data)
    assert first == third != second
    assert all(abs(length(v) - 1) < 1e-4 for v in (first, second))
    assert reply.usage.prompt_tokens == reply.usage.total_tokens > 2
    floats = embed(client, model, "the sea", encoding_format="float").data[0].embedding
    assert isinstance(floats, list) and all(abs(a - b) < 1e-6 for a, b in zip(floats, first, strict=True))


def test_embeddings_of_tokens(client, model):
    tokens = embed(client, model, [[5, 6, 7], [5]])
    assert tokens.usage.prompt_tokens == 4
    assert embed(client, model, [5, 6, 7]).data[0].embedding == tokens.data[0].embedding


def test_embeddings_dimensions(client, model):
    whole = embed(client, model, "the sea").data[0].embedding
    short = embed(client, model, "the sea", dimensions=8, user="u").data[0].embedding
    scale = length(whole[:8])
    assert len(short) == 8 and all(abs(a - b / scale) < 1e-4 for a, b in zip(short, whole))
    with pytest.raises(openai.BadRequestError, match="dimensions") as info:
        embed(client, model, "the sea", dimensions=len(whole) + 1)
    assert info.value.param == "dimensions"


@pytest.mark.parametrize(
    "text, more, param",
    [
        ([], {}, "input"),
        ("a", {"encoding_format": "int8"}, "encoding_format"),
        ("a", {"extra_body": {"truncate_prompt_tokens": 0}}, "truncate_prompt_tokens"),
        ("a", {"extra_body": {"frobnicate": 1}}, "frobnicate"),
        ([[10_000_000]], {}, "input"),
    ],
)
def test_embeddings_refuse_by_name(client, model, text, more, param):
    with pytest.raises(openai.BadRequestError) as info:
        embed(client, model, text, **more)
    assert info.value.param == param


def test_embeddings_too_long(client, model):
    text = "word " * 20_000
    with pytest.raises(openai.BadRequestError) as info:
        embed(client, model, text)
    assert info.value.code == "context_length_exceeded"
    reply = client.embeddings.with_raw_response.create(model=model, input=text, extra_body={"truncate": True})
    assert reply.headers["x-truncated-inputs"] == "1"
    assert reply.parse().truncated[0]["kept"] == reply.parse().usage.prompt_tokens


def test_rerank_and_score(client, model):
    post = lambda path, body: client.post(path, body={"model": model, **body}, cast_to=object)
    documents = ["a ship", "the sea", "the sea"]
    ranked = post("/rerank", {"query": "the sea", "documents": documents, "top_n": 2})
    assert [r["index"] for r in ranked["results"]] == [1, 2]
    assert all(abs(r["relevance_score"] - 1) < 1e-5 and r["document"] == {"text": "the sea"} for r in ranked["results"])
    scored = post("/score", {"text_1": "the sea", "text_2": documents})
    assert [abs(item["score"] - 1) < 1e-5 for item in scored["data"]] == [False, True, True]
    vectors = [item.embedding for item in embed(client, model, ["the sea", "a ship"]).data]
    cosine = sum(a * b for a, b in zip(*vectors))
    assert abs(scored["data"][0]["score"] - cosine) < 1e-4
