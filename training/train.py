"""Trains Ingle Tiny on a CPU for a given time, and can be stopped and started again at any moment.

    python train.py --minutes 60 [--threads 1] [--compile]

Reads BUILD/data.npz and BUILD/tokenizer.json (build_data.py), writes BUILD/checkpoint.pt every few minutes and at the
end; a checkpoint that is there is continued. A step is one batch of rows, conversations and plain text. The learning rate
follows the share of the time that has passed, so the schedule ends when the time does.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

from build_data import chat_pieces
from model import Config, Model, rope_table

HERE = Path(__file__).parent
# Until this share of the time: tokens a row, and the share of rows that are conversations. Short rows are quicker, and the
# last ones teach the full context; facts are learned first, then the texts get more room, until they begin to be learned by heart.
PHASES = [(0.45, 512, 2 / 3), (0.8, 512, 5 / 12), (1.0, 1024, 2 / 3)]
ROW_TOKENS = 6144  # tokens a step
OPEN_ROW_SHARE = 0.3  # chat rows in which a conversation sees those before it, as in one long talk
MUON_LR, MUON_MOMENTUM, ADAM_LR, WEIGHT_DECAY = 0.02, 0.95, 3e-3, 0.02
WARMUP_STEPS, DECAY_FROM = 40, 0.4
AVERAGE_EVERY, AVERAGE_KEEP = 10, 0.9  # an average of the weights, for a usable model before the end
PACK_LOOKAHEAD = 24
CHECKPOINT_EVERY_S, REPORT_EVERY_S = 180, 20


class Rows:
    """Fills batches: whole conversations packed into rows, and windows of the texts."""

    def __init__(self, path: Path, seed: int):
        data = np.load(path)
        self.texts = [data["pep_ids"].astype(np.int64), data["play_ids"].astype(np.int64)]
        self.chat_ids, self.learned = data["chat_ids"].astype(np.int64), data["chat_learned"]
        self.starts = data["chat_starts"]
        self.rng = np.random.default_rng(seed)
        self.deck: list[int] = []

    def deal(self, room: int) -> int | None:
        """The next conversation that fits into `room` tokens, looking only a little way ahead."""
        if len(self.deck) < PACK_LOOKAHEAD:
            self.deck += self.rng.permutation(len(self.starts) - 1).tolist()
        for i in range(PACK_LOOKAHEAD):
            chat = self.deck[-1 - i]
            if self.starts[chat + 1] - self.starts[chat] <= room:
                return self.deck.pop(-1 - i)
        return None

    def batch(self, n_tokens: int, n_chat: int) -> tuple[Tensor, Tensor, Tensor]:
        """The first n_chat rows are conversations. ids (rows, n_tokens); targets likewise, -100 where nothing is
        learned; additive mask (rows, 1, n_tokens, n_tokens)"""
        n_rows = ROW_TOKENS // n_tokens
        ids = np.zeros((n_rows, n_tokens), dtype=np.int64)
        targets = np.full((n_rows, n_tokens), -100, dtype=np.int64)
        segments = np.zeros((n_rows, n_tokens), dtype=np.int64)
        for row in range(n_rows):
            if row < n_chat:
                self.fill_chat(ids[row], targets[row], segments[row])
                if self.rng.random() < OPEN_ROW_SHARE:
                    segments[row] = 0
            else:
                # Twice as many tokens of PEPs as of plays, about the ratio of the texts.
                text = self.texts[int(self.rng.random() < 1 / 3)]
                at = self.rng.integers(len(text) - n_tokens)
                ids[row], targets[row] = text[at : at + n_tokens], text[at + 1 : at + 1 + n_tokens]
        position = np.arange(n_tokens)
        visible = (segments[:, :, None] == segments[:, None, :]) & (position[:, None] >= position[None, :])
        mask = torch.zeros(visible.shape, dtype=torch.bfloat16)
        mask.masked_fill_(~torch.from_numpy(visible), float("-inf"))
        return torch.from_numpy(ids), torch.from_numpy(targets), mask[:, None]

    def fill_chat(self, ids: np.ndarray, targets: np.ndarray, segments: np.ndarray) -> None:
        used = 0
        segment = 1
        while (chat := self.deal(len(ids) - used)) is not None:
            first, end = self.starts[chat], self.starts[chat + 1]
            length = end - first
            ids[used : used + length] = self.chat_ids[first:end]
            targets[used : used + length - 1] = np.where(
                self.learned[first + 1 : end], self.chat_ids[first + 1 : end], -100
            )
            segments[used : used + length] = segment
            used += length
            segment += 1


def orthogonalize(g: Tensor) -> Tensor:
    """Pushes the singular values of each matrix of the stack (n, rows >= cols, cols) toward 1, by a quintic Newton-Schulz
    iteration (the Muon optimizer, Jordan et al. 2024)."""
    x = g.mT.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT.float()


class Muon(torch.optim.Optimizer):
    """Momentum whose update is orthogonalized; matrices of one shape are treated as one stack."""

    def __init__(self, matrices: list[Tensor], lr: float):
        super().__init__([{"params": matrices}], {"lr": lr})

    @torch.no_grad()
    def step(self) -> None:
        lr = self.param_groups[0]["lr"]
        stacks: dict[tuple[int, int], list[Tensor]] = {}
        for p in self.param_groups[0]["params"]:
            stacks.setdefault((max(p.shape), min(p.shape)), []).append(p)
        for (rows, _), matrices in stacks.items():
            updates = []
            for p in matrices:
                momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
                momentum.lerp_(p.grad, 1 - MUON_MOMENTUM)
                update = p.grad.lerp(momentum, MUON_MOMENTUM)
                updates.append(update if p.shape[0] == rows else update.mT)
            for p, update in zip(matrices, orthogonalize(torch.stack(updates))):
                scale = max(1, p.shape[0] / p.shape[1]) ** 0.5
                p.mul_(1 - lr * WEIGHT_DECAY).add_(update if p.shape[0] == rows else update.mT, alpha=-lr * scale)


def learning_rate_factor(step: int, progress: float) -> float:
    return min(1.0, (step + 1) / WARMUP_STEPS, (1.0 - progress) / (1.0 - DECAY_FROM))


@torch.no_grad()
def exact_match(model: Model, tokenizer: Tokenizer, rows: list[dict]) -> dict[str, float]:
    """The share of held-out questions answered exactly by greedy decoding.

    Greedy decoding gives the answer if and only if each of its tokens is the likeliest after those before it, so one pass
    over question and answer tells.
    """
    hits: dict[str, list[bool]] = {}
    for row in rows:
        pieces = chat_pieces(None, [(row["question"], row["answer"])])[:2]
        prompt, answer = (tokenizer.encode(text).ids for text, _ in pieces)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(torch.tensor([prompt + answer[:-1]]))
        said = logits[0, len(prompt) - 1 :].argmax(-1).tolist()
        hits.setdefault(row["set"], []).append(said == answer)
    return {name: sum(values) / len(values) for name, values in hits.items()}


def save(path: Path, state: dict) -> None:
    """Writes beside the file and renames, so that a kill leaves the old checkpoint or the new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", type=Path, default=HERE / "build")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="needs a C++ compiler; about a quarter faster")
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(str(args.build / "tokenizer.json"))
    heldout = [json.loads(line) for line in open(HERE / "heldout.jsonl", encoding="utf-8")][::3]
    config = Config()
    model = Model(config)
    matrices = [p for block in model.blk for p in block.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is m for m in matrices)]
    muon = Muon(matrices, MUON_LR)
    adam = torch.optim.AdamW(others, ADAM_LR, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    average = {name: p.detach().clone() for name, p in model.named_parameters()}
    step, elapsed, tokens = 0, 0.0, 0

    checkpoint = args.build / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        muon.load_state_dict(state["muon"])
        adam.load_state_dict(state["adam"])
        average, step, elapsed, tokens = state["average"], state["step"], state["elapsed"], state["tokens"]
    rows = Rows(args.build / "data.npz", args.seed * 1_000_003 + step)
    hidden = torch.compile(model.hidden, dynamic=False) if args.compile else model.hidden
    tables = {n: rope_table(config, n) for _, n, _ in PHASES}
    print(f"{sum(p.numel() for p in model.parameters())} parameters; starting at step {step}", flush=True)

    total = args.minutes * 60
    last = reported = saved = time.monotonic()
    seen = {"chat": [0.0, 0], "text": [0.0, 0], "tokens": 0}
    while elapsed < total:
        progress = elapsed / total
        n_tokens, chat_share = next((n, share) for until, n, share in PHASES if progress < until)
        n_chat = round(ROW_TOKENS // n_tokens * chat_share)
        ids, targets, mask = rows.batch(n_tokens, n_chat)
        factor = learning_rate_factor(step, progress)
        muon.param_groups[0]["lr"] = MUON_LR * factor
        adam.param_groups[0]["lr"] = ADAM_LR * factor

        with torch.autocast("cpu", torch.bfloat16):
            h = hidden(ids, *tables[n_tokens], mask)
            wanted = targets != -100
            logits = F.linear(h[wanted], model.token_embd)
        losses = F.cross_entropy(logits.float(), targets[wanted], reduction="none")
        losses.mean().backward()
        muon.step()
        adam.step()
        muon.zero_grad()
        adam.zero_grad()
        step += 1
        if step % AVERAGE_EVERY == 0:
            keep = min(AVERAGE_KEEP, step / (step + 50))
            for name, p in model.named_parameters():
                average[name].lerp_(p.detach(), 1 - keep)

        n_learned = wanted[:n_chat].sum().item()
        for name, part in (("chat", losses.detach()[:n_learned]), ("text", losses.detach()[n_learned:])):
            seen[name][0] += part.sum().item()
            seen[name][1] += len(part)
        seen["tokens"] += ids.numel()
        tokens += ids.numel()
        now = time.monotonic()
        elapsed += now - last
        last = now
        if not math.isfinite(seen["chat"][0]):
            raise SystemExit(f"the loss is no longer a number at step {step}: start again from the last checkpoint")
        if now - reported > REPORT_EVERY_S:
            chat, text = (seen[name][0] / max(1, seen[name][1]) for name in ("chat", "text"))
            speed = seen["tokens"] / (now - reported)
            losses_now = f"chat {chat:.3f} text {text:.3f}"
            print(
                f"step {step} {elapsed:.0f}s {progress:.0%} {losses_now} lr {factor:.2f} {speed:.0f} tok/s", flush=True
            )
            reported, seen = now, {"chat": [0.0, 0], "text": [0.0, 0], "tokens": 0}
        if now - saved > CHECKPOINT_EVERY_S or elapsed >= total:
            state = {
                "model": model.state_dict(),
                "average": average,
                "muon": muon.state_dict(),
                "adam": adam.state_dict(),
            }
            save(checkpoint, state | {"step": step, "elapsed": elapsed, "tokens": tokens})
            current = {name: p.detach().clone() for name, p in model.named_parameters()}
            model.load_state_dict(average)
            print(f"step {step} exact match {exact_match(model, tokenizer, heldout)}", flush=True)
            model.load_state_dict(current)
            saved = time.monotonic()


if __name__ == "__main__":
    main()
