"""Writes a checkpoint as a GGUF file: matrices F16, norms F32, with vocabulary and chat template.

    python export.py --out ../models/ingle-tiny.gguf [--average]

--average takes the running average of the weights, which is the better model while training still goes on.
"""

import argparse
import json
from pathlib import Path

import gguf
import torch
from tokenizers import Tokenizer

from build_data import CONTROL_TOKENS, END_OF_TEXT, IM_END
from model import Config

HERE = Path(__file__).parent
FILE_BYTES_MAX = 12_000_000
DESCRIPTION = (
    "A small model that ships with Ingle, so that chat, perplexity, quantization, speculation and constrained output can be "
    "tried offline. It knows 140 public-domain PEPs and a little Shakespeare, and should not be trusted with more."
)


def add_header(writer: gguf.GGUFWriter, config: Config) -> None:
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name("Ingle Tiny")
    writer.add_basename("ingle-tiny")
    writer.add_size_label("5M")
    writer.add_author("The Ingle project")
    writer.add_description(DESCRIPTION)
    writer.add_license("cc0-1.0")
    writer.add_languages(["en"])
    writer.add_tags(["text-generation", "pep", "shakespeare"])
    # Greedy: the answers were learned word for word, and a draw from the distribution only adds slips.
    writer.add_sampling_temp(0.0)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)

    writer.add_vocab_size(config.n_vocab)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layers)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_heads_kv)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_freq_base)
    writer.add_layer_norm_rms_eps(config.rms_eps)


def add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, template: str) -> None:
    bpe = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(bpe["vocab"], key=bpe["vocab"].get)
    assert [bpe["vocab"][token] for token in tokens] == list(range(len(tokens))), "token ids have gaps"
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in bpe["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [gguf.TokenType.CONTROL if token in CONTROL_TOKENS else gguf.TokenType.NORMAL for token in tokens]
    )
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_eos_token_id(tokenizer.token_to_id(IM_END))
    writer.add_eot_token_id(tokenizer.token_to_id(IM_END))
    writer.add_pad_token_id(tokenizer.token_to_id(END_OF_TEXT))
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(template)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=HERE / "build")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--average", action="store_true")
    args = parser.parse_args()

    state = torch.load(args.build / "checkpoint.pt", weights_only=True)
    weights = state["average" if args.average else "model"]
    writer = gguf.GGUFWriter(str(args.out), "llama")
    add_header(writer, Config())
    template = (HERE / "chat_template.jinja").read_text(encoding="utf-8").rstrip("\n")
    add_tokenizer(writer, Tokenizer.from_file(str(args.build / "tokenizer.json")), template)
    for name, tensor in weights.items():
        # The module tree was named so that this is already GGUF's name: blk.0.attn_q, output_norm, ...
        writer.add_tensor(f"{name}.weight", tensor.float().numpy().astype("float32" if tensor.ndim == 1 else "float16"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    size = args.out.stat().st_size
    assert size <= FILE_BYTES_MAX, (
        f"{args.out} has {size} bytes, more than the {FILE_BYTES_MAX} that the repository allows"
    )
    print(
        f"{args.out}: {size} bytes, step {state['step']}, {state['tokens']} tokens, {state['elapsed']:.0f} s of training"
    )


if __name__ == "__main__":
    main()
