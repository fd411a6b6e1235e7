"""The networks of the field for frame-level sequences, re-implemented from their papers.

Branches come as (N, T, D), the frames of each clip averaged in T equal spans of time, so that all
branches have the same steps (the papers align theirs by words); a vector (N, D) is a sequence of one step.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_utils.files import EcmfError


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
        self.lstm = Lstms([sum(dims.values())], hidden)
        self.classify = nn.Sequential(nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        joined = torch.cat(_same_length([steps(x[branch]) for branch in self.branches]), dim=-1)
        (last,), _ = self.lstm([self.drop(joined)])
        return {"logits": self.classify(self.drop(last))}


def _same_length(rows: list[Tensor]) -> list[Tensor]:
    """A branch of one step beside longer ones is repeated."""
    longest = max(row.shape[1] for row in rows)
    return [row.expand(-1, longest, -1) if row.shape[1] == 1 else row for row in rows]


class Lstms(nn.Module):
    """LSTMs side by side, one for each of B sequences (N, T, dim) of the same length."""

    def __init__(self, dims: list[int], hidden: int) -> None:
        super().__init__()
        self.see = nn.ModuleList(nn.Linear(dim, 4 * hidden) for dim in dims)
        self.recall = Linears(len(dims), hidden, 4 * hidden)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(hidden**-0.5), hidden**-0.5)

    def forward(self, rows: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """The last states (B, N, hidden), and the cells (B, N, hidden) before the first and after every step."""
        seen = torch.stack([see(row) for see, row in zip(self.see, rows, strict=True)])
        state = seen.new_zeros(len(rows), len(rows[0]), seen.shape[-1] // 4)
        cells = [state]
        for now in seen.unbind(2):
            enter, forget, leave, new = (now + self.recall(state)).chunk(4, dim=-1)
            cells.append(forget.sigmoid() * cells[-1] + enter.sigmoid() * new.tanh())
            state = leave.sigmoid() * cells[-1].tanh()
        return state, cells


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
        self.lstms = Lstms(list(dims.values()), hidden)
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

    def fuse(self, before: Tensor, after: Tensor) -> Tensor:
        """What the memory is offered: the cells of two steps, each (B, N, hidden), each number weighed."""
        both = torch.cat([*before, *after], dim=1)
        return self.attend(both).softmax(1) * both

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        rows = _same_length([self.drop(steps(x[branch])) for branch in self.branches])
        (state, cells), n = self.lstms(rows), len(rows[0])
        before, after = (torch.cat(part, dim=1) for part in (cells[:-1], cells[1:]))  # all steps at once
        offered = self.fuse(before, after)
        proposed, kept = self.propose(offered).tanh().split(n), offered.new_zeros(n, self.memory)
        for step, news in zip(offered.split(n), proposed, strict=True):
            told = torch.cat([step, kept], dim=1)
            kept = self.keep(told).sigmoid() * kept + self.take(told).sigmoid() * news
        return {"logits": self.classify(torch.cat([*state, kept], dim=1))}


def _two_layers(dim: int, hidden: int, out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(dim, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, out))


class GraphMemoryFusion(MemoryFusion):
    """Graph-MFN: a dynamic fusion graph in place of MFN's attention (Zadeh et al. 2018, ACL P18-1208).

    A vertex for every non-empty subset of branches; a vertex reads those of its proper subsets, each
    through an edge whose strength (0 to 1) depends on the clip and step, and the memory is offered the sum of
    all vertices by their strengths (the paper leaves open how they are joined; side by side they would be a
    memory's input of thousands). With more than `MOST` branches only subsets of up to two and the whole.
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

    def fuse(self, before: Tensor, after: Tensor) -> Tensor:
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
    one branch, keys and values of another) for each ordered pair, normed at their end; a transformer
    over what a branch gathered; the last step of all, a residual block, a linear layer. That transformer
    has one layer where the original has three: with five branches they would be most of the network.
    No step is hidden from earlier ones, since a clip is read as a whole.
    """

    def __init__(
        self,
        dims: dict[str, int],
        n_classes: int,
        width: int = 32,
        heads: int = 4,
        layers: int = 2,
        kernel: int = 1,
        dropout: float = 0.3,
    ) -> None:
        super().__init__()
        if width % heads:
            raise EcmfError(f"mult: width={width}, heads={heads}: expected a width that the heads divide")
        if kernel % 2 == 0:
            raise EcmfError(f"mult: kernel={kernel}: expected an odd number, so that a clip keeps its steps")
        self.branches, self.drop = list(dims), nn.Dropout(dropout)
        self.shorten = nn.ModuleList(
            nn.Conv1d(dim, width, kernel, padding=kernel // 2, bias=False) for dim in dims.values()
        )
        n = len(dims)
        self.pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        n_cross = layers if self.pairs else 0
        self.cross = nn.ModuleList(CrossLayers(len(self.pairs), width, heads, dropout) for _ in range(n_cross))
        self.norm = Norms(max(len(self.pairs), 1), width)
        gathered = width * max(n - 1, 1)
        self.own, self.end = CrossLayers(n, gathered, heads, dropout), Norms(n, gathered)
        total = gathered * n
        self.refine = nn.Sequential(nn.Linear(total, total), nn.ReLU(), nn.Dropout(dropout), nn.Linear(total, total))
        self.classify = nn.Linear(total, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        short = [self._short(conv, x[branch]) for branch, conv in zip(self.branches, self.shorten, strict=True)]
        rows = torch.stack(_same_length(short))
        if self.pairs:
            seen, told = rows[[i for i, _ in self.pairs]], rows[[j for _, j in self.pairs]]
            for layer in self.cross:
                seen = layer(seen, told)
            rows = self.norm(seen).unflatten(0, (len(rows), -1)).permute(0, 2, 3, 1, 4).flatten(3)
        last = self.end(self.own(rows[:, :, -1:], rows))[:, :, 0]  # only the last step is read, so only it asks
        joined = torch.cat([*last], dim=-1)
        return {"logits": self.classify(joined + self.refine(joined))}

    def _short(self, conv: nn.Conv1d, x: Tensor) -> Tensor:
        row = conv(self.drop(steps(x)).transpose(1, 2)).transpose(1, 2)
        return row * row.shape[-1] ** 0.5 + positions(row.shape[1], row.shape[2], row.device)


class CrossLayers(nn.Module):
    """Transformer layers side by side, norms first: queries of one sequence, keys and values of another.

    Each of the P layers has weights of its own; asks (P, N, T, width) and told (P, N, S, width) give (P, N, T, width).
    """

    def __init__(self, many: int, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.drop = heads, nn.Dropout(dropout)
        self.norms = nn.ModuleList(Norms(many, width) for _ in range(3))
        self.ask, self.tell = Linears(many, width, width), Linears(many, width, 2 * width)
        for weight in [*self.ask.weight.data, *self.tell.weight.data]:
            nn.init.xavier_uniform_(weight)
        self.leave = Linears(many, width, width)
        self.widen, self.narrow = Linears(many, width, 4 * width), Linears(many, 4 * width, width)

    def forward(self, asks: Tensor, told: Tensor) -> Tensor:
        key, value = self.tell(self.norms[1](told)).chunk(2, dim=-1)
        query = self.ask(self.norms[0](asks))
        split = [x.flatten(0, 1).unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (query, key, value)]
        rate = self.drop.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(*split, dropout_p=rate).transpose(1, 2).reshape(asks.shape)
        asks = asks + self.drop(self.leave(seen))
        return asks + self.drop(self.narrow(self.widen(self.norms[2](asks)).relu()))


class Linears(nn.Module):
    """Linear maps side by side, each of its own part: (P, ..., dim) to (P, ..., out)."""

    def __init__(self, many: int, dim: int, out: int) -> None:
        super().__init__()
        made = [nn.Linear(dim, out) for _ in range(many)]
        self.weight = nn.Parameter(torch.stack([one.weight.detach().T for one in made]))
        self.bias = nn.Parameter(torch.cat([one.bias.detach() for one in made]))  # flat, as biases do not decay

    def forward(self, x: Tensor) -> Tensor:
        bias = self.bias.view(len(self.weight), 1, -1)
        return torch.baddbmm(bias, x.flatten(1, -2), self.weight).view(*x.shape[:-1], -1)


class Norms(nn.Module):
    """Layer norms side by side."""

    def __init__(self, many: int, width: int) -> None:
        super().__init__()
        self.shape = (many, 1, 1, width)
        self.gain, self.bias = nn.Parameter(torch.ones(many * width)), nn.Parameter(torch.zeros(many * width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias.view(self.shape), F.layer_norm(x, x.shape[-1:]), self.gain.view(self.shape))


def positions(n_steps: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """Sines and cosines (T, width) that tell steps apart (Vaswani et al. 2017)."""
    at = torch.arange(n_steps, device=device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    table = torch.zeros(n_steps, width, device=device)
    table[:, 0::2], table[:, 1::2] = (at * rate).sin(), (at * rate[: width // 2]).cos()
    return table
