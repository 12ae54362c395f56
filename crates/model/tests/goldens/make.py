#!/usr/bin/env python3
"""Makes goldens.json: log-probabilities of tiny models by an independent implementation.

The forward pass below is plain numpy in float64, written from the architectures' papers and the file format's
description, and shares nothing with the Rust code. It reads the files with the `gguf` package from PyPI. With
`--llama-cpp`, llama.cpp (llama-cpp-python from PyPI) runs the same files, and the largest difference is printed:
its rope is in float32, so some 1e-3 are expected at later positions.

    pip install numpy gguf [llama-cpp-python]
    cargo run -p ingle-model --example golden_models target/goldens
    python3 crates/model/tests/goldens/make.py target/goldens [--llama-cpp] > crates/model/tests/goldens/goldens.json

Each directory entry NAME.gguf may have a NAME.n_ctx beside it: the configured context, if it isn't the file's.
"""

import json
import pathlib
import sys

import numpy as np


def metadata(reader):
    out = {}
    for key, field in reader.fields.items():
        out[key] = field.contents()
    return out


def tensors(reader):
    from gguf.quants import dequantize

    return {t.name: np.asarray(dequantize(t.data, t.tensor_type), np.float64).reshape(t.shape[::-1]) for t in reader.tensors}


def rope_frequencies(md, arch, n_rot, n_ctx, weights):
    """Radians per position of each pair, and the factor on sine and cosine."""
    base = md.get(f"{arch}.rope.freq_base", 10000.0)
    freqs = float(base) ** (-np.arange(0, n_rot, 2) / n_rot)
    scaling = lambda key, default: md.get(f"{arch}.rope.scaling.{key}", default)
    kind = scaling("type", "none")
    factor = float(scaling("factor", 1.0))
    original = scaling("original_context_length", md[f"{arch}.context_length"])
    magnitude = float(scaling("attn_factor", 1.0))
    if kind == "longrope":
        freqs = freqs / weights["rope_factors_long.weight" if n_ctx > original else "rope_factors_short.weight"]
    elif "rope_freqs.weight" in weights:
        freqs = freqs / weights["rope_freqs.weight"]
    if kind == "linear":
        freqs = freqs / factor
    if kind == "yarn":
        # Peng et al., 2023: pairs by how often they turn over the original context.
        fast, slow = scaling("yarn_beta_fast", 32.0), scaling("yarn_beta_slow", 1.0)
        dim = lambda rotations: n_rot * np.log(original / (rotations * 2 * np.pi)) / (2 * np.log(base))
        low, high = max(np.floor(dim(fast)), 0), min(np.ceil(dim(slow)), n_rot - 1)
        interpolated = np.clip((np.arange(n_rot // 2) - low) / max(high - low, 0.001), 0, 1)
        freqs = freqs / factor * interpolated + freqs * (1 - interpolated)
        magnitude *= 1 + 0.1 * np.log(factor)
    return freqs, magnitude


def rotate(x, freqs, magnitude, neighbours):
    """x: (n, heads, dim)"""
    n, n_rot = x.shape[0], 2 * len(freqs)
    angles = np.arange(n)[:, None, None] * freqs
    cos, sin = np.cos(angles) * magnitude, np.sin(angles) * magnitude
    out = x.copy()
    first = slice(0, n_rot, 2) if neighbours else slice(0, n_rot // 2)
    second = slice(1, n_rot, 2) if neighbours else slice(n_rot // 2, n_rot)
    a, b = x[..., first], x[..., second]
    out[..., first], out[..., second] = a * cos - b * sin, a * sin + b * cos
    return out


def forward(path, tokens, n_ctx):
    import gguf

    reader = gguf.GGUFReader(path)
    md, w = metadata(reader), tensors(reader)
    arch = md["general.architecture"]
    hp = lambda key, default=None: md.get(f"{arch}.{key}", default)
    n_heads, n_kv = hp("attention.head_count"), hp("attention.head_count_kv")
    dim, eps = hp("attention.key_length"), hp("attention.layer_norm_rms_epsilon")
    scale = hp("attention.scale") or 1 / np.sqrt(dim)
    window = hp("attention.sliding_window") if arch == "llama" else None
    n_rot = hp("rope.dimension_count", dim)
    freqs, magnitude = rope_frequencies(md, arch, n_rot, n_ctx or hp("context_length"), w)
    norm = lambda x, name: x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[name]
    linear = lambda x, stem: x @ w[stem + ".weight"].T + w.get(stem + ".bias", 0.0)

    n = len(tokens)
    row, col = np.arange(n)[:, None], np.arange(n)[None, :]
    hidden = (col > row) | (col <= row - window if window else False)
    x = w["token_embd.weight"][tokens]
    for layer in range(hp("block_count")):
        blk = f"blk.{layer}."
        h = norm(x, blk + "attn_norm.weight")
        q = linear(h, blk + "attn_q").reshape(n, n_heads, dim)
        k = linear(h, blk + "attn_k").reshape(n, n_kv, dim)
        v = linear(h, blk + "attn_v").reshape(n, n_kv, -1)
        if arch == "qwen3":
            q, k = norm(q, blk + "attn_q_norm.weight"), norm(k, blk + "attn_k_norm.weight")
        q, k = (rotate(t, freqs, magnitude, neighbours=arch == "llama") for t in (q, k))
        k, v = (np.repeat(t, n_heads // n_kv, axis=1) for t in (k, v))
        scores = np.einsum("ihd,jhd->hij", q, k) * scale
        scores[:, hidden] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        x = x + linear(np.einsum("hij,jhd->ihd", p, v).reshape(n, -1), blk + "attn_output")
        h = norm(x, blk + "ffn_norm.weight")
        gate = linear(h, blk + "ffn_gate")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, blk + "ffn_up"), blk + "ffn_down")
    head = w.get("output.weight", w["token_embd.weight"])
    return norm(x, "output_norm.weight") @ head.T


def log_probs(logits, tokens):
    logits = logits - logits.max(-1, keepdims=True)
    logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits[np.arange(len(tokens) - 1), tokens[1:]]


def llama_cpp(path, tokens, n_ctx):
    from llama_cpp import Llama

    llm = Llama(str(path), n_ctx=n_ctx or 0, logits_all=True, verbose=False, type_k=0, type_v=0, n_threads=1, flash_attn=False)
    llm.eval(list(map(int, tokens)))
    return np.asarray(llm.scores[: len(tokens)], np.float64)


def main():
    folder = pathlib.Path(sys.argv[1])
    out = {}
    for path in sorted(folder.glob("*.gguf")):
        rng = np.random.default_rng(len(out) + 1)
        n_ctx_file = path.with_suffix(".n_ctx")
        n_ctx = int(n_ctx_file.read_text()) if n_ctx_file.exists() else None
        tokens = rng.integers(0, 256, 200)
        # Repeats give attention something to find at a distance.
        tokens[120:160] = tokens[20:60]
        expected = log_probs(forward(path, tokens, n_ctx), tokens)
        if "--llama-cpp" in sys.argv:
            found = log_probs(llama_cpp(path, tokens, n_ctx), tokens)
            print(f"{path.stem}: differs from llama.cpp by {np.abs(found - expected).max():.1e}", file=sys.stderr)
        out[path.stem] = {"n_ctx": n_ctx, "tokens": tokens.tolist(), "log_probs": [float(f"{p:.8g}") for p in expected]}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(golden)}" for name, golden in out.items())
    print("{\n" + lines + "\n}")


main()
