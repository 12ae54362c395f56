"""The anthropic package against a running server. Nothing here depends on which model it serves."""

import asyncio

import anthropic
import pytest

from conftest import API_KEY, ROOT

PROMPT = "Once upon a time there was a"
GREEDY = {"temperature": 0, "seed": 1}


@pytest.fixture(scope="session")
def claude():
    with anthropic.Anthropic(base_url=ROOT, api_key=API_KEY or "none", max_retries=0, timeout=120) as client:
        yield client


def user(text=PROMPT):
    return [{"role": "user", "content": text}]


def ask(claude, model, messages=None, sampling=GREEDY, **more):
    options = {"max_tokens": 12, "extra_body": sampling, **more}
    return claude.messages.create(model=model, messages=messages or user(), **options)


def said(message):
    assert all(block.type == "text" for block in message.content)
    return "".join(block.text for block in message.content)


# Messages.


def test_message(claude, model):
    message = ask(claude, model)
    assert message.type == "message" and message.role == "assistant" and message.id.startswith("msg_")
    assert message.model == model and message._request_id
    assert message.stop_reason in ("end_turn", "max_tokens") and message.stop_sequence is None
    usage = message.usage
    assert usage.input_tokens > 0 and 0 < usage.output_tokens <= 12
    assert usage.cache_read_input_tokens >= 0 and usage.cache_creation_input_tokens == 0
    assert said(message) == said(ask(claude, model)), "greedy answers repeat"


def test_streamed_is_whole(claude, model):
    whole = ask(claude, model)
    events = list(ask(claude, model, stream=True))
    types = [event.type for event in events]
    assert types[0] == "message_start" and types[-2:] == ["message_delta", "message_stop"]
    blocks = types[1:-2]
    if blocks:
        assert blocks[0] == "content_block_start" and blocks[-1] == "content_block_stop"
        assert set(blocks[1:-1]) == {"content_block_delta"}
    start = events[0].message
    assert start.content == [] and start.stop_reason is None and start.usage.input_tokens > 0
    text = "".join(event.delta.text for event in events if event.type == "content_block_delta")
    assert text == said(whole)
    end = events[-2]
    assert end.delta.stop_reason == whole.stop_reason
    assert end.usage.output_tokens == whole.usage.output_tokens
    # What is cached may differ between the two; what is counted may not.
    for usage in (end.usage, whole.usage):
        assert usage.input_tokens + usage.cache_read_input_tokens == start.usage.input_tokens


def test_stream_helper(claude, model):
    options = {"model": model, "max_tokens": 8, "messages": user(), "extra_body": GREEDY}
    with claude.messages.stream(**options) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text == said(message) == said(ask(claude, model, max_tokens=8))
    assert message.stop_reason in ("end_turn", "max_tokens") and message.usage.output_tokens > 0


def test_async(model):
    async def all_asked():
        async with anthropic.AsyncAnthropic(base_url=ROOT, api_key=API_KEY or "none", max_retries=0) as claude:
            asks = [ask(claude, model, max_tokens=6) for _ in range(4)]
            return [said(message) for message in await asyncio.gather(*asks)]

    assert len(set(asyncio.run(all_asked()))) == 1, "company changes nothing"


def test_the_same_as_in_chat(claude, client, model):
    chat = client.chat.completions.create(model=model, messages=user(), max_tokens=8, **GREEDY)
    message = ask(claude, model, max_tokens=8)
    assert said(message) == chat.choices[0].message.content
    usage = message.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == chat.usage.prompt_tokens


def test_system_and_blocks(claude, model):
    plain = ask(claude, model, system="Be brief.")
    marked = {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}
    assert said(ask(claude, model, system=[marked])) == said(plain)
    content = [{"type": "text", "text": PROMPT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]
    assert said(ask(claude, model, [{"role": "user", "content": content}])) == said(ask(claude, model))


def test_several_turns(claude, model):
    first = ask(claude, model, max_tokens=4)
    history = [*user(), first.to_param(), {"role": "user", "content": "Go on."}]
    second = ask(claude, model, history, max_tokens=4)
    assert second.usage.input_tokens + second.usage.cache_read_input_tokens > first.usage.input_tokens
    again = ask(claude, model, history, max_tokens=4)
    assert said(again) == said(second)


def test_prefill(claude, model):
    message = ask(claude, model, [*user(), {"role": "assistant", "content": "The answer is"}], max_tokens=4)
    assert message.usage.output_tokens <= 4 and not said(message).startswith("The answer is")


def test_stop_sequences(claude, model):
    text = said(ask(claude, model, max_tokens=16))
    if len(text) < 6:
        pytest.skip("the model says too little to be stopped")
    stop = text[3:5]
    expected = text[: text.index(stop)]
    stops = ["\x01never\x01", stop]
    message = ask(claude, model, max_tokens=16, stop_sequences=stops)
    assert (said(message), message.stop_reason, message.stop_sequence) == (expected, "stop_sequence", stop)
    *_, end, _ = ask(claude, model, max_tokens=16, stop_sequences=stops, stream=True)
    assert (end.delta.stop_reason, end.delta.stop_sequence) == ("stop_sequence", stop)


def test_max_tokens(claude, model, n_ctx):
    extra = {**GREEDY, "ignore_eos": True}
    cut = ask(claude, model, sampling=extra, max_tokens=2)
    assert cut.stop_reason == "max_tokens" and cut.usage.output_tokens == 2
    nothing = ask(claude, model, sampling=extra, max_tokens=0)
    assert nothing.content == [] and nothing.usage.output_tokens == 0
    if n_ctx > 4096:
        pytest.skip("the context is long: to fill it takes too long")
    all_of_it = ask(claude, model, sampling=extra, max_tokens=100 * n_ctx, stream=True)
    *_, end, _ = all_of_it
    assert end.delta.stop_reason == "model_context_window_exceeded"


def test_harmless_fields(claude, model):
    ask(claude, model, max_tokens=1, metadata={"user_id": "u"}, service_tier="auto", thinking={"type": "adaptive"},
        extra_headers={"anthropic-beta": "some-beta-2026-01-01"})


# Counts.


def test_count_tokens(claude, model):
    def count(**more):
        return claude.messages.count_tokens(model=model, messages=user(), **more).input_tokens

    message = ask(claude, model, max_tokens=1)
    assert count() == message.usage.input_tokens + message.usage.cache_read_input_tokens
    assert count(system="Be brief.") > count()


# Errors.


def test_unknown_model(claude):
    with pytest.raises(anthropic.NotFoundError) as e:
        ask(claude, "no-such-model")
    assert e.value.body["error"]["type"] == "not_found_error" and "no-such-model" in e.value.message
    assert e.value.request_id


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_too_long(claude, model, n_ctx, stream):
    with pytest.raises(anthropic.BadRequestError) as e:
        ask(claude, model, user("one two three " * n_ctx), stream=stream)
    assert "prompt is too long" in e.value.message and str(n_ctx - 1) in e.value.message


@pytest.mark.parametrize(
    "field, value",
    [
        ("frobnicate", 1),
        ("container", "c"),
        ("temperature", 1.5),
        ("n", 2),
        ("stop_sequences", [""]),
        ("mcp_servers", [{"type": "url", "url": "https://example.org", "name": "x"}]),
        ("tools", [{"type": "web_search_20250305", "name": "web_search"}]),
    ],
)
def test_fields_are_refused_by_name(claude, model, field, value):
    with pytest.raises(anthropic.BadRequestError) as e:
        ask(claude, model, sampling={field: value})
    assert e.value.body["error"]["type"] == "invalid_request_error"
    assert field in e.value.message or field == "stop_sequences"


def test_images_are_refused(claude, model):
    source = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
    with pytest.raises(anthropic.BadRequestError) as e:
        ask(claude, model, [{"role": "user", "content": [{"type": "image", "source": source}]}])
    assert "messages[0].content[0].type" in e.value.message


def test_wrong_key_in_x_api_key(model):
    if not API_KEY:
        pytest.skip("the server asks for no key; set INGLE_API_KEY to its key")
    with anthropic.Anthropic(base_url=ROOT, api_key="wrong", max_retries=0) as claude:
        with pytest.raises(anthropic.AuthenticationError):
            ask(claude, model)


def test_a_stream_can_be_left(claude, model):
    stream = ask(claude, model, stream=True, max_tokens=64)
    next(iter(stream))
    stream.close()
    assert ask(claude, model, max_tokens=1).id, "the server goes on"
