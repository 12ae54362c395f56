"""Asks a GGUF file the held-out questions through llama.cpp, and compares it with the trainer's own forward pass.

    python evaluate.py ../models/ingle-tiny.gguf [--ask "What is a PEP?"] [--average]

Prints the exact-match rate by set and kind (greedy, through the chat template in the file), the perplexity of heldout.txt,
and, where BUILD/checkpoint.pt is, the largest difference between llama.cpp's logits and the trainer's.
"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from llama_cpp import Llama

HERE = Path(__file__).parent
PERPLEXITY_WINDOW = 512
ANSWER_TOKENS_MAX = 160


def ask(llm: Llama, question: str) -> str:
    reply = llm.create_chat_completion(
        [{"role": "user", "content": question}], temperature=0.0, max_tokens=ANSWER_TOKENS_MAX
    )
    return reply["choices"][0]["message"]["content"]


def logits_of(llm: Llama, ids: list[int]) -> np.ndarray:
    llm.reset()
    llm.eval(ids)
    return np.array(llm.scores[: len(ids)], dtype=np.float64)


def perplexity(llm: Llama, text: str) -> tuple[float, float]:
    """Perplexity by token, and bits by byte, over windows that share nothing; the second half of each window counts."""
    ids = llm.tokenize(text.encode(), add_bos=False, special=False)
    loss, counted, counted_bytes = 0.0, 0, 0
    for at in range(0, len(ids) - PERPLEXITY_WINDOW, PERPLEXITY_WINDOW):
        window = ids[at : at + PERPLEXITY_WINDOW]
        logits = logits_of(llm, window)
        for i in range(PERPLEXITY_WINDOW // 2, PERPLEXITY_WINDOW - 1):
            row = logits[i]
            peak = row.max()
            loss += peak + math.log(np.exp(row - peak).sum()) - row[window[i + 1]]
            counted += 1
            counted_bytes += len(llm.detokenize([window[i + 1]]))
    return math.exp(loss / counted), loss / math.log(2) / counted_bytes


def compare_with_trainer(llm: Llama, build: Path, weights: str) -> None:
    import torch
    from tokenizers import Tokenizer

    from build_data import chat_pieces
    from model import Model

    tokenizer = Tokenizer.from_file(str(build / "tokenizer.json"))
    model = Model()
    model.load_state_dict(torch.load(build / "checkpoint.pt", weights_only=True)[weights])
    texts = [
        "".join(
            text
            for text, _ in chat_pieces("Be concise.", [("Hello", "Hello!"), ("What is PEP 557 about?", "PEP 557 is")])
        ),
        (HERE / "heldout.txt").read_text(encoding="utf-8")[5000:6500],
        "naïve café — 日本語 \t\r\n  x=1234567890;  'tis don't\n\n\n",
    ]
    for text in texts:
        ids = llm.tokenize(text.encode(), add_bos=False, special=True)
        expected = tokenizer.encode(text).ids
        assert ids == expected, f"token ids differ for {text[:40]!r}: {ids[:20]} and {expected[:20]}"
        with torch.no_grad():
            trainers = model(torch.tensor([ids]))[0].double().numpy()
        theirs = logits_of(llm, ids)
        agree = (trainers.argmax(-1) == theirs.argmax(-1)).mean()
        apart = np.abs(trainers - theirs).max()
        print(f"{len(ids)} tokens: ids equal, logits differ by at most {apart:.4f}, same likeliest token {agree:.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--build", type=Path, default=HERE / "build")
    parser.add_argument("--average", action="store_true", help="the file was exported with --average")
    parser.add_argument("--ask", action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--misses", type=int, default=10, help="how many wrong answers to show")
    args = parser.parse_args()

    llm = Llama(
        str(args.model),
        n_ctx=1024,
        n_threads=args.threads,
        n_threads_batch=args.threads,
        logits_all=True,
        verbose=False,
    )
    for question in args.ask:
        print(f"Q: {question}\nA: {ask(llm, question)}\n")
    if (args.build / "checkpoint.pt").exists():
        compare_with_trainer(llm, args.build, "average" if args.average else "model")

    hits: dict[tuple[str, str], list[bool]] = defaultdict(list)
    misses = 0
    for line in open(HERE / "heldout.jsonl", encoding="utf-8"):
        row = json.loads(line)
        answer = ask(llm, row["question"])
        hits[row["set"], row["kind"]].append(answer == row["answer"])
        if answer != row["answer"] and (misses := misses + 1) <= args.misses:
            print(f"  Q: {row['question']}\n  wanted: {row['answer']}\n  got:    {answer}")
    for name in ("pair", "phrasing"):
        kinds = {kind: values for (set_name, kind), values in hits.items() if set_name == name}
        total = [hit for values in kinds.values() for hit in values]
        by_kind = ", ".join(f"{kind} {sum(values)}/{len(values)}" for kind, values in sorted(kinds.items()))
        print(f"exact match, {name}: {sum(total)}/{len(total)} = {sum(total) / len(total):.1%} ({by_kind})")
    tokens_perplexity, bits = perplexity(llm, (HERE / "heldout.txt").read_text(encoding="utf-8"))
    print(f"perplexity of heldout.txt: {tokens_perplexity:.2f} ({bits:.3f} bits a byte)")


if __name__ == "__main__":
    main()
