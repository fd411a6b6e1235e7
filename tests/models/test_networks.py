"""A property of each network from its paper, on utterance-level vectors."""

import itertools
import math

import numpy as np
import pytest
import torch

from ecmf_utils.models import networks, registry

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


def test_low_rank_fusion_of_five_branches_still_learns():
    """A product of five numbers near zero has no slope to follow; that of numbers near one has."""
    dims = {f"b{i}": 8 for i in range(5)}
    module, there = networks.LowRankFusion(dims, 4), torch.ones(64, 5, dtype=torch.bool)
    module(inputs(64, dims), there)["logits"].square().sum().backward()
    slopes = [encoder[1].weight.grad.abs().mean() for encoder in module.encoders]
    assert min(slopes) > 1e-4


def test_low_rank_fusion_grows_with_the_sum_of_the_branches_and_tensor_fusion_with_their_product():
    def count(kind, n_branches, part):
        module = kind({f"b{i}": 3 for i in range(n_branches)}, 4, size=4)
        return sum(p.numel() for name, p in module.named_parameters() if name.startswith(part))

    low = [count(networks.LowRankFusion, n, "factors") for n in (1, 2, 3, 4)]
    assert np.diff(low).tolist() == [low[0]] * 3
    full = [count(networks.TensorFusion, n, "fuse.1.weight") for n in (1, 2, 3, 4)]
    assert [b / a for a, b in itertools.pairwise(full)] == [5, 5, 5]


@pytest.mark.parametrize("n_branches", [1, 2, 3, 5, 6])
def test_tensor_fusion_stays_small_whatever_the_number_of_branches(n_branches):
    module = networks.TensorFusion({f"b{i}": 8 for i in range(n_branches)}, 4)
    assert module.fuse[1].in_features <= networks.LARGEST_PRODUCT
    assert module.encoders[0][1].out_features == 128  # only the last layer is narrow


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


def follow_penalty(module, x, measure, steps=60):
    """What `measure` gives before and after training on the penalty alone."""
    there = torch.ones(len(next(iter(x.values()))), len(x), dtype=torch.bool)
    optimiser = torch.optim.Adam(module.parameters(), 1e-2)
    module.train()
    before = measure().item()
    for _ in range(steps):
        optimiser.zero_grad()
        module(x, there)["penalty"].backward()
        optimiser.step()
    return before, measure().item()


@pytest.mark.parametrize("term", ["similarity", "difference", "reconstruction"])
def test_training_misa_brings_shared_parts_together_and_own_parts_apart(term):
    weights = dict.fromkeys(["similarity", "difference", "reconstruction"], 0.0) | {term: 1.0}
    module, x = networks.Misa(DIMS, 3, hidden=16, dropout=0.0, **weights), inputs(64)

    def parts():
        projected = torch.stack([net(x[b]) for b, net in zip(DIMS, module.project, strict=True)])
        own = torch.stack([net(row) for net, row in zip(module.own, projected, strict=True)])
        return projected, own, module.shared(projected)

    def measure():
        projected, own, shared = parts()
        if term == "similarity":
            return sum(networks.moment_discrepancy(shared[i], shared[j]) for i, j in [(0, 1), (0, 2), (1, 2)])
        if term == "difference":
            return networks.correlation(own, shared).sum()
        again = torch.stack([net(row) for net, row in zip(module.decode, own + shared, strict=True)])
        return (again - projected).square().mean()

    before, after = follow_penalty(module, x, measure)
    assert after < 0.7 * before
    assert "penalty" not in module.eval()(x, THERE)


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


def test_infomax_predicts_every_other_branch_from_its_anchor(monkeypatch):
    module, x, asked = networks.InfoMax(DIMS, 3, hidden=8, dropout=0.0).train(), inputs(), []
    for net in module.predict:
        monkeypatch.setattr(net, "forward", lambda given, wanted: asked.append((given, wanted)) or given.sum())
    module(x, THERE)
    rows = module.encode(x).unbind(1)
    assert all(torch.equal(given, rows[2]) for given, _ in asked)
    assert all(torch.equal(wanted, rows[i]) for i, (_, wanted) in enumerate(asked))


@pytest.mark.parametrize("bound", ["between", "fused"])
def test_training_infomax_raises_both_bounds(bound):
    shown = torch.randn(64, 3)  # what all branches tell
    x = {branch: torch.cat([shown, torch.randn(64, dim - 3)], 1) for branch, dim in DIMS.items()}
    weights = {"between": 0.0, "fused": 0.0} | {bound: 1.0}
    module = networks.InfoMax(DIMS, 3, hidden=8, dropout=0.0, **weights)

    def measure():
        rows = module.encode(x).unbind(1)
        if bound == "between":
            return sum(net(rows[2], rows[i]) for i, net in enumerate(module.predict))
        fused = module.fuse(torch.cat(rows, 1))
        return sum(networks.contrastive(net(fused), row) for net, row in zip(module.contrast, rows, strict=True))

    before, after = follow_penalty(module, x, measure)
    assert after > before + 0.5


# ---- the official attention


def test_the_weights_of_official_attention_are_no_shares():
    """The toolkit takes no softmax: weights may be negative, and need not sum to one."""
    module, x = networks.OfficialAttention(DIMS, 3, hidden=8).eval(), inputs()
    torch.nn.init.zeros_(module.judge[1].weight)
    torch.nn.init.constant_(module.judge[1].bias, -2.0)
    torch.testing.assert_close(module(x, THERE)["logits"], module.classify(-2 * module.encode(x).sum(1)))


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


def test_training_on_the_penalty_balances_the_experts():
    module, x = networks.Experts(DIMS, 3, dropout=0.0, balance=1.0), inputs(64)
    torch.nn.init.constant_(module.route.bias[:1], 3.0)
    there = torch.ones(64, 3, dtype=torch.bool)
    before, after = follow_penalty(module, x, lambda: networks.imbalance(module(x, there)["weights"]))
    assert after < 0.5 * before


def test_an_absent_expert_is_not_asked():
    module, x = networks.Experts(DIMS, 3).eval(), inputs()
    present = THERE.clone()
    present[:, 1] = False
    one = module(x, present)["logits"]
    for layer in module.classify[1].parameters():
        torch.nn.init.constant_(layer, 9.0)
    assert torch.equal(module(x, present)["logits"], one)


# ---- all of them


@pytest.mark.parametrize("name", sorted(registry.NETWORKS))
@pytest.mark.parametrize("n_branches", [1, 2, 6])
def test_any_number_of_branches_and_one_clip(name, n_branches):
    dims = {f"b{i}": 3 + i for i in range(n_branches)}
    module = registry.NETWORKS[name][0](dims, 4)
    for n in (1, 5):
        for training in (True, False):
            out = module.train(training)(inputs(n, dims), torch.ones(n, n_branches, dtype=torch.bool))
            assert out["logits"].shape == (n, 4) and torch.isfinite(out["logits"]).all()
            assert torch.isfinite(torch.as_tensor(out.get("penalty", 0.0))).all()


@pytest.mark.parametrize("name", sorted(set(registry.NETWORKS) - {"ecmf"}))
def test_every_parameter_is_learned(name):
    module = registry.NETWORKS[name][0](DIMS, 4).train()
    x = {b: torch.randn(16, 3, dim) for b, dim in DIMS.items()} if name in registry.SEQUENTIAL else inputs(16)
    out = module(x, torch.ones(16, 3, dtype=torch.bool))
    (out["logits"].square().mean() + out.get("penalty", 0.0)).backward()
    idle = {name for name, p in module.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not idle
