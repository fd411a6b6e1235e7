"""A property of each network from its paper, on utterance-level vectors."""

import itertools
import math

import numpy as np
import pytest
import torch

from ecmf_utils import baselines, networks

DIMS = {"face": 6, "audio": 5, "text": 4}
THERE = torch.ones(7, 3, dtype=torch.bool)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(n=7, dims=DIMS):
    return {branch: torch.randn(n, dim) for branch, dim in dims.items()}


# ---- tensor fusion


def test_the_outer_product_holds_every_product_of_every_subset():
    tokens = networks.with_one(torch.randn(4, 3, 2))
    product = networks.outer_product(tokens).view(4, 3, 3, 3)
    for i, j, k in itertools.product(range(3), repeat=3):
        torch.testing.assert_close(product[:, i, j, k], tokens[:, 0, i] * tokens[:, 1, j] * tokens[:, 2, k])
    torch.testing.assert_close(product[:, 0, 1, 0], tokens[:, 1, 1])  # a branch alone is among them


def test_low_rank_fusion_at_full_rank_is_any_linear_map_of_the_outer_product():
    size, n_classes, n_branches = 2, 4, 3
    cells = (size + 1) ** n_branches
    wanted = torch.nn.Linear(cells, n_classes)
    module = networks.LowRankFusion(DIMS, n_classes, rank=cells, size=size)
    with torch.no_grad():
        module.factors.zero_()
        module.mix.fill_(1)
        module.bias.copy_(wanted.bias)
        for rank, place in enumerate(itertools.product(range(size + 1), repeat=n_branches)):
            for branch, at in enumerate(place):
                module.factors[branch, rank, at] = wanted.weight[:, rank] if branch == 0 else 1
    tokens = networks.with_one(torch.randn(9, n_branches, size))
    torch.testing.assert_close(module.fuse(tokens), wanted(networks.outer_product(tokens)))


def test_low_rank_fusion_grows_with_the_sum_of_the_branches_and_tensor_fusion_with_their_product():
    def count(kind, n_branches, part):
        module = kind({f"b{i}": 3 for i in range(n_branches)}, 4, size=4)
        return sum(p.numel() for name, p in module.named_parameters() if name.startswith(part))

    low = [count(networks.LowRankFusion, n, "factors") for n in (1, 2, 3, 4)]
    assert np.diff(low).tolist() == [low[0]] * 3
    full = [count(networks.TensorFusion, n, "fuse.weight") for n in (1, 2, 3, 4)]
    assert [b / a for a, b in itertools.pairwise(full)] == [5, 5, 5]


@pytest.mark.parametrize("n_branches", [1, 2, 3, 5, 6])
def test_tensor_fusion_stays_small_whatever_the_number_of_branches(n_branches):
    module = networks.TensorFusion({f"b{i}": 8 for i in range(n_branches)}, 4)
    assert module.fuse.in_features <= networks.LARGEST_PRODUCT


# ---- MISA


def test_the_moment_discrepancy_is_zero_for_the_same_distribution_and_sees_mean_and_spread():
    sample = torch.rand(4000, 3)
    assert networks.moment_discrepancy(sample, sample[torch.randperm(4000)]) < 1e-3
    narrow = 0.5 + 0.2 * (sample - 0.5)  # the same mean
    assert networks.moment_discrepancy(sample, narrow) > 0.08
    assert networks.moment_discrepancy(sample, sample * 0.5) > networks.moment_discrepancy(sample, sample * 0.9)


def test_parts_that_tell_different_things_do_not_correlate():
    one, two = torch.randn(3000, 4), torch.randn(3000, 4)
    alike = networks.correlation(one, one)
    assert networks.correlation(one, two) < 0.02 * alike


def test_training_misa_brings_shared_parts_together_and_own_parts_apart():
    module, x = networks.Misa(DIMS, 3, hidden=16, dropout=0.0), inputs(64)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    module.train()
    first = module(x, THERE)["penalty"].item()
    for _ in range(60):
        optimiser.zero_grad()
        loss = module(x, THERE)["penalty"]
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.5 * first
    module.eval()
    assert "penalty" not in module(x, THERE)


# ---- MMIM


@pytest.mark.parametrize("correlation", [0.0, 0.6, 0.95])
def test_the_gaussian_bound_finds_the_mutual_information_and_does_not_exceed_it(correlation):
    given = torch.randn(4000, 2)
    wanted = correlation * given + (1 - correlation**2) ** 0.5 * torch.randn(4000, 2)
    true = -0.5 * 2 * math.log(1 - correlation**2)  # of two pairs of correlated normal numbers, in nats
    bound = networks.GaussianBound(2)
    optimiser = torch.optim.Adam(bound.parameters(), 2e-2)
    for _ in range(300):
        optimiser.zero_grad()
        (-bound(given, wanted)).backward()
        optimiser.step()
    assert true - 0.1 < bound(given, wanted).item() < true + 0.1


def test_the_contrastive_bound_is_highest_for_pairs_and_never_above_the_log_of_the_batch():
    rows = torch.nn.functional.normalize(torch.randn(32, 16), dim=1)
    paired, mixed = networks.contrastive(rows, rows), networks.contrastive(rows, rows.roll(1, 0))
    assert paired > 0 > mixed and paired < math.log(32)


def test_infomax_is_anchored_at_text_or_else_at_the_first_branch():
    assert networks.InfoMax(DIMS, 3).anchor == 2
    assert networks.InfoMax({"face": 3, "audio": 2}, 3).anchor == 0


# ---- mixture of experts


def test_balance_is_best_when_every_expert_gets_the_same():
    assert networks.imbalance(torch.full((10, 4), 0.25)) < 1e-12
    assert networks.imbalance(torch.eye(4)[torch.zeros(10, dtype=torch.long)]) > 2.9


def test_the_mixture_is_the_experts_weighed_by_the_router():
    module, x = networks.Experts(DIMS, 3, dropout=0.0).eval(), inputs()
    out = module(x, THERE)
    said = torch.stack([head(row) for head, row in zip(module.classify, module.encode(x).unbind(1), strict=True)], 1)
    mixed = (said.softmax(-1) * out["weights"].unsqueeze(-1)).sum(1)
    torch.testing.assert_close(out["logits"].softmax(-1), mixed, atol=1e-4, rtol=1e-4)


def test_an_absent_expert_is_not_asked():
    module, x = networks.Experts(DIMS, 3).eval(), inputs()
    present = THERE.clone()
    present[:, 1] = False
    one = module(x, present)["logits"]
    for layer in module.classify[1].parameters():
        torch.nn.init.constant_(layer, 9.0)
    assert torch.equal(module(x, present)["logits"], one)


# ---- all of them


@pytest.mark.parametrize("name", sorted(baselines.NETWORKS))
@pytest.mark.parametrize("n_branches", [1, 2, 6])
def test_any_number_of_branches_and_one_clip(name, n_branches):
    dims = {f"b{i}": 3 + i for i in range(n_branches)}
    module = baselines.NETWORKS[name][0](dims, 4)
    for n in (1, 5):
        for training in (True, False):
            out = module.train(training)(inputs(n, dims), torch.ones(n, n_branches, dtype=torch.bool))
            assert out["logits"].shape == (n, 4) and torch.isfinite(out["logits"]).all()
            assert torch.isfinite(torch.as_tensor(out.get("penalty", 0.0))).all()


@pytest.mark.parametrize("name", sorted(set(baselines.NETWORKS) - {"ecmf"}))
def test_every_parameter_is_learned(name):
    module = baselines.NETWORKS[name][0](DIMS, 4).train()
    x = {b: torch.randn(16, 3, dim) for b, dim in DIMS.items()} if name in baselines.SEQUENTIAL else inputs(16)
    out = module(x, torch.ones(16, 3, dtype=torch.bool))
    (out["logits"].square().mean() + out.get("penalty", 0.0)).backward()
    idle = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not idle
