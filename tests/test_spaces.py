"""What is searched exists, and every model but the prior has something to search."""

import pytest

from ecmf_utils import baselines, spaces
from ecmf_utils.search import Searched

from .made_up import DIMS

ALL = sorted({**baselines.NETWORKS, **baselines.LINEAR})


@pytest.mark.parametrize("name", [name for name in ALL if name != "majority"])
def test_every_searched_setting_is_one_of_the_model_and_its_values_make_one(name):
    for key, choices in spaces.SPACES[name].items():
        for value in choices if isinstance(choices, list) else choices[:2]:
            model = baselines.make_model(name, DIMS, 4, **{key: value})
            assert model.recipe["settings"] == {key: value}
            if name in baselines.NETWORKS:
                model.network(DIMS)  # fits together


def test_the_prior_is_not_searched_and_settings_are_what_the_first_trial_has():
    assert isinstance(spaces.searched("majority", DIMS, 4, 5), baselines.Majority)
    model = spaces.searched("ecmf", DIMS, 4, 5, width=16)
    assert isinstance(model, Searched) and model.trial == {"refit": False}
    assert model.make().recipe["settings"] == {"width": 16}
    assert model.make(width=64).recipe["settings"] == {"width": 64}
    assert spaces.searched("logreg", DIMS, 4, 5).trial == {}
