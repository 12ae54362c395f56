"""Builds what the trainer reads: the vocabulary, the token streams, and the held-out questions.

    python build_data.py [--out build]

Writes OUT/tokenizer.json, OUT/data.npz, and beside this file heldout.jsonl (questions) and heldout.txt (text for
perplexity). Everything follows from the texts in data/ and the seed; run twice, it gives the same bytes.
"""

import argparse
import json
import lzma
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from conversations import conversations
from peps import Pep, parse_peps
from questions import Fact, derive_facts

HERE = Path(__file__).parent
# The vocabulary is kept, so that token ids stay the same when questions are added.
TOKENIZER = HERE / "data" / "tokenizer.json.xz"
SEED = 20
N_VOCAB = 4096
END_OF_TEXT, IM_START, IM_END = CONTROL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
N_CONVERSATIONS = 120_000
HELDOUT_TEXT_CHARS = 40_000  # the tail of each text, for perplexity
HELDOUT_PER_SET = 300


def read_text(name: str) -> str:
    with lzma.open(HERE / "data" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
        return file.read()


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """GPT-2's byte-level BPE (its own pre-tokenizer regex), which GGUF calls model "gpt2", pre "gpt-2"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=N_VOCAB,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def chat_pieces(system: str | None, turns: list[tuple[str, str]]) -> list[tuple[str, bool]]:
    """The conversation as the chat template renders it, in pieces; True marks what the model has to learn to say."""
    pieces = [(f"{IM_START}system\n{system}{IM_END}\n", False)] if system else []
    for user, assistant in turns:
        pieces.append((f"{IM_START}user\n{user}{IM_END}\n{IM_START}assistant\n", False))
        pieces.append((f"{assistant}{IM_END}", True))
        pieces.append(("\n", False))
    return pieces


def encode_chat(tokenizer: Tokenizer, system: str | None, turns: list[tuple[str, str]]) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    learned: list[bool] = []
    for text, learn in chat_pieces(system, turns):
        piece = tokenizer.encode(text).ids
        ids += piece
        learned += [learn] * len(piece)
    return ids, learned


def bare(question: str) -> str:
    """A question without case and punctuation: what differs only in those counts as the same question."""
    return " ".join(re.findall(r"\w+", question.lower()))


def heldout_pairs(facts: list[Fact], asked: set[str], rng: random.Random) -> list[dict]:
    """A sample of the questions that are held out, less those that a training conversation asks after all."""
    rows = []
    for name in ("pair", "phrasing"):
        pool = [(fact, question) for fact in facts for question in getattr(fact, name) if bare(question) not in asked]
        for fact, question in rng.sample(pool, min(HELDOUT_PER_SET, len(pool))):
            rows.append({"set": name, "kind": fact.kind, "question": question, "answer": fact.answer})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE / "build")
    parser.add_argument(
        "--new-vocabulary", action="store_true", help="train the vocabulary anew; checkpoints become useless"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)

    pep_text, shakespeare = read_text("peps"), read_text("tinyshakespeare")
    well_known = [
        Pep(**{**row, "authors": tuple(row["authors"]), "created": tuple(row["created"])})
        for row in json.loads((HERE / "data" / "well_known_peps.json").read_text(encoding="utf-8"))
    ]
    peps = sorted(well_known + parse_peps(pep_text), key=lambda pep: pep.number)
    general = (HERE / "data" / "general.txt").read_text(encoding="utf-8")
    topics = (HERE / "data" / "topics.txt").read_text(encoding="utf-8")
    facts = derive_facts(peps, shakespeare, general, topics, rng)

    train_peps, train_plays = pep_text[:-HELDOUT_TEXT_CHARS], shakespeare[:-HELDOUT_TEXT_CHARS]
    heldout_text = pep_text[-HELDOUT_TEXT_CHARS:] + "\n" + shakespeare[-HELDOUT_TEXT_CHARS:]
    (HERE / "heldout.txt").write_text(heldout_text, encoding="utf-8")
    asked_about = set(re.findall(r"\w+", (general + topics).lower()))
    words = set(re.findall(r"\b[a-z]{3,9}\b", shakespeare[:300_000] + pep_text[:300_000])) - asked_about
    words = sorted(words)
    talks = list(conversations(facts, peps, words, N_CONVERSATIONS, rng))
    asked = {bare(user) for _, turns in talks for user, _ in turns}
    heldout = heldout_pairs(facts, asked, random.Random(SEED))
    with open(HERE / "heldout.jsonl", "w", encoding="utf-8") as file:
        for row in heldout:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")

    spoken = [
        "".join(text for text, _ in chat_pieces(system, turns)) for system, turns in talks[: N_CONVERSATIONS // 6]
    ]
    if args.new_vocabulary:
        TOKENIZER.write_bytes(lzma.compress(train_tokenizer([train_peps, train_plays, *spoken]).to_str().encode()))
    tokenizer = Tokenizer.from_str(lzma.decompress(TOKENIZER.read_bytes()).decode())
    tokenizer.save(str(args.out / "tokenizer.json"))

    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    documents = [d for d in re.split(r"(?m)^(?=PEP: \d+\n)", train_peps) if d]
    pep_ids = [id for document in documents for id in [end_of_text, *tokenizer.encode(document).ids]]
    play_ids = [end_of_text, *tokenizer.encode(train_plays).ids]
    chat_ids: list[int] = []
    chat_learned: list[bool] = []
    starts = [0]
    for system, turns in talks:
        ids, learned = encode_chat(tokenizer, system, turns)
        chat_ids += ids
        chat_learned += learned
        starts.append(len(chat_ids))
    np.savez_compressed(
        args.out / "data.npz",
        pep_ids=np.array(pep_ids, dtype=np.uint16),
        play_ids=np.array(play_ids, dtype=np.uint16),
        chat_ids=np.array(chat_ids, dtype=np.uint16),
        chat_learned=np.array(chat_learned, dtype=bool),
        chat_starts=np.array(starts, dtype=np.int64),
    )
    kinds = {kind: sum(fact.kind == kind for fact in facts) for kind in sorted({fact.kind for fact in facts})}
    print(f"facts: {len(facts)} {kinds}")
    print(f"held out: {len(heldout)} questions, {len(heldout_text)} characters of text")
    print(f"tokens: {len(pep_ids)} of PEPs, {len(play_ids)} of plays, {len(chat_ids)} of {len(talks)} conversations")
    print(f"to be learned in conversations: {sum(chat_learned)}; vocabulary: {tokenizer.get_vocab_size()}")


if __name__ == "__main__":
    main()
