"""The tuners of NNI: what each proposes, and what it cannot take."""

import statistics
from typing import ClassVar

import pytest

from nasvid.errors import UserError
from nasvid.testing import StrategyConformance
from nasvid_strategies.nni import binding, config
from nasvid_strategies.nni.config import NniConfig
from nasvid_strategies.nni.strategy import Nni
from tests.strategies.nni.searching import search

pytestmark = pytest.mark.slow


class TestTpe(StrategyConformance):
    strategy = Nni
    options: ClassVar = {"tuner": "TPE", "concurrency": 2}


class TestRandom(StrategyConformance):
    strategy = Nni
    options: ClassVar = {"tuner": "Random"}


class TestEvolution(StrategyConformance):
    strategy = Nni
    options: ClassVar = {"tuner": "Evolution", "arguments": {"population_size": 4}}


class TestGridSearch(StrategyConformance):
    strategy = Nni
    options: ClassVar = {"tuner": "GridSearch"}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuner": "GP"}, "fails with current scipy"),
        ({"tuner": "Anneal"}, "would hang"),
        ({"tuner": "TPES"}, "did you mean 'TPE'"),
        ({"tuner": "nni"}, "unknown tuner 'nni'"),
        ({"tuner": "Batch"}, "architectures"),
        ({"tuner": "evolutionary", "arguments": {"populaton": 3}}, "populaton"),
        ({"port": 0}, "port"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(options, said):
    with pytest.raises(ValueError, match=said):
        NniConfig.model_validate(options)


def test_arguments_that_a_tuner_does_not_take(tmp_path, free_port):
    with pytest.raises(UserError, match=r"NNI's TPE tuner .*speed"):
        search(tmp_path, tuner="TPE", arguments={"speed": 3}, port=free_port())


def test_tpe_still_learns_when_it_has_found_what_is_good():
    space = {f"choice.{i}": {"_type": "choice", "_value": [0, 1]} for i in range(20)}
    tuner = binding.make_tuner("TPE", {}, space, seed=0)
    values = []
    for number in range(80):
        parameters = binding.propose(tuner, number)
        values.append(20.0 - sum(parameters.values()))
        tuner.receive_trial_result(number, parameters, {"default": values[-1]})
        tuner.trial_end(number, True)
    assert statistics.mean(values[:20]) > 8
    assert statistics.mean(values[-20:]) < 4


def test_without_nni_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'nasvid\[nni\]'"):
        NniConfig()
