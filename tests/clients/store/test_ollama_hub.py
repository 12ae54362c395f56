"""The ollama package pulls from the hub of the tests through the server, pushes to it, and makes models of what is there."""

import json
import math
import os
import random
import struct
import subprocess

import ollama
import pytest

from hub import WEIGHTS, sha256
from serving import BINARY

DIGEST = f"sha256:{sha256(WEIGHTS)}"
SIZE = WEIGHTS.stat().st_size


def names(client):
    return [model.model for model in client.list().models]


def test_a_pull_tells_its_steps(client, hub):
    name = f"{hub.registry}/team/tiny:v1"
    lines = list(client.pull(name, stream=True))
    assert lines[0].status == "pulling manifest"
    assert [line.status for line in lines[-3:]] == ["verifying sha256 digest", "writing manifest", "success"]
    weights = [line for line in lines if line.digest == DIGEST]
    assert weights and all(line.status == f"pulling {DIGEST[7:19]}" and line.total == SIZE for line in weights)
    counts = [line.completed or 0 for line in weights]
    assert counts == sorted(counts) and counts[-1] == SIZE
    assert name in names(client)
    # Once more: nothing is fetched, and the end is the same.
    hub.requests()
    lines = list(client.pull(name, stream=True))
    assert (lines[0].status, lines[-1].status) == ("pulling manifest", "success")
    assert not [line for line in hub.requests() if "/blobs/" in line]
    assert client.pull(name).status == "success"


def test_a_pull_of_a_hubs_repository(client):
    name = "hf.co/maker/tiny-GGUF:Q4_K_M"
    assert client.pull(name).status == "success"
    assert name in names(client)
    shown = client.show(name)
    assert shown.license == "MIT" and shown.details.family == "llama"


@pytest.mark.parametrize(
    ("name", "part", "status"),
    [
        ("{registry}/team/absent:v1", "absent", 404),
        ("hf.co/maker/absent", "absent", 404),
        ("hf.co/maker/tiny-GGUF:Q8_0", "Q4_K_M", 404),
        ("/etc/passwd.gguf", "path", 400),
        ("../x", "name", 400),
    ],
)
def test_what_cannot_be_pulled(client, hub, name, part, status):
    name = name.format(registry=hub.registry)
    with pytest.raises(ollama.ResponseError, match=part) as whole:
        client.pull(name)
    assert whole.value.status_code == status
    # In lines, what fails after the first one is a line, too.
    with pytest.raises(ollama.ResponseError, match=part):
        list(client.pull(name, stream=True))


def test_a_registry_that_is_busy_is_asked_again(client, hub):
    name = f"{hub.registry}/team/tiny:v1"
    client.delete(name)
    with hub.fault("/v2/team/tiny/manifests 0 1 status 429"):
        assert client.pull(name).status == "success"
    with hub.fault("/v2/team/tiny/manifests 0 99 status 403"):
        with pytest.raises(ollama.ResponseError, match="403|denied|login"):
            client.pull(name)


def test_a_pull_that_is_cut_goes_on_where_it_was(client, hub):
    name = f"{hub.registry}/team/tiny:v1"
    client.delete(name)
    client.delete("hf.co/maker/tiny-GGUF:Q4_K_M")
    hub.requests()
    # Before the weights come the header, for what is to be expected of the model, and its small description.
    with hub.fault("GET%20/blobs/ 0 3 cut 3000000"):
        assert client.pull(name).status == "success"
    ranges = [line.split("bytes=")[1] for line in hub.requests() if line.startswith("GET /blobs/") and "bytes=" in line]
    starts = [int(text.split("-")[0]) for text in ranges]
    assert 3_000_000 in starts, ranges
    assert client.generate(name, "Once", options={"num_predict": 2}).done


def test_wrong_bytes_are_no_model(client, hub):
    name = f"{hub.registry}/team/tiny:v1"
    client.delete(name)
    with hub.fault("GET%20/blobs/ 0 99 bits"):
        with pytest.raises(ollama.ResponseError, match="sha256|digest|content"):
            client.pull(name)
    assert name not in names(client)
    assert client.pull(name).status == "success"


def test_there_and_back(client, hub):
    source, pushed = f"{hub.registry}/team/tiny:v1", f"{hub.registry}/team/pushed:v2"
    client.pull(source)
    client.create(pushed, from_=source, system="Be brief.", license="MIT")
    lines = list(client.push(pushed, stream=True))
    assert (lines[0].status, lines[-1].status) == ("retrieving manifest", "success")
    assert [line for line in lines if line.status == "pushing manifest"]
    assert [line for line in lines if line.digest == DIGEST and line.total == SIZE]
    client.delete(pushed)
    assert client.pull(pushed).status == "success"
    shown = client.show(pushed)
    assert shown.license == "MIT" and "Be brief." in shown.modelfile
    with pytest.raises(ollama.ResponseError) as error:
        client.push(f"{hub.registry}/team/nobody:v1")
    assert error.value.status_code == 404


def test_a_model_that_is_missing_is_pulled_to_make_another(client, hub):
    base = f"{hub.registry}/team/base:v1"
    assert base not in names(client)
    lines = [line.status for line in client.create("upon-base", from_=base, system="Be brief.", stream=True)]
    assert lines[0] == "pulling manifest" and lines[-1] == "success"
    assert lines.index("writing manifest") < lines.index("success")
    assert {base, "upon-base:latest"} <= set(names(client))
    with pytest.raises(ollama.ResponseError, match="cannot be pulled") as error:
        client.create("upon-nothing", from_=f"{hub.registry}/team/absent:v1")
    assert error.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="cannot be pulled"):
        list(client.create("upon-nothing", from_=f"{hub.registry}/team/absent:v1", stream=True))


def test_list_show_copy_ps_and_delete(client, hub):
    name = f"{hub.registry}/team/tiny:v1"
    [entry] = [model for model in client.list().models if model.model == name]
    assert len(entry.digest) == 64 and entry.size > SIZE and entry.modified_at
    assert (entry.details.format, entry.details.family) == ("gguf", "llama")
    shown = client.show(name)
    assert shown.modelinfo["general.architecture"] == "llama" and "completion" in shown.capabilities
    assert client.copy(name, "copied").status == "success"
    client.generate("copied", "Once", options={"num_predict": 1})
    [loaded] = [model for model in client.ps().models if model.model == "copied:latest"]
    assert loaded.size > 0 and loaded.expires_at and loaded.context_length
    assert client.delete("copied").status == "success"
    assert "copied:latest" not in names(client) and name in names(client)


def safetensors(tensors):
    """A file of this format: names, shapes, and numbers."""
    header, data = {}, b""
    for name, (shape, numbers) in tensors.items():
        assert math.prod(shape) == len(numbers), name
        piece = struct.pack(f"<{len(numbers)}f", *numbers)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + len(piece)]}
        data += piece
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def numbers(n, seed, scale=1.0):
    source = random.Random(seed)
    return [scale * source.gauss(0, 1) for _ in range(n)]


def adapter(width, rank=4):
    """An adapter as PEFT saves one, of the first layer's output matrix."""
    path = "base_model.model.model.layers.0.self_attn.o_proj"
    tensors = {f"{path}.lora_A.weight": ([rank, width], numbers(rank * width, 1, 0.2)),
               f"{path}.lora_B.weight": ([width, rank], numbers(width * rank, 2, 2.0))}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": 16, "bias": "none", "target_modules": ["o_proj"]}
    return {"adapter_config.json": json.dumps(config).encode(), "adapter_model.safetensors": safetensors(tensors)}


def sent(client, folder, files):
    """The digests of files, once they are on the server."""
    digests = {}
    for name, content in files.items():
        path = folder / name.replace("/", "_")
        path.write_bytes(content)
        digests[name] = client.create_blob(path)
    return digests


def test_adapters_as_peft_saves_them(client, hub, ingle, tmp_path):
    base = f"{hub.registry}/team/tiny:v1"
    info = client.show(base).modelinfo
    heads, width = info["llama.attention.head_count"], info["llama.embedding_length"]
    assert info.get("llama.attention.key_length", width // heads) * heads == width, "the matrix is square"
    files = adapter(width)
    lines = [line.status for line in client.create("adapted", from_=base, adapters=sent(client, tmp_path, files), stream=True)]
    assert "converting adapter" in lines and lines[-1] == "success"
    answer = lambda name: client.generate(name, "Once upon", raw=True, options={"num_predict": 8, "temperature": 0}).response
    assert answer("adapted") != answer(base)
    # The command does the same with the folder, and the file in it.
    folder = tmp_path / "peft"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    for at in ["./peft", "./peft/adapter_model.safetensors"]:
        (tmp_path / "Modelfile").write_text(f"ADAPTER {at}\nFROM {WEIGHTS}\n")
        assert "converting adapter" in ingle("create", "adapted", "-f", tmp_path / "Modelfile")
        ask = ("run", "--prompt", "Once upon", "--raw", "-n", "8", "--temp", "0", "--model")
        assert ingle(*ask, "adapted") != ingle(*ask, WEIGHTS)
    # One that is for another model, and half of one.
    with pytest.raises(ollama.ResponseError, match="the adapter is for another model"):
        client.create("wrong", from_=base, adapters=sent(client, tmp_path, adapter(2 * width)))
    del files["adapter_config.json"]
    with pytest.raises(ollama.ResponseError, match="adapter_config.json") as error:
        client.create("wrong", from_=base, adapters=sent(client, tmp_path, files))
    assert str(tmp_path) not in error.value.error and "/tmp" not in error.value.error


def bert():
    """A tiny embedder, as Hugging Face's libraries save one."""
    width, inner, words = 8, 16, ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "world"]
    config = {"architectures": ["BertModel"], "model_type": "bert", "vocab_size": len(words), "hidden_size": width,
              "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": inner, "max_position_embeddings": 512,
              "type_vocab_size": 2, "layer_norm_eps": 1e-12, "hidden_act": "gelu", "position_embedding_type": "absolute"}
    shapes = {"embeddings.word_embeddings.weight": [len(words), width],
              "embeddings.position_embeddings.weight": [512, width],
              "embeddings.token_type_embeddings.weight": [2, width],
              "embeddings.LayerNorm.weight": [width], "embeddings.LayerNorm.bias": [width]}
    layer = "encoder.layer.0."
    for name, (n_out, n_in) in {"attention.self.query": (width, width), "attention.self.key": (width, width),
                                "attention.self.value": (width, width), "attention.output.dense": (width, width),
                                "intermediate.dense": (inner, width), "output.dense": (width, inner)}.items():
        shapes[f"{layer}{name}.weight"], shapes[f"{layer}{name}.bias"] = [n_out, n_in], [n_out]
    for name in ["attention.output.LayerNorm", "output.LayerNorm"]:
        shapes[f"{layer}{name}.weight"] = shapes[f"{layer}{name}.bias"] = [width]
    tensors = {name: (shape, numbers(math.prod(shape), i)) for i, (name, shape) in enumerate(shapes.items())}
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    modules = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
               {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}]
    return {"config.json": json.dumps(config).encode(), "model.safetensors": safetensors(tensors),
            "vocab.txt": "\n".join(words).encode(), "modules.json": json.dumps(modules).encode(),
            "1_Pooling/config.json": json.dumps(pooling).encode(),
            "tokenizer_config.json": json.dumps({"do_lower_case": True}).encode()}


def test_folders_of_safetensors(client, ingle, tmp_path):
    files = bert()
    lines = [line.status for line in client.create("embedder", files=sent(client, tmp_path, files), stream=True)]
    assert "converting model" in lines and lines[-1] == "success"
    [vector] = client.embed("embedder", "hello world").embeddings
    assert len(vector) == 8 and math.isclose(sum(x * x for x in vector), 1, rel_tol=1e-4)
    folder = tmp_path / "bert"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (tmp_path / "Modelfile").write_text("FROM ./bert\n")
    assert "converting model" in ingle("create", "embedder", "-f", tmp_path / "Modelfile")
    # Another architecture is refused by its name, over HTTP and on the command line.
    config = json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}).encode()
    (folder / "config.json").write_bytes(config)
    assert "LlamaForCausalLM" in ingle("create", "other", "-f", tmp_path / "Modelfile", fails=True)
    with pytest.raises(ollama.ResponseError, match="LlamaForCausalLM"):
        client.create("other", files=sent(client, tmp_path, {**files, "config.json": config}))


def test_what_is_shown_makes_the_same_model(hub, ingle, tmp_path):
    name = f"{hub.registry}/team/tiny:v1"
    # Nobody is asked where there is no terminal: without --yes nothing is fetched.
    (tmp_path / "Modelfile").write_text(f"FROM {name}\nSYSTEM Be brief.\nPARAMETER stop END\nREQUIRES 0.5.0\n")
    assert "--yes" in ingle("create", "mine", "-f", tmp_path / "Modelfile", fails=True)
    ingle("create", "mine", "--yes", "-f", tmp_path / "Modelfile")
    shown = ingle("show", "mine", "--modelfile")
    assert "REQUIRES 0.5.0" in shown
    ingle("create", "again", "-f", "-", stdin=shown)
    assert ingle("show", "again", "--modelfile") == shown
    digests = {model["name"]: model["digest"] for model in json.loads(ingle("list", "--json"))["models"]}
    assert len(digests) == 3
    assert "not quantized" in ingle("create", "small", "-q", "q4_K_M", "-f", tmp_path / "Modelfile", fails=True)


def test_uploads(client, tmp_path):
    path = tmp_path / "blob"
    path.write_bytes(os.urandom(3_000_000))
    assert client.create_blob(path) == f"sha256:{sha256(path)}"
    with pytest.raises(ollama.ResponseError, match="send it first|not here"):
        client.create("x", files={"a.gguf": "sha256:" + "0" * 64})
    with pytest.raises(ollama.ResponseError, match="GGUF"):
        client.create("x", files={"a.gguf": f"sha256:{sha256(path)}"})
    with pytest.raises(ollama.ResponseError, match="quantiz"):
        client.create("x", files={"a.gguf": f"sha256:{sha256(path)}"}, quantize="q4_K_M")


def test_nodes_fetch_from_each_other(address, client, environment, tmp_path):
    name = "hf.co/maker/tiny-GGUF:Q4_K_M"
    client.pull(name)
    run = subprocess.run([BINARY, "pull", "--json", "--peer", address, name], env=environment(tmp_path),
                         capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1])["from_peers"] >= SIZE
