"""The openai package's files and batches, and its responses in the background, against a running server that has a data
folder (`ingle serve` does by default). Nothing here depends on which model it serves."""

import io
import json
import time

import openai
import pytest

CHAT = "/v1/chat/completions"
GREEDY = {"temperature": 0, "seed": 1, "max_tokens": 8}


def lines(*said, url=CHAT, **more):
    """The lines of an input, named a, b, …"""
    for name, text in zip("abcdefghijklmnopqrstuvwxyz", said):
        if url == CHAT:
            body = {"messages": [{"role": "user", "content": text}], **GREEDY}
        elif url == "/v1/completions":
            body = {"prompt": text, **GREEDY}
        else:
            body = {"input": text, "temperature": 0, "seed": 1, "max_output_tokens": 16}
        yield json.dumps({"custom_id": name, "method": "POST", "url": url, "body": {**body, **more}})


def upload(client, *texts, purpose="batch"):
    return client.files.create(file=("in.jsonl", io.BytesIO("\n".join(texts).encode())), purpose=purpose)


def ended(client, batch, patience=120):
    until = time.monotonic() + patience
    while batch.status in ("validating", "in_progress", "finalizing", "cancelling"):
        assert time.monotonic() < until, batch
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def run(client, *texts, url=CHAT, **more):
    file = upload(client, *texts)
    batch = client.batches.create(input_file_id=file.id, endpoint=url, completion_window="24h", **more)
    assert batch.status == "validating" and batch.input_file_id == file.id and batch.object == "batch"
    return ended(client, batch)


def content(client, id):
    return [json.loads(line) for line in client.files.content(id).text.splitlines()]


def test_file(client):
    text = "x" * 3_000_000
    file = client.files.create(file=("name.txt", text.encode()), purpose="user_data",
                               expires_after={"anchor": "created_at", "seconds": 3600})
    assert file.object == "file" and file.bytes == len(text) and file.filename == "name.txt"
    assert file.purpose == "user_data" and file.status == "processed"
    assert file.expires_at == file.created_at + 3600
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).text == text
    assert client.files.wait_for_processing(file.id) == file
    deleted = client.files.delete(file.id)
    assert deleted.deleted and deleted.id == file.id
    for gone in (client.files.retrieve, client.files.delete, client.files.content):
        with pytest.raises(openai.NotFoundError):
            gone(file.id)


def test_list(client):
    ids = [upload(client, text).id for text in "abc"]
    listed = [file.id for file in client.files.list(purpose="batch", limit=2)]
    assert listed[:3] == ids[::-1], "the newest first, through all pages"
    oldest = [file.id for file in client.files.list(order="asc", after=ids[0])]
    assert oldest[:2] == ids[1:]
    for id in ids:
        client.files.delete(id)
    assert not set(ids) & {file.id for file in client.files.list()}


@pytest.mark.parametrize("more, param", [
    ({"purpose": "fine-tune"}, "purpose"),
    ({"purpose": "batch", "extra_body": {"colour": "red"}}, "colour"),
])
def test_upload_refused_by_name(client, more, param):
    with pytest.raises(openai.BadRequestError) as e:
        client.files.create(file=("a", b"x"), **more)
    assert e.value.param == param


@pytest.mark.parametrize("url", [CHAT, "/v1/completions", "/v1/responses"])
def test_batch(client, url):
    batch = run(client, *lines("Hello", "Once upon a time", "Bye", url=url), url=url, metadata={"a": "b"})
    assert batch.status == "completed" and batch.metadata == {"a": "b"} and batch.endpoint == url
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (3, 3, 0)
    assert batch.created_at <= batch.in_progress_at <= batch.finalizing_at <= batch.completed_at
    assert batch.error_file_id is None and batch.errors is None
    results = content(client, batch.output_file_id)
    assert [r["custom_id"] for r in results] == ["a", "b", "c"]
    for result in results:
        assert result["error"] is None and result["response"]["status_code"] == 200
        assert result["id"].startswith("batch_req_") and result["response"]["request_id"]
    # The same request over its route has the same answer.
    [line] = [json.loads(line) for line in lines("Hello", url=url)]
    direct = client.post(url.removeprefix("/v1"), body=line["body"], cast_to=object)
    part = "output" if url == "/v1/responses" else "choices"
    batched = results[0]["response"]["body"]
    if part == "choices":
        assert batched[part] == direct[part]
    else:
        assert [o["content"] for o in batched[part]] == [o["content"] for o in direct[part]]
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.filename.endswith(".jsonl")


def test_errors_of_lines(client):
    wrong = {"custom_id": "z", "method": "POST", "url": CHAT, "body": {"messages": [], "colour": "red"}}
    batch = run(client, *lines("Hello"), json.dumps(wrong))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
    [error] = content(client, batch.error_file_id)
    assert error["custom_id"] == "z" and error["response"]["status_code"] == 400
    assert error["response"]["body"]["error"]["message"]


def test_errors_of_the_input(client):
    batch = run(client, *lines("Hello"), "nonsense", *lines("again"))
    assert batch.status == "failed" and batch.output_file_id is None
    assert [(e.line, e.code) for e in batch.errors.data] == [(2, "invalid_json"), (3, "duplicate_custom_id")]
    assert run(client, "").errors.data[0].code == "empty_file"


def test_cancel(client):
    long = {"max_tokens": 512, "ignore_eos": True}
    texts = list(lines(*["Tell me a long story"] * 26, **long))
    file = upload(client, *texts)
    batch = client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h")
    batch = client.batches.cancel(batch.id)
    assert batch.status in ("cancelling", "cancelled")
    batch = ended(client, batch)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    with pytest.raises(openai.BadRequestError):
        client.batches.cancel(batch.id)
    client.files.delete(file.id)


def test_batches_are_listed(client):
    batch = run(client, *lines("Hello"))
    assert client.batches.list(limit=1).data == [batch]
    assert batch.id in [b.id for b in client.batches.list(limit=1)]


@pytest.mark.parametrize("more, param", [
    ({"endpoint": "/v1/images/generations"}, "endpoint"),
    ({"completion_window": "1 day"}, "completion_window"),
    ({"input_file_id": "file-none"}, "input_file_id"),
    ({"extra_body": {"model": "x"}}, "model"),
])
def test_batch_refused_by_name(client, more, param):
    file = upload(client, *lines("Hello"))
    options = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h", **more}
    with pytest.raises(openai.BadRequestError) as e:
        client.batches.create(**options)
    assert e.value.param == param


def background(client, model, said, **more):
    return client.responses.create(model=model, input=said, background=True, temperature=0, **more)


def settled(client, response):
    until = time.monotonic() + 120
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < until, response
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    return response


def test_background(client, model):
    asked = background(client, model, "Hello", max_output_tokens=12, extra_body={"seed": 1})
    assert asked.status in ("queued", "in_progress") and asked.background is True and asked.output == []
    response = settled(client, asked)
    assert response.status in ("completed", "incomplete") and response.id == asked.id
    direct = client.responses.create(model=model, input="Hello", max_output_tokens=12, temperature=0,
                                     extra_body={"seed": 1})
    assert response.output_text == direct.output_text and response.usage.output_tokens > 0
    assert client.responses.cancel(response.id) == response, "there is nothing left to cancel"


def test_background_cancel(client, model):
    asked = background(client, model, "Tell me a long story", max_output_tokens=512, extra_body={"ignore_eos": True})
    cancelled = client.responses.cancel(asked.id)
    assert cancelled.status in ("cancelled", "incomplete", "completed")
    assert client.responses.retrieve(asked.id) == cancelled


@pytest.mark.parametrize("more, param", [({"stream": True}, "stream"), ({"store": False}, "background")])
def test_background_refused_by_name(client, model, more, param):
    with pytest.raises(openai.BadRequestError) as e:
        background(client, model, "Hello", **more)
    assert e.value.param == param
