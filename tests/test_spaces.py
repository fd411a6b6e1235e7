"""What is searched exists, and every network has something to search."""

import pytest

from ecmf_utils import baselines, spaces
from ecmf_utils.search import Searched

from .made_up import DIMS


@pytest.mark.parametrize("name", sorted(baselines.NETWORKS))
def test_every_searched_setting_is_one_of_the_model_and_its_values_make_one(name):
    for key, choices in spaces.SPACES[name].items():
        for value in choices if isinstance(choices, list) else choices[:2]:
            model = baselines.make_model(name, DIMS, 4, **{key: value})
            assert model.recipe["settings"] == {key: value}
            if name in baselines.NETWORKS:
                model.network(DIMS)  # fits together


@pytest.mark.parametrize("name", sorted(baselines.LINEAR))
def test_what_chooses_its_own_setting_is_not_searched_a_second_time(name):
    """One strength for all branches would replace one for each, chosen in inner group folds."""
    assert not isinstance(spaces.searched(name, DIMS, 4, 5), Searched)


def test_settings_are_what_the_first_trial_has(monkeypatch):
    model = spaces.searched("ecmf", DIMS, 4, 5, width=16)
    assert isinstance(model, Searched) and model.trial == {"refit": False}
    assert model.make().recipe["settings"] == {"width": 16}
    assert model.make(width=64).recipe["settings"] == {"width": 64}
    monkeypatch.setitem(spaces.SPACES, "logreg", {"strength": (1e-4, 1.0, "log")})
    assert spaces.searched("logreg", DIMS, 4, 5).trial == {}  # it has no epochs to train again
