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
    "Anneal": "needs hyperopt, which does not run with current numpy: the experiment would hang",
    "GP": "fails with current scipy",
    "Metis": "fails with current scipy",
    "PBT": "tunes the settings of a training, but a search has none; use evolutionary",
    "RegularizedEvolution": "does not support a search space's choices; use evolutionary",
    "SMAC": "needs packages that do not exist for current Python",
    "PPO": "needs packages that do not exist for current Python",
    "BOHB": "needs packages that do not exist for current Python",
    "DNGO": "needs packages that do not exist for current Python",
    "NetworkMorphism": "needs packages that do not exist for current Python",
    "Hyperband": "divides a training into budgets, but a subnet is evaluated at once",
}
"""Tuners of NNI 3.0 that cannot be used, and why."""


class NniConfig(Config):
    """Options of nni."""

    tuner: str = "TPE"
    """What proposes: NNI's TPE, Random, Evolution, GridSearch or Batch, which minimise
    only the first objective, or a nasvid strategy such as evolutionary."""
    arguments: dict[str, Any] = Field(default_factory=dict)
    """The tuner's options: arguments of NNI's class, or the strategy's options. Batch takes
    `architectures`, mappings from choice to option; missing choices are as in the largest."""
    port: int = Field(default=8080, ge=1, le=65535)
    """Port of the web UI."""
    host: str = "127.0.0.1"
    """Address that the web UI listens on. It requires the token in the printed address, but is not
    encrypted: whoever can read its traffic can run commands as you."""
    concurrency: int = Field(default=1, ge=1, le=64)
    """Number of concurrent trials. Subnets are still evaluated one by one; more trials hide
    the time that a trial takes to start, but NNI's tuners receive results later."""

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
    """Return whether only this machine can reach an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def search_space(space: SearchSpace) -> dict[str, Any]:
    """Return the choices of a space in NNI's format."""
    return {
        choice.name: {"_type": "choice", "_value": list(choice.options)} for choice in space.choices
    }
