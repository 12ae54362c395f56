"""The ollama package against a server of its own that serves a store: what comes, what goes, what is copied.

INGLE_BINARY   the program
"""

import hashlib
import json
from pathlib import Path

import ollama
import pytest

from serving import BINARY, serving

WEIGHTS = Path(__file__).resolve().parents[2] / "models" / "ingle-tiny.gguf"
HOST = "application/vnd.ollama.image"

pytestmark = pytest.mark.skipif(not BINARY, reason="INGLE_BINARY names the program")


def put(root, name, system):
    """A model as a registry has it: blobs by their digests, and a manifest."""
    blobs = root / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)

    def layer(media_type, content):
        digest = hashlib.sha256(content).hexdigest()
        (blobs / f"sha256-{digest}").write_bytes(content)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    config = {"model_format": "gguf", "model_family": "llama", "model_families": ["llama"], "model_type": "1M",
              "file_type": "Q8_0"}
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": layer("application/vnd.docker.container.image.v1+json", json.dumps(config).encode()),
        "layers": [
            layer(f"{HOST}.model", WEIGHTS.read_bytes()),
            layer(f"{HOST}.system", system.encode()),
            layer(f"{HOST}.params", b'{"stop":["END"],"temperature":0}'),
            layer(f"{HOST}.license", b"The licence."),
        ],
    }
    model, tag = name.split(":")
    path = root / "manifests" / "registry.ollama.ai" / "library" / model / tag
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(json.dumps(manifest).encode())


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("store")
    put(root, "stories:1", "Be brief.")
    return root


@pytest.fixture(scope="module")
def client(root):
    with serving(root) as address:
        yield ollama.Client(host=address, timeout=120)


def names(client):
    return [m.model for m in client.list().models]


def test_list_show_ps_and_chat(client):
    [first, *_] = client.list().models
    assert (first.model, first.details.family, first.details.quantization_level) == ("stories:1", "llama", "Q8_0")
    assert len(first.digest) == 64 and first.size > WEIGHTS.stat().st_size
    shown = client.show("stories:1")
    assert shown.license == "The licence." and "temperature" in shown.parameters
    reply = client.chat("stories:1", [{"role": "user", "content": "Hello."}], options={"num_predict": 4})
    assert reply.model == "stories:1" and reply.done
    assert "stories:1" in [m.model for m in client.ps().models]
    pieces = list(client.generate("stories:1", "Once", stream=True, options={"num_predict": 4}))
    assert pieces[-1].done


def test_copy_and_delete(client):
    assert client.copy("stories:1", "mine").status == "success"
    assert "mine:latest" in names(client)
    assert client.generate("mine", "Once", options={"num_predict": 2}).done
    assert client.delete("mine").status == "success"
    assert "mine:latest" not in names(client)
    for ask in (lambda: client.delete("mine"), lambda: client.copy("mine", "other"), lambda: client.generate("mine", "x")):
        with pytest.raises(ollama.ResponseError) as e:
            ask()
        assert e.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as e:
        client.delete("../../../etc/passwd")
    assert e.value.status_code == 400


def test_what_comes_later_is_there(client, root):
    with pytest.raises(ollama.ResponseError):
        client.show("later:1")
    put(root, "later:1", "Be late.")
    assert "later:1" in names(client)
    assert client.chat("later:1", [{"role": "user", "content": "Hello."}], options={"num_predict": 2}).done
