#!/usr/bin/env python3
"""Makes goldens.json: embeddings of the shipped model by llama.cpp (llama-cpp-python from PyPI), pooled over all
tokens and from the last token, both of length 1.

    pip install llama-cpp-python
    python3 crates/runtime/tests/it/embeddings/make_goldens.py > crates/runtime/tests/it/embeddings/goldens.json
"""

import json
import pathlib
import sys

import llama_cpp

ROOT = pathlib.Path(__file__).resolve().parents[4]
TEXTS = [
    "What is a PEP?",
    "a",
    "Shall I compare thee to a summer's day? Thou art more lovely and more temperate.",
    "def add(a, b):\n    return a + b\n",
    "Ünïcode: naïve café, 日本語, 🙂",
    "This document describes a new feature of Python, its processes or its environment. " * 24,
]


def model(pooling):
    path = str(ROOT / "models" / "ingle-tiny.gguf")
    options = {"n_ctx": 1024, "n_batch": 1024, "n_ubatch": 1024, "n_threads": 1, "verbose": False}
    return llama_cpp.Llama(path, embedding=True, pooling_type=pooling, flash_attn=False, type_k=0, type_v=0, **options)


def main():
    pooled = {
        "mean": model(llama_cpp.LLAMA_POOLING_TYPE_MEAN),
        "last": model(llama_cpp.LLAMA_POOLING_TYPE_LAST),
    }
    lines = []
    for text in TEXTS:
        golden = {"text": text, "tokens": pooled["last"].tokenize(text.encode(), add_bos=True, special=False)}
        for name, llm in pooled.items():
            golden[name] = [float(f"{x:.5g}") for x in llm.embed(text, normalize=True)]
        lines.append(json.dumps(golden, ensure_ascii=False))
    print("[\n" + ",\n".join(lines) + "\n]")
    print("llama-cpp-python", llama_cpp.__version__, file=sys.stderr)


main()
