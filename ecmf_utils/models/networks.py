"""The networks of the field for utterance-level vectors, re-implemented from their papers.

Each takes any number of branches, standardised and 0 where a branch is missing, since the originals
know of no missing branch. What a paper leaves open, or states for three branches only, is said where
it is decided here. `forward(x, present)` returns `logits` (N, C) and, where a method adds losses of
its own, their weighted sum as `penalty`.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecmf_utils.files import EcmfError

from .ecmf import masked_softmax

LARGEST_PRODUCT = 16_384  # numbers of a tensor fusion, for any number of branches
MOMENTS = 5  # of the central moment discrepancy
SHRINKAGE = 0.5  # of a batch's covariance towards its diagonal


def mlp(dim: int, hidden: int, dropout: float, depth: int = 3, out: int = 0) -> nn.Sequential:
    """Dropout on the input, then `depth` times Linear and ReLU; `out` numbers at the end, 0: `hidden`."""
    sizes = [dim] + [hidden] * (depth - 1) + [out or hidden]
    layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Dropout(dropout), *layers)


class Encoded(nn.Module):
    """What the networks below have in common: an MLP a branch, `encode(x)` -> (N, B, `out` or `hidden`)."""

    def __init__(self, dims: dict[str, int], hidden: int, dropout: float, depth: int = 3, out: int = 0) -> None:
        super().__init__()
        self.branches = list(dims)
        self.encoders = nn.ModuleList(mlp(dim, hidden, dropout, depth, out) for dim in dims.values())

    def encode(self, x: dict[str, Tensor]) -> Tensor:
        pairs = zip(self.branches, self.encoders, strict=True)
        return torch.stack([encoder(x[branch]) for branch, encoder in pairs], dim=1)


class OfficialAttention(Encoded):
    """The `attention` model of the official MER2025 toolkit (MERTools), re-implemented.

    Per branch an MLP (dropout on the input, three times Linear + ReLU); one such MLP over their
    concatenation and a linear layer give one weight per branch, without softmax; the weighted sum
    goes through one linear layer. The toolkit feeds it unscaled inputs; the training here scales
    them unless told otherwise, since hand-made features have arbitrary units.
    """

    def __init__(self, dims: dict[str, int], n_classes: int, hidden: int = 128, dropout: float = 0.5) -> None:
        super().__init__(dims, hidden, dropout)
        self.judge = nn.Sequential(mlp(hidden * len(dims), hidden, dropout), nn.Linear(hidden, len(dims)))
        self.classify = nn.Linear(hidden, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        encoded = self.encode(x)
        attention = self.judge(encoded.flatten(1))  # may be negative: no share of a whole
        return {"logits": self.classify((encoded * attention.unsqueeze(-1)).sum(1))}


class Concatenation(nn.Module):
    """Early fusion: all branches side by side through one MLP of two layers."""

    def __init__(self, dims: dict[str, int], n_classes: int, hidden: int = 256, dropout: float = 0.5) -> None:
        super().__init__()
        self.branches = list(dims)
        self.net = nn.Sequential(mlp(sum(dims.values()), hidden, dropout, 2), nn.Dropout(dropout))
        self.classify = nn.Linear(hidden, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classify(self.net(torch.cat([x[branch] for branch in self.branches], dim=1)))}


class TensorFusion(Encoded):
    """TFN: the outer product of all branches (Zadeh et al. 2017, arXiv 1707.07250).

    Each branch becomes `size` numbers (the last of three layers, the others are `hidden` wide) and a
    constant 1; their outer product holds every product of numbers of any subset of branches, and goes
    through dropout and two layers of `hidden`. The paper has three branches of 32 or 128 numbers; `size` 0
    is the largest that keeps the product within `LARGEST_PRODUCT`: 24 of three branches, 5 of five.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, size: int = 0, hidden: int = 128, dropout: float = 0.3
    ) -> None:
        size = size or max(1, min(hidden, int(LARGEST_PRODUCT ** (1 / len(dims)) + 1e-9) - 1))
        super().__init__(dims, hidden, dropout, out=size)
        self.fuse = nn.Sequential(nn.Dropout(dropout), nn.Linear((size + 1) ** len(dims), hidden))
        self.classify = nn.Sequential(nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, n_classes))

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        return {"logits": self.classify(self.fuse(outer_product(with_one(self.encode(x)))))}


def with_one(encoded: Tensor) -> Tensor:
    """(N, B, S) with a constant 1 in front of the numbers of every branch: (N, B, S + 1)."""
    return torch.cat([torch.ones_like(encoded[..., :1]), encoded], dim=-1)


def outer_product(tokens: Tensor) -> Tensor:
    """Product of one number of every branch, in all combinations: (N, B, S) -> (N, S ** B)."""
    product = tokens[:, 0]
    for token in tokens.unbind(1)[1:]:
        product = (product.unsqueeze(-1) * token.unsqueeze(1)).flatten(1)
    return product


class LowRankFusion(Encoded):
    """LMF: a linear map of TFN's outer product, as a sum of rank-one terms (Liu et al. 2018, arXiv 1806.00064).

    The product itself is never made: sum over ranks of the elementwise product, over branches, of
    a linear map of each. With as many ranks as the product has numbers it is any linear map of it.
    A product of five maps that start near zero never gets off the ground, so here each starts at its
    constant's coefficient of 1: the same functions, and with three branches the same results.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, rank: int = 4, size: int = 64, dropout: float = 0.3
    ) -> None:
        super().__init__(dims, size, dropout)
        self.factors = nn.Parameter(torch.empty(len(dims), rank, size + 1, n_classes))
        self.mix, self.bias = nn.Parameter(torch.empty(1, rank)), nn.Parameter(torch.zeros(n_classes))
        for factor in self.factors:
            nn.init.xavier_normal_(factor)
        self.factors.data[:, :, 0] = 1.0
        nn.init.xavier_normal_(self.mix)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        return {"logits": self.fuse(with_one(self.encode(x)))}

    def fuse(self, tokens: Tensor) -> Tensor:
        terms = torch.einsum("nbs,brsc->bnrc", tokens, self.factors).prod(0)
        return torch.einsum("r,nrc->nc", self.mix[0], terms) + self.bias


class Misa(nn.Module):
    """MISA: what a branch shares with the others apart from what is its own (Hazarika et al. 2020, arXiv 2005.03545).

    The penalty is `similarity` times the central moment discrepancy of the shared parts of each pair of
    branches, `difference` times the squared correlations of own and shared parts, and
    `reconstruction` times the mean squared error of decoding their sum. One transformer layer over
    all 2 B parts, then an MLP. In the paper text is an LSTM's or BERT's output; here all are vectors, and
    the layer's dropout and feed-forward width are those of the rest (the original: .1 and 2048).
    """

    def __init__(
        self,
        dims: dict[str, int],
        n_classes: int,
        hidden: int = 64,
        dropout: float = 0.5,
        similarity: float = 1.0,
        difference: float = 0.3,
        reconstruction: float = 1.0,
    ) -> None:
        super().__init__()
        if hidden % 2:
            raise EcmfError(f"misa: hidden={hidden}: expected an even number, for its two attention heads")
        self.branches, self.factors = list(dims), (similarity, difference, reconstruction)
        pairs = list(itertools.combinations(range(len(dims)), 2))
        self.pairs = [i for i, _ in pairs], [j for _, j in pairs]
        self.project = nn.ModuleList(
            nn.Sequential(nn.Dropout(dropout), nn.Linear(dim, hidden), nn.ReLU(), nn.LayerNorm(hidden))
            for dim in dims.values()
        )
        self.own = nn.ModuleList(nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid()) for _ in dims)
        self.shared = nn.Sequential(nn.Linear(hidden, hidden), nn.Sigmoid())
        self.decode = nn.ModuleList(nn.Linear(hidden, hidden) for _ in dims)
        self.attend = nn.TransformerEncoderLayer(hidden, 2, 2 * hidden, dropout, batch_first=True)
        self.classify = nn.Sequential(mlp(2 * len(dims) * hidden, hidden, dropout, 1), nn.Linear(hidden, n_classes))

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        projected = [project(x[branch]) for branch, project in zip(self.branches, self.project, strict=True)]
        own = torch.stack([layer(row) for row, layer in zip(projected, self.own, strict=True)])
        shared = self.shared(torch.stack(projected))
        logits = self.classify(self.attend(torch.cat([own, shared]).transpose(0, 1)).flatten(1))
        if not self.training:
            return {"logits": logits}
        one, two = self.pairs
        alike = moment_discrepancy(shared[one], shared[two]).sum() / max(len(one), 1)
        apart = correlation(own, shared).sum() + correlation(own[one], own[two]).sum()
        decoded = [decode(part) for decode, part in zip(self.decode, own + shared, strict=True)]
        again = F.mse_loss(torch.stack(decoded), torch.stack(projected))
        terms = zip(self.factors, (alike, apart, again), strict=True)
        return {"logits": logits, "penalty": sum(factor * term for factor, term in terms)}


def moment_discrepancy(one: Tensor, two: Tensor) -> Tensor:
    """Central moment discrepancy of two samples (..., N, D) of values in 0 to 1 (Zellinger et al. 2017)."""
    centred = [sample - sample.mean(-2, keepdim=True) for sample in (one, two)]
    total = _length(one.mean(-2) - two.mean(-2))
    for k in range(2, MOMENTS + 1):
        total = total + _length((centred[0] ** k).mean(-2) - (centred[1] ** k).mean(-2))
    return total


def _length(vector: Tensor) -> Tensor:
    return (vector.square().sum(-1) + 1e-12).sqrt()  # the root's slope at 0 is infinite


def correlation(one: Tensor, two: Tensor) -> Tensor:
    """Mean squared product of the columns of two samples (..., N, D), centred, their rows of length one."""
    one, two = (F.normalize(sample - sample.mean(-2, keepdim=True), dim=-1) for sample in (one, two))
    return (one.mT @ two).square().mean((-2, -1))


class InfoMax(Encoded):
    """MMIM: fusion that keeps mutual information (Han et al. 2021, arXiv 2109.00412).

    Two estimates are raised: between the branch `anchor` and each other one by a Gaussian
    predictor (Barber and Agakov), and between the fused vector and each branch by contrast with the
    other clips of the batch (CPC). The paper anchors at text and takes entropies from memories of
    positive and negative clips; here one shrunk Gaussian of the batch serves any number of classes, the
    predictors are linear, and both estimates and the classes are learned together, not in two stages.
    """

    def __init__(
        self,
        dims: dict[str, int],
        n_classes: int,
        hidden: int = 64,
        dropout: float = 0.5,
        anchor: str = "text",
        between: float = 0.01,
        fused: float = 0.1,
    ) -> None:
        if hidden < 2:
            raise EcmfError(f"mmim: hidden={hidden}: expected at least 2")
        super().__init__(dims, hidden, dropout)
        self.between, self.fused = between, fused
        self.anchor = self.branches.index(anchor) if anchor in dims else 0
        self.others = [i for i in range(len(dims)) if i != self.anchor]
        self.predict = nn.ModuleList(GaussianBound(hidden) for _ in self.others)
        self.contrast = nn.ModuleList(nn.Linear(hidden, hidden) for _ in dims)
        self.fuse = mlp(hidden * len(dims), hidden, dropout, 2)
        self.classify = nn.Linear(hidden, n_classes)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        encoded = self.encode(x)
        fused = self.fuse(encoded.flatten(1))
        logits = self.classify(fused)
        if not self.training or len(logits) < 2:
            return {"logits": logits}
        rows = encoded.unbind(1)
        pairs = sum(net(rows[self.anchor], rows[i]) for net, i in zip(self.predict, self.others, strict=True))
        kept = sum(contrastive(net(fused), row) for net, row in zip(self.contrast, rows, strict=True))
        return {"logits": logits, "penalty": -self.between * pairs - self.fused * kept}


class GaussianBound(nn.Module):
    """Mutual information of two samples (N, D) in nats, as of Gaussians: entropy minus the entropy given the first.

    A lower bound where the second sample is Gaussian; elsewhere its entropy, and so the estimate, may be too high.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mean, self.log_var = nn.Linear(dim, dim), nn.Linear(dim, dim)

    def forward(self, given: Tensor, wanted: Tensor) -> Tensor:
        log_var = self.log_var(given).clamp(-6, 6)
        squares = (wanted - self.mean(given)).square() * (-log_var).exp()
        unsure = 0.5 * (squares + log_var + math.log(2 * math.pi)).sum(1).mean()
        covariance = torch.cov(wanted.T)
        diagonal = torch.diag(covariance.diagonal() + 1e-3)
        shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * diagonal
        entropy = 0.5 * (torch.linalg.slogdet(shrunk)[1] + len(covariance) * math.log(2 * math.pi * math.e))
        return entropy - unsure


def contrastive(predicted: Tensor, found: Tensor) -> Tensor:
    """CPC bound of mutual information in nats (Oord et al. 2018): at most the log of the batch size."""
    scores = F.normalize(predicted, dim=1) @ F.normalize(found, dim=1).T
    return scores.log_softmax(0).diagonal().mean() + math.log(len(scores))


class Experts(Encoded):
    """A mixture of branch experts: each classifies alone, a router weighs them for every clip.

    After Jacobs et al. (1991); the router's softmax leaves missing branches out. The penalty is
    `balance` times the squared coefficient of variation of the experts' total weights
    (Shazeer et al. 2017, arXiv 1701.06538), so that no expert starves.
    """

    def __init__(
        self, dims: dict[str, int], n_classes: int, hidden: int = 128, dropout: float = 0.5, balance: float = 0.1
    ) -> None:
        super().__init__(dims, hidden, dropout, 2)
        self.balance = balance
        self.route = nn.Linear(hidden * len(dims), len(dims))
        self.classify = nn.ModuleList(nn.Linear(hidden, n_classes) for _ in dims)

    def forward(self, x: dict[str, Tensor], present: Tensor) -> dict[str, Tensor]:
        encoded = self.encode(x)
        weights = masked_softmax(self.route(encoded.flatten(1)), present)
        opinions = torch.stack([head(row) for head, row in zip(self.classify, encoded.unbind(1), strict=True)], dim=1)
        proba = (opinions.softmax(-1) * weights.unsqueeze(-1)).sum(1)
        logits = (proba + 1e-6).log()  # a mixture of distributions, not of logits
        out = {"logits": logits, "weights": weights}
        return out | {"penalty": self.balance * imbalance(weights)} if self.training else out


def imbalance(weights: Tensor) -> Tensor:
    """Squared coefficient of variation of the column sums of (N, B): 0 where all experts get the same."""
    total = weights.sum(0)
    return total.var(unbiased=False) / (total.mean().square() + 1e-9)
