"""Ingle Tiny: a Llama-shaped decoder, written so that its tensors are those of a GGUF file of architecture "llama"."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Config:
    n_vocab: int = 4096
    n_ctx: int = 1024
    n_layers: int = 5
    n_embd: int = 256
    n_ff: int = 768
    n_heads: int = 4
    n_heads_kv: int = 2
    head_dim: int = 64
    rope_freq_base: float = 10_000.0
    rms_eps: float = 1e-5


def rope_table(config: Config, n_tokens: int) -> tuple[Tensor, Tensor]:
    """cos and sin, each (n_tokens, 1, head_dim / 2)"""
    half = config.head_dim // 2
    frequency = config.rope_freq_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(n_tokens, dtype=torch.float64)[:, None, None] * frequency
    return angle.cos().float(), angle.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """RoPE on consecutive pairs (2i, 2i+1): GGUF's NORM form, so the export permutes nothing. x: (batch, time, heads, head_dim)"""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).to(x.dtype)


class Block(nn.Module):
    def __init__(self, config: Config):
        super().__init__()
        self.config = config
        width, n_q, n_kv = config.n_embd, config.n_heads * config.head_dim, config.n_heads_kv * config.head_dim
        self.attn_norm = nn.Parameter(torch.ones(width))
        self.attn_q = nn.Parameter(torch.empty(n_q, width))
        self.attn_k = nn.Parameter(torch.empty(n_kv, width))
        self.attn_v = nn.Parameter(torch.empty(n_kv, width))
        self.attn_output = nn.Parameter(torch.zeros(width, n_q))
        self.ffn_norm = nn.Parameter(torch.ones(width))
        self.ffn_gate = nn.Parameter(torch.empty(config.n_ff, width))
        self.ffn_up = nn.Parameter(torch.empty(config.n_ff, width))
        self.ffn_down = nn.Parameter(torch.zeros(width, config.n_ff))
        for matrix in (self.attn_q, self.attn_k, self.attn_v, self.ffn_gate, self.ffn_up):
            nn.init.normal_(matrix, std=width**-0.5)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """x: (batch, time, n_embd); mask: (batch, 1, time, time), 0 where a token may look and -inf where it may not"""
        c = self.config
        batch, time, _ = x.shape
        h = F.rms_norm(x, (c.n_embd,), self.attn_norm, c.rms_eps)
        q = F.linear(h, self.attn_q).view(batch, time, c.n_heads, c.head_dim)
        k = F.linear(h, self.attn_k).view(batch, time, c.n_heads_kv, c.head_dim)
        v = F.linear(h, self.attn_v).view(batch, time, c.n_heads_kv, c.head_dim)
        group = c.n_heads // c.n_heads_kv
        q = rotate(q, cos, sin).transpose(1, 2)
        k = rotate(k, cos, sin).transpose(1, 2).repeat_interleave(group, 1)
        v = v.transpose(1, 2).repeat_interleave(group, 1)
        # Written out: on a CPU this is faster than the fused kernel at these lengths, and masks cost nothing more.
        scores = q @ k.transpose(-1, -2) * c.head_dim**-0.5 + mask
        attended = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype) @ v
        x = x + F.linear(attended.transpose(1, 2).reshape(batch, time, -1), self.attn_output)
        h = F.rms_norm(x, (c.n_embd,), self.ffn_norm, c.rms_eps)
        return x + F.linear(F.silu(F.linear(h, self.ffn_gate)) * F.linear(h, self.ffn_up), self.ffn_down)


class Model(nn.Module):
    def __init__(self, config: Config = Config()):
        super().__init__()
        self.config = config
        self.token_embd = nn.Parameter(torch.empty(config.n_vocab, config.n_embd))  # also the output matrix
        self.blk = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.output_norm = nn.Parameter(torch.ones(config.n_embd))
        nn.init.normal_(self.token_embd, std=0.02)

    def hidden(self, ids: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """(batch, time) token ids to (batch, time, n_embd), normed and ready for the output matrix"""
        x = F.embedding(ids, self.token_embd)
        for block in self.blk:
            x = block(x, cos, sin, mask)
        return F.rms_norm(x, (self.config.n_embd,), self.output_norm, self.config.rms_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, time, n_vocab), every token seeing all before it."""
        cos, sin = rope_table(self.config, ids.shape[1])
        return F.linear(self.hidden(ids, cos, sin, causal_mask(ids.shape[1])), self.token_embd)


def causal_mask(time: int) -> Tensor:
    return torch.full((time, time), float("-inf")).triu(1)[None, None]
