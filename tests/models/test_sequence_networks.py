"""A property of each network from its paper, on frame-level sequences."""

import pytest
import torch

from ecmf_utils.models import registry, sequence_networks

DIMS = {"face": 6, "audio": 5, "text": 4}
THERE = torch.ones(5, 3, dtype=torch.bool)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def inputs(n=5, n_steps=4, dims=DIMS):
    return {branch: torch.randn(n, n_steps, dim) for branch, dim in dims.items()}


def made(name, **settings):
    return registry.NETWORKS[name][0](DIMS, 3, **settings).eval()


@pytest.mark.parametrize("name", registry.SEQUENTIAL)
def test_the_order_of_the_steps_counts(name):
    module, x = made(name), inputs()
    turned = {branch: rows.flip(1) for branch, rows in x.items()}
    assert not torch.allclose(module(x, THERE)["logits"], module(turned, THERE)["logits"], atol=1e-5)


@pytest.mark.parametrize("name", registry.SEQUENTIAL)
def test_a_vector_is_a_sequence_of_one_step_and_goes_beside_longer_ones(name):
    module, x = made(name), inputs(n_steps=1)
    flat = {branch: rows[:, 0] for branch, rows in x.items()}
    assert torch.equal(module(flat, THERE)["logits"], module(x, THERE)["logits"])
    mixed = inputs(n_steps=4) | {"text": flat["text"]}
    assert module(mixed, THERE)["logits"].shape == (5, 3)


@pytest.mark.parametrize("name", registry.SEQUENTIAL)
def test_clips_do_not_see_one_another(name):
    module, x = made(name), inputs()
    alone = {branch: rows[2:3] for branch, rows in x.items()}
    torch.testing.assert_close(module(alone, THERE[:1])["logits"], module(x, THERE)["logits"][2:3])


@pytest.mark.parametrize("name", registry.SEQUENTIAL)
def test_what_two_branches_only_tell_together_is_learned(name):
    """The class is whether face and audio have the same sign at the first step: neither knows it alone."""
    n = 256
    x = {branch: 0.1 * torch.randn(n, 3, dim) for branch, dim in DIMS.items()}
    signs = torch.randint(0, 2, (n, 2)) * 2.0 - 1
    x["face"][:, 0, 0], x["audio"][:, 0, 0] = signs[:, 0], signs[:, 1]
    y = (signs[:, 0] == signs[:, 1]).long()
    module = registry.NETWORKS[name][0](DIMS, 2, dropout=0.0).train()
    optimiser = torch.optim.Adam(module.parameters(), 5e-3)
    there = torch.ones(n, 3, dtype=torch.bool)
    for _ in range(60):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(module(x, there)["logits"], y).backward()
        optimiser.step()
    assert (module(x, there)["logits"].argmax(1) == y).float().mean() > 0.95


def test_the_memory_sees_the_step_before():
    """Delta memory: what is offered depends on the cells before and after the step (MFN, section 3.2)."""
    module = made("mfn")
    cells, other = torch.randn(2, len(DIMS), 5, module.hidden)
    offered = module.fuse(cells, other)
    assert not torch.allclose(offered, module.fuse(other, other))
    weights = offered / torch.cat([*cells, *other], dim=1)
    torch.testing.assert_close(weights.sum(1), torch.ones(5))  # attention over all numbers of both steps


@pytest.mark.parametrize(("n_branches", "vertices"), [(1, 1), (2, 3), (3, 7), (4, 15), (5, 16), (6, 22)])
def test_the_graph_has_a_vertex_for_every_subset(n_branches, vertices):
    module = sequence_networks.GraphMemoryFusion({f"b{i}": 3 for i in range(n_branches)}, 3)
    assert len(module.vertices) == vertices
    assert all(module.vertices[i] < module.vertices[j] for i, j in module.edges)


def test_an_edge_of_no_strength_carries_nothing():
    module = made("graph_mfn")
    torch.nn.init.zeros_(module.efficacy[-1].weight)
    torch.nn.init.constant_(module.efficacy[-1].bias, -100.0)  # all strengths 0
    cells = torch.randn(len(DIMS), 5, module.hidden)
    assert module.fuse(cells, cells).abs().max() < 1e-6


def test_a_branch_attends_to_another_one_and_to_each_of_its_steps():
    layer = sequence_networks.CrossLayers(2, 8, 2, 0.0).eval()
    asks, told = torch.randn(2, 4, 3, 8), torch.randn(2, 4, 5, 8)
    out = layer(asks, told)
    assert out.shape == asks.shape
    shuffled = told[:, :, torch.randperm(5)]
    torch.testing.assert_close(layer(asks, shuffled), out)  # attention itself knows no order
    assert not torch.allclose(layer(asks, torch.randn(2, 4, 5, 8)), out)


def test_layers_side_by_side_are_those_of_pytorch():
    layer = sequence_networks.CrossLayers(3, 8, 2, 0.0).eval()
    asks, told = torch.randn(3, 4, 5, 8), torch.randn(3, 4, 6, 8)
    out = layer(asks, told)
    for i in range(3):
        own = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        weights = [layer.ask.weight[i].T, layer.tell.weight[i].T]
        own.in_proj_weight.data = torch.cat(weights)
        own.in_proj_bias.data = torch.cat([layer.ask.bias.view(3, -1)[i], layer.tell.bias.view(3, -1)[i]])
        own.out_proj.weight.data, own.out_proj.bias.data = layer.leave.weight[i].T, layer.leave.bias.view(3, -1)[i]
        norm = torch.nn.functional.layer_norm
        key = norm(told[i], (8,))
        seen = asks[i] + own(norm(asks[i], (8,)), key, key)[0]
        wide = (norm(seen, (8,)) @ layer.widen.weight[i] + layer.widen.bias.view(3, -1)[i]).relu()
        torch.testing.assert_close(out[i], seen + wide @ layer.narrow.weight[i] + layer.narrow.bias.view(3, -1)[i])


def test_lstms_side_by_side_are_those_of_pytorch():
    module, x = sequence_networks.Lstms(list(DIMS.values()), 7), list(inputs().values())
    last, cells = module(x)
    assert len(cells) == 5 and not cells[0].any()
    for i, dim in enumerate(DIMS.values()):
        own = torch.nn.LSTM(dim, 7, batch_first=True)
        order = [0, 1, 3, 2]  # PyTorch has enter, forget, new, leave
        parts = [module.see[i].weight, module.recall.weight[i].T, module.see[i].bias, module.recall.bias.view(3, -1)[i]]
        turned = [torch.cat([part.chunk(4)[k] for k in order]) for part in parts]
        for name, value in zip(["weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"], turned, strict=True):
            getattr(own, name).data = value
        _, (state, cell) = own(x[i])
        torch.testing.assert_close(last[i], state[0])
        torch.testing.assert_close(cells[-1][i], cell[0])


def test_every_branch_asks_and_every_other_one_tells(monkeypatch):
    module, seen = made("mult").eval(), []
    assert module.pairs == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    forward = sequence_networks.CrossLayers.forward
    monkeypatch.setattr(
        sequence_networks.CrossLayers, "forward", lambda s, a, t: seen.append((a, t)) or forward(s, a, t)
    )
    x = inputs()
    module(x, torch.ones(len(next(iter(x.values()))), len(DIMS), dtype=torch.bool))
    rows = [module._short(conv, x[branch]) for branch, conv in zip(DIMS, module.shorten, strict=True)]
    for asks, told in seen[:1]:
        for k, (i, j) in enumerate(module.pairs):
            assert torch.equal(asks[k], rows[i]) and torch.equal(told[k], rows[j])
    for _, told in seen[1:-1]:  # the first layers' answers are asked with, the branches themselves keep telling
        assert all(torch.equal(told[k], rows[j]) for k, (_, j) in enumerate(module.pairs))


def test_delta_memory_is_given_two_steps_in_a_row(monkeypatch):
    module, seen = made("mfn").eval(), []
    fuse = module.fuse
    monkeypatch.setattr(module, "fuse", lambda before, after: seen.append((before, after)) or fuse(before, after))
    x = inputs()
    n = len(next(iter(x.values())))
    module(x, torch.ones(n, len(DIMS), dtype=torch.bool))
    [(before, after)] = seen
    assert (before[:, :n] == 0).all() and torch.equal(before[:, n:], after[:, :-n])


def test_positions_differ_and_have_any_width():
    for width in (4, 5):
        table = sequence_networks.positions(6, width)
        assert table.shape == (6, width) and len({tuple(row.tolist()) for row in table}) == 6
