"""What the ECMF network promises about absent branches, weights and its switches."""

import pytest
import torch

from ecmf_utils.files import EcmfError
from ecmf_utils.models.ecmf import Ecmf, masked_softmax
from tests.made_up import DIMS


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    x = {branch: torch.randn(7, dim) for branch, dim in DIMS.items()}
    present = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]])
    return x, present.bool(), said(x)


def said(x):
    """What made-up heads say, (N, B, 4)."""
    maps = torch.Generator().manual_seed(2)
    return torch.stack([row @ torch.randn(row.shape[1], 4, generator=maps) for row in x.values()], dim=1)


def network(**switches):
    """An untrained network with nothing left at zero, so that every path shows."""
    torch.manual_seed(1)
    module = Ecmf(DIMS, 4, **switches)
    for name, parameter in module.named_parameters():
        if name.startswith(("score", "classify")):
            torch.nn.init.normal_(parameter)
    return module.eval()


SWITCHES = [
    {}, {"attention": False}, {"residual": False}, {"auxiliary": False}, {"weighting": False}, {"layers": 2}
]  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES)
def test_shapes_and_weights(inputs, switches):
    out = network(**switches)(*inputs)
    assert out["logits"].shape == (7, 4) and out["weights"].shape == (7, 3)
    assert torch.isfinite(out["logits"]).all()
    torch.testing.assert_close(out["weights"].sum(1), torch.tensor([1.0] * 6 + [0.0]))
    assert (out["weights"][~inputs[1]] == 0).all()


@pytest.mark.parametrize("switches", SWITCHES)
def test_an_absent_branch_is_masked_not_read(inputs, switches):
    x, present, logits = inputs
    module = network(**switches)
    changed = {b: torch.where(present[:, [i]], v, v + 100) for i, (b, v) in enumerate(x.items())}
    other = torch.where(present.unsqueeze(-1), logits, logits - 9)
    torch.testing.assert_close(module(changed, present, other)["logits"], module(x, present, logits)["logits"])


@pytest.mark.parametrize("switches", SWITCHES[:4])
def test_every_present_branch_matters(inputs, switches):
    x, present, logits = inputs
    module = network(**switches)
    first = module(x, present, logits)["logits"][0]
    for branch in DIMS:
        assert not torch.allclose(module({**x, branch: x[branch] + 1}, present, logits)["logits"][0], first)


@pytest.mark.parametrize("residual", [True, False])
def test_what_every_present_head_says_matters(inputs, residual):
    x, present, logits = inputs
    module = network(residual=residual)
    first = module(x, present, logits)["logits"][0]
    for i in range(3):
        turned = logits.clone()
        turned[:, i] = turned[:, i].roll(1, -1)
        assert not torch.allclose(module(x, present, turned)["logits"][0], first)
    deaf = network(auxiliary=False)
    assert torch.equal(deaf(x, present, logits)["logits"], deaf(x, present)["logits"])


def test_attention_lets_a_branch_change_the_weight_of_another(inputs):
    x, present, logits = inputs

    def ratio(module, shift):
        weights = module({**x, "text": x["text"] + shift}, present, logits)["weights"]
        return weights[0, 0] / weights[0, 1]

    assert not torch.isclose(ratio(network(), 0), ratio(network(), 3))
    plain = network(attention=False)
    torch.testing.assert_close(ratio(plain, 0), ratio(plain, 3))


def test_residuals_keep_what_the_heads_say_and_what_the_tokens_were(inputs):
    x, present, logits = inputs
    torch.manual_seed(1)
    kept, lost = (Ecmf(DIMS, 4, residual=residual).eval() for residual in (True, False))
    lost.load_state_dict(kept.state_dict())
    told = lost(x, present, logits)["logits"]
    assert not told.any()  # nothing but the correction, which is zero here; the heads' sum is gone
    assert kept(x, present, logits)["logits"][:6].abs().sum(1).all()
    one, other = network(residual=True, auxiliary=False), network(residual=False, auxiliary=False)
    other.load_state_dict(one.state_dict())
    for attention in (*one.attend, *other.attend):
        torch.nn.init.zeros_(attention.out.weight)
        torch.nn.init.zeros_(attention.out.bias)
    assert len({tuple(row) for row in other(x, present)["logits"].tolist()}) == 1  # attention that says nothing is all
    assert len({tuple(row) for row in one(x, present)["logits"].tolist()}) > 1  # the tokens themselves are still there


def test_switches_remove_their_parameters():
    names = {name.split(".")[0] for name, _ in Ecmf(DIMS, 4).named_parameters()}
    assert {"attend", "lift", "embedding", "project"} <= names
    without = Ecmf(DIMS, 4, attention=False, auxiliary=False).named_parameters()
    assert not {name.split(".")[0] for name, _ in without} & {"attend", "lift"}


def test_without_weighting_all_that_are_there_weigh_the_same(inputs):
    weights = network(weighting=False)(*inputs)["weights"]
    there = inputs[1].float()
    torch.testing.assert_close(weights, there / there.sum(1, keepdim=True).clamp_min(1))
    assert not torch.allclose(network()(*inputs)["weights"], weights)


@pytest.mark.parametrize("wrong", [{"heads": 5}, {"width": 0}, {"width": 30}])
def test_a_width_that_the_heads_do_not_divide_is_one_clear_line(wrong):
    with pytest.raises(EcmfError, match="expected a width that the heads divide"):
        Ecmf(DIMS, 4, **wrong)


def test_untrained_weights_are_equal(inputs):
    weights = Ecmf(DIMS, 4).eval()(*inputs)["weights"]
    torch.testing.assert_close(weights[:2], torch.tensor([[1 / 3] * 3, [1 / 2, 0, 1 / 2]]))


def test_branches_that_agree_are_surer_than_one(inputs):
    x, *_ = inputs
    module = Ecmf(DIMS, 4).eval()
    agreed = torch.tensor([3.0, 0, 0, 0]).expand(1, 3, 4)
    row = {branch: values[:1] for branch, values in x.items()}
    one = module(row, torch.tensor([[True, False, False]]), agreed)["logits"].softmax(-1)
    three = module(row, torch.tensor([[True, True, True]]), agreed)["logits"].softmax(-1)
    assert three[0, 0] > one[0, 0]


def test_branch_dropout_hides_branches_while_training_only():
    module = Ecmf(DIMS, 4, branch_dropout=0.5)
    present = torch.ones(400, 3, dtype=torch.bool)
    hidden = module.train()._drop_branches(present)
    assert 0.3 < hidden.float().mean() < 0.75 and hidden.any(1).all()
    assert module.eval()._drop_branches(present).all()


def test_masked_softmax_of_nothing_is_zero():
    weights = masked_softmax(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert weights.tolist() == [[0.0, 0.0, 0.0]]
