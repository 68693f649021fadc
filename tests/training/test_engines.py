from typing import ClassVar

import pytest
from pydantic import ValidationError

from nasvid.errors import UserError
from nasvid.recipe.sections import TrainingSection
from nasvid.testing import EngineConformance
from nasvid.training.engines.deepspeed import DeepSpeedEngine
from nasvid.training.engines.deepspeed_config import DeepSpeedConfig, deepspeed_config
from nasvid.training.engines.torch import TorchEngine

pytestmark = pytest.mark.slow


class TestTorch(EngineConformance):
    engine = TorchEngine


class TestZero0(EngineConformance):
    engine = DeepSpeedEngine
    options: ClassVar = {"zero": 0}


class TestZero1(EngineConformance):
    engine = DeepSpeedEngine
    options: ClassVar = {"zero": 1}


class TestZero1Offloaded(EngineConformance):
    engine = DeepSpeedEngine
    options: ClassVar = {"zero": 1, "offload": True}


class TestZero2(EngineConformance):
    engine = DeepSpeedEngine
    options: ClassVar = {"zero": 2}


class TestZero2Offloaded(EngineConformance):
    engine = DeepSpeedEngine
    options: ClassVar = {"zero": 2, "offload": True}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"zero": 3}, "use zero: 2"),
        ({"zero": 4}, "less than or equal to 3"),
        ({"zero": 0, "offload": True}, "offload needs a partitioned state"),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(options, why):
    with pytest.raises(ValidationError, match=why):
        DeepSpeedConfig.model_validate(options)


def config_of(tmp_path, text: str, **options) -> dict:
    path = tmp_path / "deepspeed.json"
    path.write_text(text)
    config = DeepSpeedConfig.model_validate({"config": str(path), **options})
    return deepspeed_config(config, TrainingSection(steps=1))


def test_a_users_own_file_is_merged_in(tmp_path):
    zero = '"zero_optimization": {"reduce_bucket_size": 1000, "stage": 2}'
    text = "{" + zero + ', "wall_clock_breakdown": true}'
    found = config_of(tmp_path, text)
    assert found["zero_optimization"] == {"stage": 2, "reduce_bucket_size": 1000}
    assert found["wall_clock_breakdown"] is True
    assert found["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            '{"zero_optimization": {"stage": 1}}',
            "recipe's training.engine.zero is 2",
        ),
        (
            '{"gradient_clipping": 5}',
            "recipe's training.clip_norm is 1",
        ),
        ('{"fp16": {"enabled": true}}', "fp16 is not allowed; set training.precision"),
        ('{"optimizer": {"type": "Adam"}}', "optimizer is not allowed"),
        ('{"train_batch_size": 8}', "set the batch of each resolution"),
        (
            '{"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}',
            "training.engine.offload is false",
        ),
        (
            '{"zero_optimization": {"zero_quantized_weights": true}}',
            "must stay exactly",
        ),
        ("[1]", "is not a JSON object"),
        ("{", "is not JSON"),
    ],
)
def test_a_users_own_file_that_contradicts_the_recipe_is_refused(tmp_path, text, why):
    with pytest.raises(UserError, match=why):
        config_of(tmp_path, text)
