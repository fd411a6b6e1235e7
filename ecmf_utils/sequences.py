"""The networks of the field for frame-level sequences, re-implemented from their papers.

Branches come as (N, T, D), the frames of each clip averaged in T equal spans of time, so that all
branches have the same steps (the papers align theirs by words); a vector (N, D) is a sequence of one step.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn


def steps(x: Tensor) -> Tensor:
    """A branch as (N, T, D)."""
    return x if x.ndim == 3 else x.unsqueeze(1)


class EarlyLstm(nn.Module):
    """EF-LSTM: all branches side by side at every step, one LSTM over the steps, its last state.

    The early-fusion baseline of Zadeh et al. 2018 (arXiv 1802.00927) and others.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__()
        self.branches, self.drop = list(dims), nn.Dropout(dropout)
        self.lstm = nn.LSTM(sum(dims.values()), hidden, batch_first=True)
        self.classify = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        joined = torch.cat(_same_length([steps(x[branch]) for branch in self.branches]), dim=-1)
        _, (last, _) = self.lstm(self.drop(joined))
        return {"logits": self.classify(self.drop(last[-1]))}


def _same_length(rows: list[Tensor]) -> list[Tensor]:
    """A branch of one step beside longer ones is repeated."""
    longest = max(row.shape[1] for row in rows)
    return [row.expand(-1, longest, -1) if row.shape[1] == 1 else row for row in rows]


class MemoryFusion(nn.Module):
    """MFN: an LSTM a branch, attention over their memories of two steps, one gated memory of all.

    Zadeh et al. 2018 (arXiv 1802.00927): delta-memory attention sees the cells before and after a
    step, so that it finds changes across branches; a multi-view memory keeps what it found.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, hidden: int = 32, memory: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.branches, self.hidden, self.memory = list(dims), hidden, memory
        self.drop = nn.Dropout(dropout)
        self.cells = nn.ModuleList(nn.LSTMCell(dim, hidden) for dim in dims.values())
        self._make_fusion(2 * hidden * len(dims), dropout)
        self.classify = nn.Sequential(
            nn.Linear(hidden * len(dims) + memory, 64), nn.ReLU(), nn.Dropout(dropout), nn.Linear(64, n_classes)
        )

    def _make_fusion(self, width: int, dropout: float) -> None:
        self.attend = _two_layers(width, 64, width, dropout)
        self._make_memory(width, dropout)

    def _make_memory(self, width: int, dropout: float) -> None:
        self.propose = _two_layers(width, 64, self.memory, dropout)
        self.keep, self.take = (_two_layers(width + self.memory, 64, self.memory, dropout) for _ in range(2))

    def fuse(self, before: list[Tensor], after: list[Tensor]) -> Tensor:
        """What the memory is offered: the cells of two steps (N, 2 B hidden), each number weighed."""
        both = torch.cat([*before, *after], dim=1)
        return self.attend(both).softmax(1) * both

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        rows = _same_length([self.drop(steps(x[branch])) for branch in self.branches])
        empty = rows[0].new_zeros(len(rows[0]), self.hidden)
        states, kept = [(empty, empty)] * len(rows), rows[0].new_zeros(len(rows[0]), self.memory)
        for t in range(rows[0].shape[1]):
            new = [cell(row[:, t], state) for cell, row, state in zip(self.cells, rows, states, strict=True)]
            offered = self.fuse([c for _, c in states], [c for _, c in new])
            told = torch.cat([offered, kept], dim=1)
            kept = self.keep(told).sigmoid() * kept + self.take(told).sigmoid() * self.propose(offered).tanh()
            states = new
        return {"logits": self.classify(torch.cat([*(h for h, _ in states), kept], dim=1))}


def _two_layers(dim: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


class GraphMemoryFusion(MemoryFusion):
    """Graph-MFN: a dynamic fusion graph in place of MFN's attention (Zadeh et al. 2018, ACL P18-1208).

    A vertex for every non-empty subset of branches; a vertex reads those of its proper subsets, each
    through an edge whose strength (0 to 1) depends on the clip and step, and the memory is offered all
    vertices by their strengths. With more than `MOST` branches only subsets of up to two and the whole.
    """

    MOST = 4

    def _make_fusion(self, width: int, dropout: float) -> None:
        n = len(self.branches)
        sizes = range(1, n + 1) if n <= self.MOST else (1, 2, n)
        self.vertices = [frozenset(s) for k in sizes for s in itertools.combinations(range(n), k)]
        self.reads = [[i for i, below in enumerate(self.vertices) if below < own] for own in self.vertices]
        self.edges = [(i, j) for j, sources in enumerate(self.reads) for i in sources]
        wide = 2 * self.hidden
        self.make = nn.ModuleList(_two_layers(wide * len(s), 32, wide, dropout) for s in self.reads[n:])
        self.efficacy = _two_layers(width, 64, len(self.edges) + len(self.vertices), dropout)
        self._make_memory(wide, dropout)

    def fuse(self, before: list[Tensor], after: list[Tensor]) -> Tensor:
        """The sum of all vertices by their strengths, (N, 2 hidden)."""
        vertices = [torch.cat(pair, dim=1) for pair in zip(before, after, strict=True)]
        strength = self.efficacy(torch.cat([*before, *after], dim=1)).sigmoid()
        at = {edge: strength[:, [k]] for k, edge in enumerate(self.edges)}
        for j in range(len(vertices), len(self.vertices)):
            read = torch.cat([at[i, j] * vertices[i] for i in self.reads[j]], dim=1)
            vertices.append(self.make[j - len(after)](read))
        own = strength[:, len(self.edges) :]
        return (torch.stack(vertices, dim=1) * own.unsqueeze(-1)).sum(1)


class CrossModal(nn.Module):
    """MulT: every branch attends to every other one (Tsai et al. 2019, arXiv 1906.00295).

    A convolution over time brings branches to one width; crossmodal transformers (queries of
    one branch, keys and values of another) for each ordered pair; a transformer over what a branch
    gathered; the last step of all, a residual block, a linear layer.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, width: int = 32, heads: int = 4, layers: int = 2,
        kernel: int = 1, dropout: float = 0.3,
    ) -> None:  # fmt: skip
        super().__init__()
        self.branches, self.drop = list(dims), nn.Dropout(dropout)
        self.shorten = nn.ModuleList(
            nn.Conv1d(dim, width, kernel, padding=kernel // 2, bias=False) for dim in dims.values()
        )
        self.pairs = [(i, j) for i in range(len(dims)) for j in range(len(dims)) if i != j]
        self.cross = nn.ModuleList(
            nn.ModuleList(CrossLayer(width, heads, dropout) for _ in range(layers)) for _ in self.pairs
        )
        gathered = width * max(len(dims) - 1, 1)
        self.own = nn.ModuleList(CrossLayer(gathered, heads, dropout) for _ in dims)
        total = gathered * len(dims)
        self.refine = nn.Sequential(nn.Linear(total, total), nn.ReLU(), nn.Dropout(dropout), nn.Linear(total, total))
        self.classify = nn.Linear(total, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        rows = [self._short(conv, x[branch]) for branch, conv in zip(self.branches, self.shorten, strict=True)]
        gathered: list[list[Tensor]] = [[] for _ in rows]
        for (i, j), layers in zip(self.pairs, self.cross, strict=True):
            seen = rows[i]
            for layer in layers:
                seen = layer(seen, rows[j])
            gathered[i].append(seen)
        joined = [torch.cat(parts or [rows[i]], dim=-1) for i, parts in enumerate(gathered)]
        last = torch.cat([layer(one, one)[:, -1] for layer, one in zip(self.own, joined, strict=True)], dim=-1)
        return {"logits": self.classify(last + self.refine(last))}

    def _short(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        row = conv(self.drop(steps(x)).transpose(1, 2)).transpose(1, 2)
        return row * row.shape[-1] ** 0.5 + positions(row.shape[1], row.shape[2], row.device)


class CrossLayer(nn.Module):
    """A transformer layer whose queries come from one sequence, keys and values from another; norms first."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(3))
        self.think = nn.Sequential(nn.Linear(width, 4 * width), nn.ReLU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, asks: Tensor, told: Tensor) -> Tensor:
        key = self.norms[1](told)
        seen = self.attend(self.norms[0](asks), key, key, need_weights=False)[0]
        asks = asks + self.drop(seen)
        return asks + self.drop(self.think(self.norms[2](asks)))


def positions(n_steps: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sines and cosines (T, width) that tell steps apart (Vaswani et al. 2017)."""
    at = torch.arange(n_steps, device=device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    table = torch.zeros(n_steps, width, device=device)
    table[:, 0::2], table[:, 1::2] = (at * rate).sin(), (at * rate[: width // 2]).cos()
    return table
