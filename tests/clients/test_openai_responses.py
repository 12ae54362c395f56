"""The openai package's Responses API against a running server that stores responses (`ingle serve` does by default).
Nothing here depends on which model it serves."""

import openai
import pytest

PROMPT = "Once upon a time there was a"
GREEDY = {"temperature": 0, "extra_body": {"seed": 1}}


def create(client, model, said=PROMPT, **more):
    options = {"max_output_tokens": 12, **GREEDY, **more}
    return client.responses.create(model=model, input=said, **options)


def test_text(client, model):
    response = create(client, model, instructions="Be brief.", metadata={"a": "b"}, user="u")
    assert response.object == "response" and response.id.startswith("resp_")
    assert response.status in ("completed", "incomplete") and response.error is None
    assert (response.status == "incomplete") == (response.incomplete_details is not None)
    assert response.instructions == "Be brief." and response.metadata == {"a": "b"} and response.user == "u"
    assert response.model == model and response.created_at > 1_700_000_000
    assert response.max_output_tokens == 12 and response.temperature == 0 and response.store is True
    assert response.tools == [] and response.tool_choice == "auto" and response.parallel_tool_calls is True
    assert response.text.format.type == "text" and response.truncation == "disabled"
    message = response.output[-1]
    assert message.type == "message" and message.role == "assistant" and message.content[0].annotations == []
    assert response.output_text == "".join(p.text for p in message.content)
    usage = response.usage
    assert usage.input_tokens > 0 and 0 < usage.output_tokens <= 12
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert 0 <= usage.input_tokens_details.cached_tokens <= usage.input_tokens
    assert 0 <= usage.output_tokens_details.reasoning_tokens <= usage.output_tokens


def test_items(client, model):
    response = create(client, model, [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        {"role": "assistant", "content": "Hi!"},
        {"type": "message", "role": "user", "content": "Again."},
    ])
    assert response.usage.output_tokens <= 12
    again = create(client, model, [{"role": "user", "content": "Hello"}, *response.output,
                                   {"role": "user", "content": "Go on."}])
    assert again.output[-1].role == "assistant"


def test_streamed_is_whole(client, model):
    whole = create(client, model)
    events = list(create(client, model, stream=True))
    assert [e.sequence_number for e in events] == list(range(len(events)))
    assert [events[0].type, events[1].type] == ["response.created", "response.in_progress"]
    assert events[0].response.status == "in_progress"
    text = "".join(e.delta for e in events if e.type == "response.output_text.delta")
    assert text == whole.output_text
    [done] = [e for e in events if e.type == "response.output_text.done"]
    assert done.text == text
    last = events[-1]
    assert last.type == f"response.{whole.status}" and last.response.output_text == text
    assert last.response.usage.output_tokens == whole.usage.output_tokens


def test_stream_helper(client, model):
    with client.responses.stream(model=model, input=PROMPT, temperature=0, extra_body={"seed": 1},
                                 max_output_tokens=12) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    assert text == create(client, model).output_text


def test_logprobs(client, model):
    response = create(client, model, include=["message.output_text.logprobs"], top_logprobs=2)
    logprobs = response.output[-1].content[0].logprobs
    assert 0 < len(logprobs) <= 12
    assert all(t.logprob <= 0 and len(t.top_logprobs) == 2 and isinstance(t.bytes, list) for t in logprobs)


def test_stored(client, model):
    first = create(client, model, "My name is Ada.")
    assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
    second = create(client, model, "What is my name?", previous_response_id=first.id)
    assert second.previous_response_id == first.id
    # What the server put in front is what a client would have sent.
    sent = create(client, model, [
        {"role": "user", "content": "My name is Ada."},
        *first.output,
        {"role": "user", "content": "What is my name?"},
    ])
    assert second.usage.input_tokens == sent.usage.input_tokens and second.output_text == sent.output_text
    items = list(client.responses.input_items.list(second.id))
    assert [i.content[0].text for i in items] == ["What is my name?"]
    items = list(client.responses.input_items.list(sent.id, limit=1, order="asc"))
    assert len(items) == 2 + len(first.output)
    client.responses.delete(first.id)
    for gone in (client.responses.retrieve, client.responses.delete, client.responses.input_items.list):
        with pytest.raises(openai.NotFoundError):
            gone(first.id)
    for id in (first.id, second.id):
        with pytest.raises(openai.BadRequestError) as e:
            create(client, model, previous_response_id=id)
        assert e.value.param == "previous_response_id" and e.value.code == "previous_response_not_found"
    with pytest.raises(openai.BadRequestError):
        client.responses.cancel(second.id)


def test_not_stored(client, model):
    response = create(client, model, store=False)
    assert response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)


@pytest.mark.parametrize("more, param", [
    ({"truncation": "auto"}, "truncation"),
    ({"conversation": "c"}, "conversation"),
    ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"include": ["everything"]}, "include[0]"),
    ({"extra_body": {"frobnicate": 1}}, "frobnicate"),
])
def test_refused_by_name(client, model, more, param):
    with pytest.raises(openai.BadRequestError) as e:
        create(client, model, **more)
    assert e.value.param == param
