"""The ECMF network: self-attention over branch tokens, with the original representations kept.

After "ECMF: Enhanced Cross-Modal Fusion for Multimodal Emotion Recognition in MER-SEMI Challenge"
(arXiv 2508.05991). The paper states the parts, not their sizes: every size here is our choice.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MASKED = -1e9  # finite, so that a clip without any branch gives uniform attention instead of NaN


class Attention(nn.Module):
    """Multi-head self-attention over branch tokens (Vaswani et al. 2017), absent branches masked.

    tokens (N, B, W), present (N, B) bool -> (N, B, W)
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        n, b, width = tokens.shape
        qkv = self.query_key_value(self.norm(tokens))
        q, k, v = qkv.view(n, b, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        similarity = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        weights = similarity.masked_fill(~present[:, None, None, :], MASKED).softmax(-1)
        weights = F.dropout(weights, self.dropout, self.training)
        return self.out((weights @ v).transpose(1, 2).reshape(n, b, width))


class Ecmf(nn.Module):
    """Branch projections, masked self-attention, residuals, dynamic branch weights, auxiliary heads.

    Parameters
    ----------
    dims : dict
        Input size of every branch, in order; any number of branches.
    width, heads, layers : int
        Size of a token, attention heads (must divide the width), attention layers.
    dropout, input_dropout, branch_dropout : float
        Of hidden units; of single inputs (many inputs, few clips); of whole branches while training,
        against one branch taking over (modality competition).
    attention, residual, auxiliary : bool
        Switches of the ablation. `residual` adds the unattended tokens to the attended ones and the
        branch heads' logits to the fused logits; `auxiliary` makes the branch heads.

    Notes
    -----
    `forward(x, present)`: x maps branch to (N, D), present is (N, B) bool. Returns `logits` (N, C),
    `weights` (N, B), which sum to 1 over the branches that are there, and, with `auxiliary`,
    `branch_logits` (N, B, C).
    """

    def __init__(
        self,
        dims: dict[str, int],
        n_classes: int,
        width: int = 64,
        heads: int = 4,
        layers: int = 1,
        dropout: float = 0.3,
        input_dropout: float = 0.3,
        branch_dropout: float = 0.1,
        attention: bool = True,
        residual: bool = True,
        auxiliary: bool = True,
    ) -> None:
        super().__init__()
        self.branches, self.residual, self.branch_dropout = list(dims), residual, branch_dropout
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims.values())
        self.embedding = nn.Parameter(0.02 * torch.randn(len(dims), width))
        self.attend = nn.ModuleList(
            Attention(width, heads, dropout) for _ in range(layers if attention else 0)
        )
        self.norm = nn.LayerNorm(width)
        self.score = nn.Linear(width, 1)
        self.classify = nn.Linear(width, n_classes)
        self.heads = None
        if auxiliary:
            self.heads = nn.ModuleList(nn.Linear(width, n_classes) for _ in dims)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        present = self._drop_branches(present)
        original = self._tokens(x)
        fused = self._fuse(original, present)
        weights = masked_softmax(self.score(fused).squeeze(-1), present)
        logits = self.classify(self.dropout(_weigh(fused, weights)))
        if self.heads is None:
            return {"logits": logits, "weights": weights}
        dropped = self.dropout(original)
        branch_logits = torch.stack(
            [head(dropped[:, i]) for i, head in enumerate(self.heads)], dim=1
        )
        if self.residual:
            logits = logits + _weigh(branch_logits, weights)
        return {"logits": logits, "weights": weights, "branch_logits": branch_logits}

    def _tokens(self, x: dict[str, Tensor]) -> Tensor:
        rows = [
            project(self.input_dropout(x[branch]))
            for branch, project in zip(self.branches, self.project, strict=True)
        ]
        return F.gelu(torch.stack(rows, dim=1))

    def _fuse(self, original: Tensor, present: Tensor) -> Tensor:
        tokens = original + self.embedding
        for attend in self.attend:
            attended = self.dropout(attend(tokens, present))
            tokens = tokens + attended if self.residual else attended
        return self.norm(tokens)

    def _drop_branches(self, present: Tensor) -> Tensor:
        """Hide whole branches while training; a clip that would lose all keeps all."""
        if not self.training or self.branch_dropout == 0:
            return present
        kept = present & (torch.rand(present.shape, device=present.device) >= self.branch_dropout)
        return torch.where(kept.any(1, keepdim=True), kept, present)


def masked_softmax(values: Tensor, present: Tensor) -> Tensor:
    """Softmax over the branches that are there, shape (N, B); all zero where none is."""
    return values.masked_fill(~present, MASKED).softmax(-1) * present


def _weigh(values: Tensor, weights: Tensor) -> Tensor:
    """Mean of values (N, B, K) by weights (N, B): (N, K)."""
    return (values * weights.unsqueeze(-1)).sum(1)
