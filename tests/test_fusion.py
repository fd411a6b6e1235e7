"""What the ECMF network promises about absent branches, weights and its switches."""

import numpy as np
import pytest
import torch

from ecmf_utils.fusion import Ecmf, masked_softmax
from ecmf_utils.optimisation import parameter_groups

from .made_up import DIMS, make_branches, one_hot


@pytest.fixture
def inputs():
    torch.manual_seed(0)
    x = {branch: torch.randn(7, dim) for branch, dim in DIMS.items()}
    present = torch.tensor(
        [[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]
    )
    return x, present.bool()


def network(**switches):
    """An untrained network with nothing left at zero, so that every path shows."""
    torch.manual_seed(1)
    module = Ecmf(DIMS, 4, **switches)
    for name, parameter in module.named_parameters():
        if name.startswith(("score", "classify")):
            torch.nn.init.normal_(parameter)
    return module.eval()


SWITCHES = [{}, {"attention": False}, {"residual": False}, {"auxiliary": False}, {"layers": 2}]


@pytest.mark.parametrize("switches", SWITCHES)
def test_shapes_and_weights(inputs, switches):
    out = network(**switches)(*inputs)
    assert out["logits"].shape == (7, 4) and out["weights"].shape == (7, 3)
    assert torch.isfinite(out["logits"]).all()
    torch.testing.assert_close(out["weights"].sum(1), torch.tensor([1.0] * 6 + [0.0]))
    assert (out["weights"][~inputs[1]] == 0).all()


@pytest.mark.parametrize("switches", SWITCHES)
def test_an_absent_branch_is_masked_not_read(inputs, switches):
    x, present = inputs
    module = network(**switches)
    changed = {b: torch.where(present[:, [i]], v, v + 100) for i, (b, v) in enumerate(x.items())}
    torch.testing.assert_close(module(changed, present)["logits"], module(x, present)["logits"])


@pytest.mark.parametrize("switches", SWITCHES[:4])
def test_every_present_branch_matters(inputs, switches):
    x, present = inputs
    module = network(**switches)
    for branch in DIMS:
        changed = {**x, branch: x[branch] + 1}
        assert not torch.allclose(
            module(changed, present)["logits"][0], module(x, present)["logits"][0]
        )


def test_attention_lets_a_branch_change_the_weight_of_another(inputs):
    x, present = inputs

    def ratio(module, shift):
        weights = module({**x, "text": x["text"] + shift}, present)["weights"]
        return weights[0, 0] / weights[0, 1]

    assert not torch.isclose(ratio(network(), 0), ratio(network(), 3))
    plain = network(attention=False)
    torch.testing.assert_close(ratio(plain, 0), ratio(plain, 3))


def test_switches_remove_their_parameters():
    names = {name.split(".")[0] for name, _ in Ecmf(DIMS, 4).named_parameters()}
    assert {"attend", "branch_heads", "embedding", "project"} <= names
    without = Ecmf(DIMS, 4, attention=False, auxiliary=False).named_parameters()
    assert not {name.split(".")[0] for name, _ in without} & {"attend", "branch_heads"}


def test_untrained_weights_are_equal(inputs):
    weights = Ecmf(DIMS, 4).eval()(*inputs)["weights"]
    torch.testing.assert_close(weights[:2], torch.tensor([[1 / 3] * 3, [1 / 2, 0, 1 / 2]]))


def test_branches_that_agree_are_surer_than_one(inputs):
    x, _ = inputs
    module = Ecmf(DIMS, 4).eval()
    said = torch.tensor([3.0, 0, 0, 0]).expand(1, 3, 4)
    row = {branch: values[:1] for branch, values in x.items()}
    one = module(row, torch.tensor([[True, False, False]]), said)["logits"].softmax(-1)
    three = module(row, torch.tensor([[True, True, True]]), said)["logits"].softmax(-1)
    assert three[0, 0] > one[0, 0]


def test_branch_dropout_hides_branches_while_training_only():
    module = Ecmf(DIMS, 4, branch_dropout=0.5)
    present = torch.ones(400, 3, dtype=torch.bool)
    hidden = module.train()._drop_branches(present)
    assert 0.3 < hidden.float().mean() < 0.75 and hidden.any(1).all()
    assert module.eval()._drop_branches(present).all()


def test_prepared_heads_know_more_than_chance_and_stay_honest():
    data, truth, _, groups = make_branches()
    module = Ecmf(data.dims, 4)
    present = np.stack(list(data.present.values()), axis=1)
    memory: dict[str, float] = {}
    honest = module.prepare(data.x, present, one_hot(truth), np.ones(len(truth)), groups, 0, memory)
    there = present[:, 0]
    seen = module.branch_heads[0](torch.from_numpy(data.x["face"]))[there].argmax(1).numpy()
    unseen = honest[there, 0].argmax(1)
    assert (seen == truth[there]).mean() > (unseen == truth[there]).mean() > 0.4
    assert set(memory) == set(DIMS) and (honest[~there, 0] == 0).all()


def test_solved_heads_are_not_trained_further():
    data, truth, _, groups = make_branches(60)
    module = Ecmf(data.dims, 4)
    present = np.stack(list(data.present.values()), axis=1)
    module.prepare(data.x, present, one_hot(truth), np.ones(60), groups, 0, {})
    trained = [p for group in parameter_groups(module, 1e-3, 0.1) for p in group["params"]]
    assert not {id(p) for p in module.branch_heads.parameters()} & {id(p) for p in trained}


def test_masked_softmax_of_nothing_is_zero():
    weights = masked_softmax(torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool))
    assert weights.tolist() == [[0.0, 0.0, 0.0]]
