"""What `nasvid plan` prints."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10

from nasvid.cli.tables import bytes_text, count_text, show_table
from nasvid.planning.devices import Devices
from nasvid.planning.memory import USABLE
from nasvid.planning.plan import EnginePlan, Plan


def show_plan(plan: Plan) -> None:
    """Print what a recipe will need."""
    print(f"{plan.name}: {plan.choices} choices, 10^{log10(plan.networks):.1f} networks")
    ends = (plan.smallest_params, plan.largest_params)
    fewest, most = (count_text(n, billion="B") for n in ends)
    print(f"parameters: {fewest} to {most}\n")
    _show_shapes(plan)
    print()
    _show_memory(plan)
    print()
    _show_speed(plan)
    for line in _assumptions(plan):
        print(line)


def _show_shapes(plan: Plan) -> None:
    show_table(
        "A forward pass of one clip; what the largest subnet keeps of a clip for its backward pass",
        ("resolution", "MACs from", "to", "activations", "clips a step", "a pass", "that fit"),
        [
            (
                shape.resolution,
                count_text(shape.smallest_macs),
                count_text(shape.largest_macs),
                bytes_text(shape.clip_bytes),
                *("-" if n is None else n for n in (shape.batch, shape.each, shape.most)),
            )
            for shape in plan.shapes
        ],
    )


def _show_memory(plan: Plan) -> None:
    checkpointing = "with" if plan.gradient_checkpointing else "without"
    count = plan.devices.count
    whose = "one device" if count == 1 else f"each of {count} devices"
    columns = ["engine", "weights", "gradients", "optimizer", "averaged", "subnets"]
    columns += ["activations", "update", "total", "fits", "host", "sent a step"]
    rows = [_memory_row(each) for each in plan.engines]
    shown = [
        i
        for i, name in enumerate(columns)
        if name not in ("fits", "host", "sent a step") or any(row[i] != "-" for row in rows)
    ]
    show_table(
        f"Training memory of {whose}: {plan.precision}, {checkpointing} checkpointing",
        [columns[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
    )
    print("activations are gone when the weights are updated: of the two, the total has the larger")


def _memory_row(engine: EnginePlan) -> list[str]:
    of = engine.memory
    items = (of.weights, of.gradients, of.optimizer, of.ema, of.subnets, of.activations)
    return [
        str(of.engine),
        *(bytes_text(n) if n else "-" for n in (*items, of.update, of.total)),
        "-" if engine.fits is None else "yes" if engine.fits else "no",
        *(bytes_text(n) if n else "-" for n in (of.host, engine.sent)),
    ]


def _show_speed(plan: Plan) -> None:
    known = plan.seconds is not None
    columns = ("resolution", "clips", "FLOPs", "computing", "sending", "a step", "videos/s")
    show_table(
        f"An average step of {plan.engine.memory.engine}, on all devices",
        columns if known else columns[:3],
        [
            (
                each.resolution,
                each.clips,
                count_text(each.flops),
                *(map(_time, (each.compute or 0.0, each.send or 0.0, each.seconds or 0.0))),
                f"{each.videos_per_second or 0:.3g}",
            )[: len(columns) if known else 3]
            for each in plan.speeds
        ],
    )
    if plan.seconds is not None:
        print(f"all {plan.steps} steps: {_time(plan.seconds)}")


def _assumptions(plan: Plan) -> Iterator[str]:
    """Yield what the figures rest on, and what a run would refuse."""
    devices = plan.devices
    for shape in plan.shapes:
        if shape.batch is not None and shape.batch < plan.sharing:
            yield (
                f"resolutions.{shape.resolution}: a step has {shape.batch} clips for "
                f"{plan.sharing} devices: nasvid run refuses it; raise its batch"
            )
    if devices.memory is not None:
        yield (
            f"assumed: {bytes_text(devices.memory)} of memory on each device, {USABLE:.0%} of it "
            "usable"
        )
    if plan.seconds is not None:
        precision = "fp32" if plan.precision == "fp32" else "bf16"
        yield (
            f"assumed: a peak of {count_text(devices.peak(precision) or 0)}FLOP/s in {precision}, "
            f"{plan.utilization:.0%} of it reached"
            + (f"; {bytes_text(devices.bandwidth)}/s sent" if devices.bandwidth else "")
        )
        yield "left out: updates of the weights, waiting for data, offload's copies"
    elif missing := _unknown(plan, devices):
        yield f"no times: say {missing}, or name a card, as in --devices 8xH100"


def _unknown(plan: Plan, devices: Devices) -> str:
    unknown = []
    if devices.peak("fp32" if plan.precision == "fp32" else "bf16") is None:
        unknown.append("--flops")
    if devices.count > 1 and devices.bandwidth is None:
        unknown.append("--bandwidth")
    return " and ".join(unknown)


def _time(seconds: float) -> str:
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"
