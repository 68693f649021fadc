from typing import ClassVar

from nasvid.sampler import CostUniform, Sandwich, Uniform, WarmUp
from nasvid.testing.sampler import SamplerConformance


class TestUniform(SamplerConformance):
    sampler = Uniform


class TestCostUniform(SamplerConformance):
    sampler = CostUniform
    options: ClassVar = {"metric": "macs"}


class TestSandwich(SamplerConformance):
    sampler = Sandwich
    options: ClassVar = {"n_random": 2}


class TestWarmUp(SamplerConformance):
    sampler = WarmUp
