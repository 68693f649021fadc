"""TensorBoard's events: each step's are on the disk whole, or lost with a line that says so."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from nasvid.distributed.ranks import ALONE
from nasvid.preflight import load_recipe
from nasvid.training.events import Speed, StepEvent
from nasvid.training.scalars import scalars

SPEED = Speed(seconds=1.0, waited=0.0, ranks=1, flops=None, utilization=None, memory=1)


def event(step: int) -> StepEvent:
    return StepEvent(
        step=step,
        groups=(),
        subnets=(),
        loss=0.5,
        losses={},
        grad_norm=None,
        learning_rate=0.1,
        clips=2,
        skipped=False,
        speed=SPEED,
    )


def test_a_full_disk_loses_its_steps_and_a_line_says_so_once(mounted, write_recipe):
    recipe = load_recipe(write_recipe(), overrides=["training.tensorboard=true"]).recipe
    disk, said = mounted("size=64k"), []
    write = scalars(disk / "tensorboard", recipe, ALONE, 3, said.append)
    write(event(3))
    (disk / "other").write_bytes(bytes(60 * 1024))
    for step in range(4, 30):
        write(event(step))
    assert len(said) == 1
    assert "No space left on device" in said[0]
    assert "TensorBoard will not show these steps" in said[0]
    (disk / "other").unlink()
    write(event(30))
    shown = EventAccumulator(str(disk / "tensorboard")).Reload().Scalars("loss/mean")
    steps = [scalar.step for scalar in shown]
    assert (steps[0], steps[-1]) == (3, 30)
    assert 2 < len(steps) < 28
