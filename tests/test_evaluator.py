from typing import ClassVar

from nasvid.evaluator import Cost, DenoisingLoss, Latency
from nasvid.testing.evaluator import EvaluatorConformance


class TestCost(EvaluatorConformance):
    evaluator = Cost


class TestDenoisingLoss(EvaluatorConformance):
    evaluator = DenoisingLoss


class TestLatency(EvaluatorConformance):
    evaluator = Latency
    options: ClassVar = {"repeats": 2, "warm_up": 1}
