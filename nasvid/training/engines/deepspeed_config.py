"""The config of engine `deepspeed`, and the configuration that it passes to DeepSpeed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator, model_validator

from nasvid.errors import UserError
from nasvid.plugins.config import Config, RecipePath
from nasvid.recipe.sections import TrainingSection

BUCKET = 5 * 10**8
"""DeepSpeed's default `reduce_bucket_size`, in elements."""
RARELY = 10**12
"""Steps between DeepSpeed's progress lines: practically never, as nasvid has its own."""

NOT_TAKEN = {
    "activation_checkpointing": "set training.gradient_checkpointing",
    "amp": "set training.precision",
    "bf16": "set training.precision: weights stay in fp32, products are in bf16",
    "checkpoint": "checkpoints are nasvid's own: any number of ranks and any engine reads them",
    "compression_training": "it would change the weights that subnets share",
    "curriculum_learning": "use a sampler that plans what is trained when",
    "data_efficiency": "use a sampler that plans what is trained when",
    "data_types": "gradients and weights are in fp32",
    "fp16": "set training.precision: weights stay in fp32, products are in fp16",
    "optimizer": "the optimizer is nasvid's own, which leaves inactive weights untouched",
    "scheduler": "set training.lr_schedule",
    "torch_autocast": "set training.precision",
    "zero_allow_untested_optimizer": "nasvid sets it for its own optimizer",
}
"""DeepSpeed's keys for what the recipe sets, and what to do instead."""

NOT_TAKEN_OF_ZERO = {
    "offload_param": "it applies only to ZeRO 3",
    "round_robin_gradients": "checkpoints are read by the order of the parameters",
    "zero_quantized_gradients": "gradients must be exactly zero where a subnet has no weights",
    "zero_quantized_weights": "weights that a subnet does not have must stay exactly as they are",
}
"""Keys of `zero_optimization` that are not allowed, and why."""


class DeepSpeedConfig(Config):
    """Options of deepspeed."""

    zero: int = Field(default=2, ge=0, le=3)
    """ZeRO stage: 0 keeps the whole state on each rank, 1 partitions the optimizer's state and the
    EMA weights, 2 also the gradients that remain after a step."""
    offload: bool = False
    """Keep the partitioned state in the host's memory, and update the weights there."""
    config: RecipePath | None = None
    """A DeepSpeed JSON file, relative to the recipe, for what a recipe does not set: bucket sizes,
    communication, logging."""

    @field_validator("zero")
    @classmethod
    def _stage_can_be_had(cls, zero: int) -> int:
        if zero == 3:
            raise ValueError(
                "ZeRO 3 is not supported: it partitions the weights, of which subnets are views; "
                "use zero: 2"
            )
        if zero not in (0, 1, 2):
            raise ValueError(f"{zero} is not a ZeRO stage; use 0, 1 or 2")
        return zero

    @model_validator(mode="after")
    def _can_be_had(self) -> DeepSpeedConfig:
        if self.offload and self.zero == 0:
            raise ValueError("offload needs a partitioned state; set zero: 1 or 2")
        return self


def deepspeed_config(config: DeepSpeedConfig, settings: TrainingSection) -> dict[str, Any]:
    """Return DeepSpeed's configuration for a recipe, with the user's own merged in.

    Raises:
        UserError: the user's file cannot be read, or contradicts the recipe.
    """
    ours: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": settings.clip_norm,
        "steps_per_print": RARELY,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {"stage": config.zero},
    }
    if config.offload:
        ours["zero_optimization"]["offload_optimizer"] = {"device": "cpu"}
    if config.config is None:
        return ours
    theirs = read_json(Path(config.config))
    problems = [f"{config.config}: {problem}" for problem in _contradictions(theirs, ours, config)]
    if problems:
        raise UserError("\n".join(problems))
    return _merged(ours, theirs)


def reduce_bucket(config: DeepSpeedConfig) -> int:
    """Return how many elements DeepSpeed reduces at a time: the user's value or the default.

    Raises:
        UserError: the file cannot be read.
    """
    theirs = {} if config.config is None else read_json(Path(config.config))
    zero = theirs.get("zero_optimization")
    size = zero.get("reduce_bucket_size") if isinstance(zero, Mapping) else None
    return BUCKET if size in (None, "auto") else int(size)


def read_json(path: Path) -> dict[str, Any]:
    """Return the content of a user's file.

    Raises:
        UserError: it does not exist or is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"training.engine.config: {path} does not exist") from None
    except ValueError as error:
        raise UserError(f"training.engine.config: {path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"training.engine.config: {path} is not a JSON object")
    return content


def _contradictions(
    theirs: Mapping[str, Any], ours: Mapping[str, Any], config: DeepSpeedConfig
) -> Iterator[str]:
    """Yield what contradicts the recipe in a user's file, or belongs in the recipe."""
    for key, where in NOT_TAKEN.items():
        value = theirs.get(key)
        if value and not (isinstance(value, Mapping) and value.get("enabled") is False):
            yield f"{key} is not allowed; {where}"
    for key in ("train_batch_size", "train_micro_batch_size_per_gpu"):
        if theirs.get(key, "auto") != "auto":
            yield f"{key} is not allowed; set the batch of each resolution"
    if theirs.get("gradient_accumulation_steps", "auto") not in ("auto", 1):
        yield "gradient_accumulation_steps is not allowed; set the micro_batch of each resolution"
    clip = theirs.get("gradient_clipping", "auto")
    if clip not in ("auto", ours["gradient_clipping"]):
        named = f"training.clip_norm is {ours['gradient_clipping']:g}"
        yield f"gradient_clipping is {clip}, but the recipe's {named}"
    zero = theirs.get("zero_optimization", {})
    if not isinstance(zero, Mapping):
        yield "zero_optimization is not an object"
        return
    if zero.get("stage", config.zero) != config.zero:
        named = f"training.engine.zero is {config.zero}"
        yield f"zero_optimization.stage is {zero['stage']}, but the recipe's {named}"
    offload = zero.get("offload_optimizer")
    device = offload.get("device", "cpu") if isinstance(offload, Mapping) else None
    if device is not None and (device != "none") != config.offload:
        named = f"training.engine.offload is {str(config.offload).lower()}"
        yield f"zero_optimization.offload_optimizer is to '{device}', but the recipe's {named}"
    elif device == "nvme":
        yield "zero_optimization.offload_optimizer to 'nvme' applies only to ZeRO 3; use 'cpu'"
    for key, why in NOT_TAKEN_OF_ZERO.items():
        if zero.get(key):
            yield f"zero_optimization.{key} is not allowed; {why}"


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Return both merged; they do not contradict each other."""
    merged = dict(ours)
    for key, value in theirs.items():
        if isinstance(value, Mapping) and isinstance(ours.get(key), Mapping):
            merged[key] = _merged(ours[key], value)
        elif key not in ours:
            merged[key] = value
    return merged
