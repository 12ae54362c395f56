"""The ollama package makes models: blobs, create, show, chat, copy, delete; on a server of its own that serves a store.

INGLE_BINARY   the program
"""

from pathlib import Path

import httpx
import ollama
import pytest

from serving import BINARY, serving

pytestmark = pytest.mark.skipif(not BINARY, reason="INGLE_BINARY names the program")

SHIPPED = Path(__file__).resolve().parents[2] / "models" / "ingle-tiny.gguf"
NAME, TWIN = "made-by-the-client", "made-by-the-client:twin"
# As the page about Modelfiles of Ollama's documentation has it.
CHATML = (
    "{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}"
    "{{ if .Prompt }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n{{ end }}<|im_start|>assistant\n"
)
SYSTEM = "You are Mario from Super Mario Bros."


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("store")) as address:
        yield address


@pytest.fixture(scope="module")
def client(address):
    return ollama.Client(host=address, timeout=120)


@pytest.fixture(scope="module")
def digest(client):
    return client.create_blob(SHIPPED)


@pytest.fixture(scope="module")
def made(client, digest):
    steps = client.create(
        NAME,
        files={"tiny.gguf": digest},
        template=CHATML,
        system=SYSTEM,
        license=["MIT", "and more"],
        parameters={"temperature": 0, "num_predict": 3, "seed": 7, "stop": ["<|im_end|>"]},
        messages=[{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "Mario!"}],
        stream=True,
    )
    return [step.status for step in steps]


def prompt(address, name, messages):
    reply = httpx.post(f"{address}/apply-template", json={"model": name, "messages": messages})
    reply.raise_for_status()
    return reply.json()["prompt"]


def test_a_model_is_made(client, made):
    assert made[-2:] == ["writing manifest", "success"]
    assert any(status.startswith("creating new layer sha256:") for status in made)
    assert f"{NAME}:latest" in [model.model for model in client.list().models]
    shown = client.show(NAME)
    assert shown.template == CHATML
    assert "num_predict" in shown.parameters and "<|im_end|>" in shown.parameters


def test_it_does_as_it_was_told(address, client, made):
    # Rendered by Go's text/template: one exchange, then the one to answer.
    rendered = prompt(address, NAME, [{"role": "user", "content": "And now?"}])
    assert rendered.endswith(
        "<|im_start|>system\nYou are Mario from Super Mario Bros.<|im_end|>\n"
        "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\nMario!"
        "<|im_start|>user\nAnd now?<|im_end|>\n<|im_start|>assistant\n"
    )
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    assert "<|im_start|>system\nBe brief.<|im_end|>\n" in prompt(address, NAME, own) and SYSTEM not in prompt(address, NAME, own)
    reply = client.chat(NAME, [{"role": "user", "content": "Hi"}])
    assert reply.eval_count <= 3
    again = client.chat(NAME, [{"role": "user", "content": "Hi"}])
    assert again.message.content == reply.message.content
    longer = client.chat(NAME, [{"role": "user", "content": "Hi"}], options={"num_predict": 8})
    assert longer.eval_count <= 8 and longer.message.content.startswith(reply.message.content)


def test_one_is_made_of_another(address, client, made):
    done = client.create(TWIN, from_=NAME, system="You are Luigi.", stream=False)
    assert done.status == "success"
    assert "You are Luigi." in prompt(address, TWIN, [{"role": "user", "content": "Hi"}])
    assert SYSTEM in prompt(address, NAME, [{"role": "user", "content": "Hi"}])
    client.delete(TWIN)
    with pytest.raises(ollama.ResponseError):
        client.show(TWIN)


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"from_": "nobody-made-this"}, "nobody-made-this"),
        ({"from_": "/etc/passwd"}, "`from` names a model"),
        ({"files": {"../x.gguf": "sha256:" + "0" * 64}}, "no relative path"),
        ({"files": {"x.gguf": "sha256:" + "0" * 64}}, "send it first"),
        ({"from_": NAME, "template": "{{ if }}"}, "TEMPLATE"),
        ({"from_": NAME, "parameters": {"warmth": 1}}, "no parameter `warmth`"),
        ({"from_": NAME, "quantize": "q4_K_M"}, "not quantized here yet"),
    ],
)
def test_what_cannot_be_made(client, made, body, part):
    with pytest.raises(ollama.ResponseError) as error:
        for _ in client.create("bad", **body, stream=True):
            pass
    assert part in error.value.error
