"""The options of the strategy `nni`, checked without importing NNI."""

from __future__ import annotations

from importlib.util import find_spec
from ipaddress import ip_address
from typing import Any

from pydantic import Field, field_validator, model_validator

from nasvid import plugins
from nasvid.errors import nearest
from nasvid.plugins.config import Config
from nasvid.space import SearchSpace

NNI_TUNERS = ("TPE", "Random", "Evolution", "GridSearch", "Batch")
BROKEN = {
    "Anneal": "needs hyperopt, which does not run on today's numpy: the experiment would hang",
    "GP": "fails on today's scipy",
    "Metis": "fails on today's scipy",
    "PBT": "tunes settings of a training, with checkpoints of trials: nothing to tune here",
    "RegularizedEvolution": "takes none of the choices that a search space has; see evolutionary",
    "SMAC": "needs packages that are not to be had for today's Python",
    "PPO": "needs packages that are not to be had for today's Python",
    "BOHB": "needs packages that are not to be had for today's Python",
    "DNGO": "needs packages that are not to be had for today's Python",
    "NetworkMorphism": "needs packages that are not to be had for today's Python",
    "Hyperband": "divides a training into budgets: a subnet is evaluated in one go",
}
"""Tuners that NNI 3.0 names and that cannot be used, and why."""


class NniConfig(Config):
    """Options of nni."""

    tuner: str = "TPE"
    """What proposes: TPE, Random, Evolution, GridSearch or Batch of NNI, which minimise the first
    objective alone, or a strategy of nasvid such as evolutionary."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The tuner's own: as NNI's class takes them, or a strategy's options. Batch has
    `architectures`, mappings from choice to option; what is left out is as in the largest."""
    port: int = Field(default=8080, ge=1, le=65535)
    """Of the web UI."""
    host: str = "127.0.0.1"
    """Address that the web UI listens on. NNI has no authentication: whoever reaches it can run
    commands as you."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Trials under way at a time. Subnets are evaluated one after the other all the same;
    more than one hides how long a trial takes to start, and tuners of NNI learn later."""

    @field_validator("tuner")
    @classmethod
    def _is_usable(cls, tuner: str) -> str:
        if tuner in BROKEN:
            raise ValueError(f"NNI's {tuner} tuner {BROKEN[tuner]}")
        known = [*NNI_TUNERS, *(n for n in plugins.available("strategies") if n != "nni")]
        if tuner not in known:
            raise ValueError(f"unknown tuner '{tuner}'{nearest(tuner, known)}")
        return tuner

    @model_validator(mode="after")
    def _is_installed(self) -> NniConfig:
        if find_spec("nni") is None:
            raise ValueError(
                "this strategy needs NNI, which is not installed: pip install 'nasvid[nni]'"
            )
        if self.tuner not in NNI_TUNERS:
            plugins.load("strategies", self.tuner).Config.model_validate(self.arguments)
        elif self.tuner == "Batch" and not self.arguments.get("architectures"):
            raise ValueError("the Batch tuner needs arguments: {architectures: [...]}")
        return self


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def search_space(space: SearchSpace) -> dict[str, Any]:
    """Return the choices of a space as NNI writes a search space."""
    return {
        choice.name: {"_type": "choice", "_value": list(choice.options)} for choice in space.choices
    }
