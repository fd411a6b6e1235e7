"""The ECMF network: self-attention over one token per branch, with the original representations kept.

After "ECMF: Enhanced Cross-Modal Fusion for Multimodal Emotion Recognition in MER-SEMI Challenge"
(arXiv 2508.05991). The paper names the parts but not their sizes; every size here is our choice.

Shapes in the comments: N clips, B branches, D width of a token, H attention heads, C classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_utils.files import EcmfError

MASKED = -1e9  # the score of an absent branch; finite, since the softmax of a row of minus infinities is NaN


class Ecmf(nn.Module):
    """Branch tokens, masked self-attention, a softmax weight for each branch, and residual paths.

    Every branch becomes a token: its projected vector, the probabilities of its head, and a branch embedding.
    Self-attention lets the tokens see one another. A softmax over the tokens then weighs the branches of each clip.
    The logits are the weighted sum of what the branch heads say, plus a correction from the attended tokens. The sum
    is the residual path that keeps the original representations; the correction is zero before training.

    Parameters
    ----------
    dims : dict
        Input size of every branch, in order; any number of branches.
    n_classes : int
        Number of labels.
    width, heads, layers : int
        Size of a token, number of attention heads (must divide the width), number of attention layers.
    dropout, input_dropout, branch_dropout : float
        Probability of hiding a hidden unit; a single input, since inputs are many and clips are few; and a whole
        branch. All three act in training only. Hiding branches keeps one from taking over (modality competition).
    attention, residual, auxiliary, weighting : bool
        Switches of the ablation. Without `attention`, tokens do not see one another. Without `residual`, there is
        neither the sum of the heads nor a skip connection around the attention. Without `auxiliary`, no branch head is
        used, neither in the tokens nor in the sum; the principal axes stay the ones that ridge regression chose (see
        `first_stage`). Without `weighting`, all present branches weigh the same.

    Raises
    ------
    EcmfError
        The width is no multiple of the number of attention heads.
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
        self.branches, self.branch_dropout = list(dims), branch_dropout
        self.residual, self.auxiliary, self.weighting = residual, auxiliary, weighting
        self.input_dropout, self.dropout = nn.Dropout(input_dropout), nn.Dropout(dropout)
        self.project = nn.ModuleList(nn.Linear(dim, width) for dim in dims.values())
        self.embedding = nn.Parameter(0.02 * torch.randn(len(dims), width))
        depth = layers if attention else 0
        self.attend = nn.ModuleList(SelfAttention(width, heads, dropout) for _ in range(depth))
        self.norm, self.score = nn.LayerNorm(width), nn.Linear(width, 1)
        self.classify = nn.Linear(width, n_classes)
        if auxiliary:
            self.lift = nn.Linear(n_classes, width)
            self.log_sharpness = nn.Parameter(torch.full((len(dims),), math.log(1.5)))
            self.doubt = nn.Parameter(torch.full((len(dims),), math.log(0.25)))  # its sigmoid is 0.2
            # Factors of the learning rate. The projections read few, well chosen axes: they start well and move slowly.
            # Single numbers have far to go and move fast.
            self.rates = {"project": 0.1, "log_sharpness": 10.0, "doubt": 10.0}
        # Start with equal weights for all branches and, where the heads' sum already gives the logits,
        # with a correction of zero: training has to show that anything else is better.
        for layer in [self.score, *([self.classify] if auxiliary and residual else [])]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: dict[str, Tensor], present: Tensor, branch_logits: Tensor | None = None) -> dict[str, Tensor]:
        """Fuse the branches of N clips.

        Parameters
        ----------
        x : dict of float tensor (N, dim)
            Branch to its vectors, 0 where the branch is absent.
        present : bool tensor (N, B)
            Which branches a clip has.
        branch_logits : float tensor (N, B, C), optional
            What the head of each branch says (see `first_stage.FirstStage`), 0 where the branch is absent.

        Returns
        -------
        dict
            `logits` (N, C), and `weights` (N, B), which are 0 for absent branches and sum to 1 over the others.
        """
        if not self.auxiliary:
            branch_logits = None
        present = self._drop_branches(present)  # (N, B), some branches hidden in training

        # A token for each branch.
        pairs = zip(self.branches, self.project, strict=True)
        tokens = [project(self.input_dropout(x[branch])) for branch, project in pairs]  # B of (N, D): one common width
        tokens = torch.stack(tokens, dim=1)  # (N, B, D)
        tokens = F.gelu(tokens)  # a non-linearity, so that a token is more than a linear map of its branch
        tokens = tokens + self.embedding  # (N, B, D), tells the branches apart: attention knows no order
        if branch_logits is not None:
            opinions = self._sharpen(branch_logits).softmax(-1)  # (N, B, C), probabilities of each branch's head
            tokens = tokens + self.lift(opinions)  # (N, B, D), so that the weights can depend on who agrees with whom

        # Self-attention: each token gathers from the other branches of its clip.
        for attend in self.attend:
            attended = self.dropout(attend(tokens, present))  # (N, B, D), absent branches masked
            tokens = tokens + attended if self.residual else attended  # the residual keeps what the token was
        tokens = self.norm(tokens)  # (N, B, D), a common scale for the two layers that read the tokens

        # Dynamic weights: a softmax over the branches that the clip has.
        scores = self.score(self.dropout(tokens)).squeeze(-1)  # (N, B), one number for each token
        if not self.weighting:
            scores = torch.zeros_like(scores)  # ablation: equal scores give equal weights
        weights = masked_softmax(scores, present)  # (N, B), absent branches get 0

        # The correction: one vector for the clip, classified.
        fused = _weighted_sum(tokens, weights)  # (N, D)
        logits = self.classify(self.dropout(fused))  # (N, C)

        # The residual path: what the branch heads say goes to the logits directly.
        if branch_logits is not None and self.residual:
            evidence = self._log_evidence(branch_logits)  # (N, B, C)
            n_present = present.sum(1, keepdim=True)  # (N, 1)
            # Times their number, the weighted mean becomes a sum: branches that agree are surer than one of them.
            logits = logits + n_present * _weighted_sum(evidence, weights)  # (N, C)
        return {"logits": logits, "weights": weights}

    def _sharpen(self, branch_logits: Tensor) -> Tensor:
        """Logits (N, B, C) at a learned temperature for each branch: its head may be too sure or not sure enough."""
        return branch_logits * self.log_sharpness.exp()[:, None]

    def _log_evidence(self, branch_logits: Tensor) -> Tensor:
        """Log-probabilities (N, B, C) of each branch's head, bounded by how often the branch misleads.

        With the probability `doubt`, which is learned for each branch, the head is taken to know nothing. So no branch
        can rule a class out, however sure its head is.
        """
        proba = self._sharpen(branch_logits).softmax(-1)
        doubt = self.doubt.sigmoid()[:, None]
        return ((1 - doubt) * proba + doubt / proba.shape[-1]).log()

    def _drop_branches(self, present: Tensor) -> Tensor:
        """In training, hide whole branches at random; a clip that would lose all of its branches keeps them."""
        if not self.training or self.branch_dropout == 0:
            return present
        kept = present & (torch.rand(present.shape, device=present.device) >= self.branch_dropout)
        return torch.where(kept.any(1, keepdim=True), kept, present)


class SelfAttention(nn.Module):
    """Multi-head self-attention over branch tokens (Vaswani et al. 2017, arXiv 1706.03762).

    The layer norm comes before the attention, which trains more steadily (Xiong et al. 2020, arXiv 2002.04745).
    """

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)  # three maps in one matrix product
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Tokens (N, B, D), and which branches are present (N, B), to what each token gathers (N, B, D)."""
        n, b, width = tokens.shape
        head_width = width // self.heads
        qkv = self.query_key_value(self.norm(tokens))  # (N, B, 3 D)
        qkv = qkv.view(n, b, 3, self.heads, head_width)  # (N, B, 3, H, D/H), each head has its part of the width
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # (N, H, B, D/H) each
        scores = query @ key.transpose(-2, -1)  # (N, H, B, B), row: the branch that asks, column: the one it reads
        scores = scores / head_width**0.5  # keeps the softmax from saturating, whatever the width
        scores = scores.masked_fill(~present[:, None, None, :], MASKED)  # nobody reads an absent branch
        weights = scores.softmax(-1)  # (N, H, B, B), each row sums to 1
        weights = F.dropout(weights, self.dropout, self.training)
        gathered = weights @ value  # (N, H, B, D/H)
        gathered = gathered.transpose(1, 2).reshape(n, b, width)  # (N, B, D), the heads side by side again
        return self.out(gathered)  # (N, B, D), mixes the heads


def masked_softmax(scores: Tensor, present: Tensor) -> Tensor:
    """Softmax over the branches that are present, (N, B) to (N, B); all zeros for a clip without any branch."""
    return scores.masked_fill(~present, MASKED).softmax(-1) * present


def _weighted_sum(values: Tensor, weights: Tensor) -> Tensor:
    """Sum over the branches of values (N, B, K), each times its weight (N, B): (N, K)."""
    return (values * weights.unsqueeze(-1)).sum(1)
