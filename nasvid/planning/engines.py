"""The engine that a plan is for, and those that it is compared with."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import ValidationError

from nasvid.errors import UserError
from nasvid.planning.memory import ZERO_BUCKET, EngineChoice
from nasvid.recipe.sections import EngineSection, Recipe, TrainingSection

STAGES = (0, 1, 2)
"""Of ZeRO, that engine `deepspeed` has. Stage 3 would leave weights empty where subnets are views
of them."""


def named(recipe: Recipe, name: str | None, zero: int | None, offload: bool) -> EngineSection:
    """Return the recipe's engine, or the one that is named, with what else is said of it.

    Raises:
        UserError: there is no such engine, or it has no such option.
    """
    own = recipe.training.engine
    options = dict(own.options) if name in (None, own.name) else {}
    said = {} if zero is None else {"zero": zero}
    said |= {"offload": True} if offload else {}
    try:
        cls = EngineSection(name=name or own.name).cls
        for option in said:
            if option not in cls.Config.model_fields:
                raise UserError(
                    f"--{option}: the engine {name or own.name} has no such option: add "
                    "--engine deepspeed, which divides its state"
                )
        return EngineSection.model_validate({"name": name or own.name, **options, **said})
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        given = " ".join(
            [f"--engine {name}"] * (name is not None)
            + [f"--zero {zero}"] * (zero is not None)
            + ["--offload"] * offload
        )
        raise UserError(f"{given}: {problem}") from None


def choice(section: EngineSection, settings: TrainingSection) -> EngineChoice:
    """Return an engine as a plan takes it; one that is not known here counts as `torch`.

    Raises:
        UserError: its own file cannot be read.
    """
    if section.name != "deepspeed":
        return EngineChoice(name=section.name)
    from nasvid.training.engines.deepspeed_config import DeepSpeedConfig, deepspeed_config

    config = section.config
    assert isinstance(config, DeepSpeedConfig)
    zero = deepspeed_config(config, settings)["zero_optimization"]
    bucket = zero.get("reduce_bucket_size", ZERO_BUCKET)
    return EngineChoice(
        name="deepspeed",
        zero=config.zero,
        offload=config.offload,
        bucket=int(bucket) if bucket != "auto" else ZERO_BUCKET,
    )


def to_compare(chosen: EngineChoice, devices: int) -> Iterator[EngineChoice]:
    """Yield an engine, then the others that its table shows; none where there is one device."""
    yield chosen
    if devices == 1 and chosen.name != "deepspeed":
        return
    bucket = chosen.bucket
    others = [EngineChoice()]
    others += [EngineChoice(name="deepspeed", zero=stage, bucket=bucket) for stage in STAGES]
    others += [
        EngineChoice(name="deepspeed", zero=stage, offload=True, bucket=bucket)
        for stage in STAGES[1:]
    ]
    yield from (other for other in others if other != chosen)
