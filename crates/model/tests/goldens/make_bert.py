#!/usr/bin/env python3
"""Makes bert.json: hidden states and labels of tiny models of architecture bert by an independent implementation.

The forward pass below is plain numpy in float64, written from Devlin et al. (2018) and the file format's description,
and shares nothing with the Rust code. It reads the files with the `gguf` package from PyPI.

    pip install numpy gguf
    cargo run -p ingle-model --example golden_models target/goldens
    python3 crates/model/tests/goldens/make_bert.py target/goldens > crates/model/tests/goldens/bert.json
"""

import json
import math
import pathlib
import sys

import gguf
import numpy as np
from gguf.quants import dequantize

N_TOKENS, SECOND_FROM = 150, 100
erf = np.vectorize(math.erf)


def tensors(reader):
    return {t.name: np.asarray(dequantize(t.data, t.tensor_type), np.float64).reshape(t.shape[::-1]) for t in reader.tensors}


def forward(path, tokens, second_from):
    """Hidden states (n, n_embd), and the labels of the first one if there is a head."""
    reader = gguf.GGUFReader(path)
    md = {key: field.contents() for key, field in reader.fields.items()}
    w = tensors(reader)
    n_heads, eps = md["bert.attention.head_count"], md["bert.attention.layer_norm_epsilon"]

    def norm(x, stem):
        centered = x - x.mean(-1, keepdims=True)
        scaled = centered / np.sqrt((centered**2).mean(-1, keepdims=True) + eps)
        return scaled * w[stem + ".weight"] + w[stem + ".bias"]

    linear = lambda x, stem: x @ w[stem + ".weight"].T + w[stem + ".bias"]
    n = len(tokens)
    types = (np.arange(n) >= (n if second_from is None else second_from)).astype(int)
    x = norm(w["token_embd.weight"][tokens] + w["token_types.weight"][types] + w["position_embd.weight"][:n], "token_embd_norm")
    for layer in range(md["bert.block_count"]):
        blk = f"blk.{layer}."
        heads = [linear(x, blk + kind).reshape(n, n_heads, -1) for kind in ("attn_q", "attn_k", "attn_v")]
        q, k, v = heads
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(q.shape[-1])
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = norm(x + linear(np.einsum("hij,jhd->ihd", p, v).reshape(n, -1), blk + "attn_output"), blk + "attn_output_norm")
        up = linear(x, blk + "ffn_up")
        up = up * 0.5 * (1 + erf(up / math.sqrt(2)))
        x = norm(x + linear(up, blk + "ffn_down"), blk + "layer_output_norm")
    if "cls.output.weight" not in w:
        return x, []
    first = np.tanh(linear(x[0], "cls")) if "cls.weight" in w else x[0]
    return x, linear(first, "cls.output")


def main():
    numbers = lambda values: [float(f"{v:.7g}") for v in values]
    lines = []
    for path in sorted((pathlib.Path(sys.argv[1]) / "bert").glob("*.gguf")):
        n_types = gguf.GGUFReader(path).fields["tokenizer.ggml.token_type_count"].contents()
        tokens = np.random.default_rng(len(lines) + 1).integers(0, 160, N_TOKENS)
        second_from = SECOND_FROM if n_types > 1 else None
        hidden, labels = forward(path, tokens, second_from)
        golden = {
            "tokens": tokens.tolist(),
            "second_from": second_from,
            "first": numbers(hidden[0]),
            "middle": numbers(hidden[N_TOKENS // 2]),
            "last": numbers(hidden[-1]),
            "labels": numbers(labels),
        }
        lines.append(f" {json.dumps(path.stem)}: {json.dumps(golden)}")
    print("{\n" + ",\n".join(lines) + "\n}")


main()
