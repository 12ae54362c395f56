#!/usr/bin/env python3
"""Makes lora.json: log-probabilities of tiny models with adapters by an independent implementation.

Plain numpy in float64, in the terms of Hugging Face's models and of PEFT: rows of Q and K are put back into the order
that they have there, rope turns the halves of a head, and an adapter is added to each module's output, as the papers
say (Hu et al., 2021; Kalajdzievski, 2023). Nothing is shared with the Rust code, nor the order of rows and names that
GGUF has for adapters.

    pip install numpy gguf safetensors
    cargo run -p ingle-model --example golden_models target/goldens
    python3 crates/model/tests/goldens/lora.py target/goldens/lora > crates/model/tests/goldens/lora.json
"""

import json
import pathlib
import sys

import gguf
import numpy as np
from gguf.quants import dequantize
from safetensors.numpy import load_file

# Hugging Face's module of each matrix of a layer.
MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class Model:
    def __init__(self, folder):
        reader = gguf.GGUFReader(folder / "base.gguf")
        self.md = {key: field.contents() for key, field in reader.fields.items()}
        self.arch = self.md["general.architecture"]
        self.w = {
            t.name: np.asarray(dequantize(t.data, t.tensor_type), np.float64).reshape(t.shape[::-1])
            for t in reader.tensors
        }
        self.config = json.loads((folder / "adapter_config.json").read_text())
        self.lora = {k: v.astype(np.float64) for k, v in load_file(folder / "adapter_model.safetensors").items()}
        self.used = set()
        r, alpha = self.config["r"], self.config["lora_alpha"]
        self.scale = alpha / (np.sqrt(r) if self.config["use_rslora"] else r) * float((folder / "scale").read_text())

    def hp(self, key):
        return self.md[f"{self.arch}.{key}"]

    def half(self, name):
        self.used.add(name)
        return self.lora[name]

    def adapted(self, module, x):
        """What the adapter adds to a module's output for inputs x (n, n_in)."""
        path = f"base_model.model.{module}"
        if f"{path}.lora_A.weight" not in self.lora:
            return 0.0
        a, b = self.half(f"{path}.lora_A.weight"), self.half(f"{path}.lora_B.weight")
        return self.scale * (x @ a.T) @ b.T

    def rows(self, kind, values, n_heads):
        """Rows of Q and K of a llama's file, back in the order of halves."""
        if self.arch != "llama" or kind not in ("attn_q", "attn_k"):
            return values
        dim = len(values) // n_heads
        return values.reshape(n_heads, dim // 2, 2, -1).swapaxes(1, 2).reshape(values.shape)

    def linear(self, layer, kind, x, n_heads=1):
        stem = f"blk.{layer}.{kind}"
        y = x @ self.rows(kind, self.w[stem + ".weight"], n_heads).T
        if stem + ".bias" in self.w:
            y = y + self.rows(kind, self.w[stem + ".bias"], n_heads)
        return y + self.adapted(f"model.layers.{layer}.{MODULES[kind]}", x)

    def norm(self, x, name):
        eps = self.hp("attention.layer_norm_rms_epsilon")
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * self.w[name]

    def rotate(self, x):
        """x (n, heads, dim): `x * cos + rotate_half(x) * sin`."""
        n, _, dim = x.shape
        freqs = float(self.hp("rope.freq_base")) ** (-np.arange(0, dim, 2) / dim)
        angles = np.concatenate([np.outer(np.arange(n), freqs)] * 2, -1)[:, None, :]
        turned = np.concatenate([-x[..., dim // 2 :], x[..., : dim // 2]], -1)
        return x * np.cos(angles) + turned * np.sin(angles)

    def forward(self, tokens):
        n, dim = len(tokens), self.hp("attention.key_length")
        n_heads, n_kv = self.hp("attention.head_count"), self.hp("attention.head_count_kv")
        x = self.w["token_embd.weight"][tokens]
        table = "base_model.model.model.embed_tokens.lora_embedding_"
        if table + "A" in self.lora:
            x = x + self.scale * self.half(table + "A").T[tokens] @ self.half(table + "B").T
        hidden = np.triu(np.ones((n, n), bool), 1)
        for layer in range(self.hp("block_count")):
            blk = f"blk.{layer}."
            h = self.norm(x, blk + "attn_norm.weight")
            q = self.linear(layer, "attn_q", h, n_heads).reshape(n, n_heads, dim)
            k = self.linear(layer, "attn_k", h, n_kv).reshape(n, n_kv, dim)
            v = self.linear(layer, "attn_v", h).reshape(n, n_kv, dim)
            if self.arch == "qwen3":
                q, k = self.norm(q, blk + "attn_q_norm.weight"), self.norm(k, blk + "attn_k_norm.weight")
            q, k = self.rotate(q), self.rotate(k)
            k, v = (np.repeat(t, n_heads // n_kv, axis=1) for t in (k, v))
            scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(dim)
            scores[:, hidden] = -np.inf
            p = np.exp(scores - scores.max(-1, keepdims=True))
            p /= p.sum(-1, keepdims=True)
            x = x + self.linear(layer, "attn_output", np.einsum("hij,jhd->ihd", p, v).reshape(n, -1))
            h = self.norm(x, blk + "ffn_norm.weight")
            gate, up = self.linear(layer, "ffn_gate", h), self.linear(layer, "ffn_up", h)
            x = x + self.linear(layer, "ffn_down", gate / (1 + np.exp(-gate)) * up)
        h = self.norm(x, "output_norm.weight")
        head = self.w.get("output.weight", self.w["token_embd.weight"])
        logits = h @ head.T + self.adapted("lm_head", h)
        assert self.used == set(self.lora), f"unused: {set(self.lora) - self.used}"
        return logits


def main():
    out = {}
    for folder in sorted(p for p in pathlib.Path(sys.argv[1]).iterdir() if p.is_dir()):
        tokens = np.random.default_rng(len(out) + 100).integers(0, 256, 120)
        # Repeats give attention something to find at a distance.
        tokens[80:110] = tokens[20:50]
        logits = Model(folder).forward(tokens)
        logits = logits - logits.max(-1, keepdims=True)
        logits = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = logits[np.arange(len(tokens) - 1), tokens[1:]]
        out[folder.name] = {"tokens": tokens.tolist(), "log_probs": [float(f"{p:.8g}") for p in expected]}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(golden)}" for name, golden in out.items())
    print("{\n" + lines + "\n}")


main()
