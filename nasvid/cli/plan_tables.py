"""What `nasvid plan` prints."""

from __future__ import annotations

from collections.abc import Iterator
from math import log10

from nasvid.cli.tables import show_table
from nasvid.host.cards import Devices
from nasvid.host.terminal import say
from nasvid.host.words import bytes_text, counted, quantity, with_unit
from nasvid.planning.disk import Disk
from nasvid.planning.memory import USABLE
from nasvid.planning.plan import EnginePlan, Plan

UNKNOWN = "unknown"
"""Shown for what an engine does not report."""

OPTIONAL = ("teacher", "encoders", "fits", "host", "staging", "sent per step")
"""Columns that are left out if they say nothing."""


def show_plan(plan: Plan) -> None:
    """Print what a recipe will need."""
    choices = counted(plan.choices, "choice")
    say(f"{plan.name}: {choices}, 10^{log10(plan.networks):.1f} architectures")
    ends = (plan.smallest_params, plan.largest_params)
    fewest, most = (quantity(n, billion="B") for n in ends)
    say(f"parameters: {fewest} to {most}")
    say(f"latents: {plan.latents}\n" if plan.latents else "")
    _show_shapes(plan)
    say()
    _show_memory(plan)
    say()
    _show_speed(plan)
    for line in _assumptions(plan):
        say(line)


def _show_shapes(plan: Plan) -> None:
    show_table(
        "One forward pass of one clip, and the activations that the largest subnet stores for it",
        ("resolution", "MACs from", "to", "activations", "clips per step", "per pass", "max"),
        [
            (
                shape.resolution,
                quantity(shape.smallest_macs),
                quantity(shape.largest_macs),
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
    columns = ["engine", "weights", "gradients", "optimizer", "EMA", "subnets"]
    columns += ["activations", "teacher", "encoders", "update", "total", "fits", "host"]
    columns += ["staging", "sent per step"]
    rows = [_memory_row(each) for each in plan.engines]
    shown = [
        i
        for i, name in enumerate(columns)
        if name not in OPTIONAL or any(row[i] != "-" for row in rows)
    ]
    show_table(
        f"Training memory of {whose}: {plan.precision}, {checkpointing} checkpointing",
        [columns[i] for i in shown],
        [[row[i] for i in shown] for row in rows],
    )
    say("Activations are freed before the update; the total counts whichever is larger.")
    if any(each.memory.staging for each in plan.engines):
        whose = "on the host of rank 0" if plan.engine.memory.cuda else "in the total of rank 0"
        say(f"Staging, {whose}: copies of a checkpoint, written while training goes on.")
    for line in (*_encoders(plan), *_disk(plan.disk)):
        say(line)
    for each in plan.engines:
        if each.resources is None:
            say(f"Engine {each.name} does not report its memory, so it is unknown.")


def _encoders(plan: Plan) -> Iterator[str]:
    """Yield what is known of the VAE and the text encoder, and when they are loaded."""
    of = plan.encoders
    sizes = {"the VAE": (of.vae, of.vae_ahead), "the text encoder": (of.text, of.text_ahead)}
    known = {
        is_ahead: [
            f"{name} ({bytes_text(size)})"
            for name, (size, ahead) in sizes.items()
            if size and ahead == is_ahead
        ]
        for is_ahead in (True, False)
    }
    if found := known[True]:
        verb = "is" if len(found) == 1 else "are"
        what = "clips" if of.vae_ahead else "captions"
        yield f"Before training, {what} are encoded; {' and '.join(found)} {verb} then freed."
    if found := known[False]:
        verb = "stays" if len(found) == 1 else "stay"
        yield f"Encoders: {' and '.join(found)} {verb} loaded while the supernet is trained."
    if unknown := [name for name, (size, _) in sizes.items() if size is None]:
        yield f"Not included: {' and '.join(unknown)}, of unknown size."


def _disk(of: Disk) -> Iterator[str]:
    """Yield what clips and captions take of the disk."""
    if of.shards != 0:
        limit = "all of them" if of.shards is None else f"at most {bytes_text(of.shards)}"
        yield f"Streamed shards on each machine's disk: {limit} (data.cache_limit)."
    for what, each, size in (
        ("Latents", "clip, with its text", of.clip),
        ("Embeddings", "caption", of.caption),
    ):
        if size:
            one, million = bytes_text(size), bytes_text(size * 10**6)
            yield f"{what} on the disk: at most {one} for a {each}, {million} for a million."


def _memory_row(plan: EnginePlan) -> list[str]:
    of, own = plan.memory, plan.resources
    known = (of.weights, of.gradients)
    after = (of.subnets, of.activations, of.teacher, of.encoders)
    if own is None:
        update, total, host, sent = (UNKNOWN,) * 4
        state = (UNKNOWN, UNKNOWN)
    else:
        update, total, host, sent = map(_bytes, (own.update, of.total, own.host, own.sent))
        state = (_bytes(own.optimizer), _bytes(own.ema))
    fits = {True: "yes", False: "no", None: "-" if own is not None else UNKNOWN}[plan.fits]
    return [
        plan.name,
        *map(_bytes, known),
        *state,
        *map(_bytes, after),
        *(update, total, fits, host, _bytes(of.staging), sent),
    ]


def _bytes(number: int | None) -> str:
    return bytes_text(number) if number else "-"


def _show_speed(plan: Plan) -> None:
    known = plan.seconds is not None
    columns = ("resolution", "clips", "FLOPs", "computing", "sending", "per step", "videos/s")
    show_table(
        f"An average step under {plan.engine.name}, on all devices",
        columns if known else columns[:3],
        [
            (
                each.resolution,
                each.clips,
                quantity(each.flops),
                *(map(_time, (each.compute or 0.0, each.send or 0.0, each.seconds or 0.0))),
                quantity(each.videos_per_second or 0),
            )[: len(columns) if known else 3]
            for each in plan.speeds
        ],
    )
    if plan.seconds is not None:
        say(f"{counted(plan.steps, 'step')} in total: {_time(plan.seconds)}.")


def _assumptions(plan: Plan) -> Iterator[str]:
    """Yield the assumptions behind the numbers, and what a run would refuse."""
    devices = plan.devices
    for shape in plan.shapes:
        if shape.batch is not None and shape.batch < plan.sharing:
            yield (
                f"resolutions.{shape.resolution}: a step has {counted(shape.batch, 'clip')} for "
                f"{plan.sharing} devices, which nasvid run refuses; raise its batch."
            )
    if devices.memory is not None:
        memory = bytes_text(devices.memory)
        yield f"Assumed: {memory} of memory on each device, {USABLE:.0%} of it usable."
    if plan.seconds is not None:
        precision = "fp32" if plan.precision == "fp32" else "bf16"
        sent = f"; {bytes_text(devices.bandwidth)}/s sent" if devices.bandwidth else ""
        peak = with_unit(devices.peak(precision) or 0, "FLOP/s")
        yield (
            f"Assumed: a peak of {peak} in {precision}, {plan.utilization:.0%} of it reached{sent}."
        )
        yield "Not included: updates of the weights, waiting for data, copies to the host."
    elif missing := _unknown(plan, devices):
        yield f"Times are not shown: give {missing}, or name a card, as in --devices 8xH100."
    else:
        yield f"Times are not shown: engine {plan.engine.name} does not report what it sends."


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
