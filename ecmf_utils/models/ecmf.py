"""The ECMF network: self-attention over branch tokens, with the original representations kept.

After "ECMF: Enhanced Cross-Modal Fusion for Multimodal Emotion Recognition in MER-SEMI Challenge"
(arXiv 2508.05991). The paper states the parts, not their sizes; every size here is our choice.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_utils.files import EcmfError

MASKED = -1e9  # finite, so that a clip without any branch gives zeros instead of NaN


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
    """Branch heads and projections, masked self-attention, dynamic branch weights, residuals.

    Every branch becomes a token: its projection, its head's opinion and a branch embedding.
    Self-attention lets tokens see one another; a softmax over them weighs each clip's branches.
    The logits are the weighted sum of what the branch heads say (the residual path, which keeps
    the original representations) plus a correction from the attended tokens that starts at zero.

    Parameters
    ----------
    dims : dict
        Input size of every branch, in order; any number of branches.
    width, heads, layers : int
        Size of a token, attention heads (must divide the width), attention layers.
    dropout, input_dropout, branch_dropout : float
        Of hidden units; of single inputs (many inputs, few clips); of whole branches while
        training, against one branch taking over (modality competition).
    attention, residual, auxiliary, weighting : bool
        Switches of the ablation: no self-attention; neither the heads' sum nor the tokens' skip
        connections; no branch heads, neither in the tokens nor in the sum (the axes remain those that ridge
        regression chose, see `firststage`); every branch that is there weighs the same.

    Notes
    -----
    `forward(x, present, branch_logits)`: x maps branch to (N, K), present is (N, B) bool, branch_logits
    (N, B, C) are what the heads of `first_stage.FirstStage` say. Returns `logits` (N, C) and `weights`
    (N, B), 1 in sum over the branches that are there.
    """

    def __init__(
        self,
        dims: dict[str, int],
        n_classes: int,
        width: int = 32,
        heads: int = 4,
        layers: int = 1,
        dropout: float = 0.3,
        input_dropout: float = 0.3,
        branch_dropout: float = 0.1,
        attention: bool = True,
        residual: bool = True,
        auxiliary: bool = True,
        weighting: bool = True,
    ) -> None:
        super().__init__()
        if width < 1 or heads < 1 or width % heads:
            raise EcmfError(f"ecmf: width={width}, heads={heads}: expected a width that the heads divide")
        self.branches, self.residual, self.branch_dropout = list(dims), residual, branch_dropout
        self.weighting = weighting
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims.values())
        self.embedding = nn.Parameter(0.02 * torch.randn(len(dims), width))
        depth = layers if attention else 0
        self.attend = nn.ModuleList(Attention(width, heads, dropout) for _ in range(depth))
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, 1)
        self.classify = nn.Linear(width, n_classes)
        self.auxiliary = auxiliary
        if auxiliary:
            self.lift = nn.Linear(n_classes, width)
            self.log_sharpness = nn.Parameter(torch.full((len(dims),), math.log(1.5)))
            self.doubt = nn.Parameter(torch.full((len(dims),), math.log(0.25)))  # sigmoid: 0.2
            # what starts well moves slowly, single numbers move fast
            self.rates = {"project": 0.1, "log_sharpness": 10.0, "doubt": 10.0}
        self.start_equal()

    def start_equal(self) -> None:
        """All branches weigh the same and the correction is zero until training says otherwise."""
        corrects = self.auxiliary and self.residual
        for layer in (self.score, *([self.classify] if corrects else [])):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: dict[str, Tensor], present: Tensor, branch_logits: Tensor | None = None) -> dict[str, Tensor]:
        branch_logits = branch_logits if self.auxiliary else None
        present = self._drop_branches(present)
        tokens = self._tokens(x, branch_logits)
        for attend in self.attend:
            attended = self.dropout(attend(tokens, present))
            tokens = tokens + attended if self.residual else attended
        tokens = self.norm(tokens)
        listened = self.score(self.dropout(tokens)).squeeze(-1)
        weights = masked_softmax(listened if self.weighting else torch.zeros_like(listened), present)
        logits = self.classify(self.dropout(_weigh(tokens, weights)))
        if branch_logits is None:
            return {"logits": logits, "weights": weights}
        if self.residual:  # a sum, not a mean: branches that agree are surer than one of them
            evidence = self._opinions(branch_logits)[1]
            logits = logits + present.sum(1, keepdim=True) * _weigh(evidence, weights)
        return {"logits": logits, "weights": weights}

    def _tokens(self, x: dict[str, Tensor], branch_logits: Tensor | None) -> Tensor:
        pairs = zip(self.branches, self.project, strict=True)
        rows = [project(self.input_dropout(x[branch])) for branch, project in pairs]
        tokens = F.gelu(torch.stack(rows, dim=1)) + self.embedding
        if branch_logits is None:
            return tokens
        return tokens + self.lift(self._opinions(branch_logits)[0])

    def _opinions(self, branch_logits: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities of every branch, and its log evidence, bounded by how often it misleads."""
        proba = (branch_logits * self.log_sharpness.exp()[:, None]).softmax(-1)
        doubt = self.doubt.sigmoid()[:, None]
        return proba, ((1 - doubt) * proba + doubt / proba.shape[-1]).log()

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
    """Sum of values (N, B, K) by weights (N, B): (N, K)."""
    return (values * weights.unsqueeze(-1)).sum(1)
