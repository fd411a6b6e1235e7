"""What is searched exists, and every network has something to search."""

import pytest

from ecmf_utils import models
from ecmf_utils.models import registry, search
from ecmf_utils.models.search import Searched
from tests.made_up import DIMS


@pytest.mark.parametrize("name", sorted(registry.NETWORKS))
def test_every_searched_setting_is_one_of_the_model_and_its_values_make_one(name):
    for key, choices in search.SPACES[name].items():
        for value in choices if isinstance(choices, list) else choices[:2]:
            model = models.make_model(name, DIMS, 4, **{key: value})
            assert model.recipe["settings"] == {key: value}
            if name in registry.NETWORKS:
                model.network(DIMS)  # fits together


@pytest.mark.parametrize("name", sorted(registry.LINEAR))
def test_what_chooses_its_own_setting_is_not_searched_a_second_time(name):
    """One strength for all branches would replace one for each, chosen in inner group folds."""
    assert not isinstance(search.searched(name, DIMS, 4, 5), Searched)


def test_settings_are_what_the_first_trial_has(monkeypatch):
    model = search.searched("ecmf", DIMS, 4, 5, width=16)
    assert isinstance(model, Searched) and model.trial == {"refit": False}
    assert model.make().recipe["settings"] == {"width": 16}
    assert model.make(width=64).recipe["settings"] == {"width": 64}
    monkeypatch.setitem(search.SPACES, "logreg", {"strength": (1e-4, 1.0, "log")})
    assert search.searched("logreg", DIMS, 4, 5).trial == {}  # it has no epochs to train again
