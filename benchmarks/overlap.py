"""Sums of gradients over two ranks behind the last backward pass, over the same sums after it.

    python benchmarks/overlap.py

A step has two subnets, each with a backward pass, and then an update of the weights. The trace
shows when each bucket of gradients was sent and when it was summed, in hundredths of the time that
the last backward pass takes: what is summed before 100 costs no time of its own if a processor is
left for it.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import subprocess
import time

import torch
from engines import launcher
from paired import machine

from nasvid.costs import dummy_input
from nasvid.distributed.ranks import Ranks, joined
from nasvid.recipe.sections import TrainingSection
from nasvid.shapes import Domain, VideoShape
from nasvid.supernet import Supernet
from nasvid.training.engines.summing import GradientSum
from nasvid.training.engines.torch import TorchUpdater
from nasvid_spaces.elastic_unet import ElasticUNetSpace
from nasvid_spaces.elastic_unet.config import ElasticUNetConfig

RANKS = 2
ROUNDS = 6
SHAPE = VideoShape.square(16, frames=8, context_len=8)
CONFIG = ElasticUNetConfig(
    widths=((64, 128), (256, 512)),
    hidden_ratios=(1.0,),
    blocks_per_level=1,
    attention_levels=(1,),
    conditioning_width=128,
    head_dim=32,
)


class TracedSum(GradientSum):
    """Notes when each bucket was sent, and when it was summed."""

    def __init__(self, *args) -> None:
        super().__init__(*args)
        self.trace: list[tuple[int, float, float]] = []

    def _send(self, bucket: int) -> None:
        before, sent = len(self._works), time.perf_counter()
        super()._send(bucket)
        size = sum(p.grad.numel() for p in self._buckets[bucket] if p.grad is not None)
        for together in self._works[before:]:
            for work in together.works:
                work.get_future().then(
                    lambda _: self.trace.append((size, sent, time.perf_counter()))
                )


class Side:
    """A supernet and its updater, which sums behind the last backward pass or after it."""

    def __init__(self, ranks: Ranks, *, overlap: bool) -> None:
        torch.manual_seed(0)
        self.space = ElasticUNetSpace(CONFIG, Domain(channels=3, context_dim=64))
        self.supernet = Supernet(self.space)
        settings = TrainingSection(steps=1)
        self.updater = TorchUpdater(self.supernet.net, settings, ranks, overlap=overlap)
        self.updater._sum = self.sum = TracedSum(self.updater._parameters, ranks)
        zeros = dummy_input(SHAPE, self.space.domain, device="cpu")
        self.inputs = dataclasses.replace(zeros, sample=torch.randn_like(zeros.sample))
        half = {choice.name: choice.options[-1] for choice in self.space.choices}
        half |= {f"level.{n}.width": options[0] for n, options in enumerate(CONFIG.widths)}
        self.archs = [self.space.architecture(half), self.space.largest]

    def step(self) -> tuple[float, float, float]:
        """Make a step; return its seconds and when its last backward pass began and ended."""
        started = begun = time.perf_counter()
        self.updater.begin([self.supernet.used(arch) for arch in self.archs])
        for arch in self.archs:
            subnet = self.supernet.subnet(arch)
            loss = self.space.denoise(subnet, self.inputs).square().mean()
            begun = time.perf_counter()
            if arch == self.archs[-1]:
                self.sum.trace.clear()
                self.updater.begin_last_pass()
            loss.backward()
        ended = time.perf_counter()
        self.updater.update(rate=1e-4, whole=True)
        return time.perf_counter() - started, begun, ended


def main() -> None:
    torch.set_num_threads(1)
    if "RANK" not in os.environ:
        print(machine(), f"1 thread a rank, {os.cpu_count()} cores", flush=True)
        subprocess.run([*launcher(RANKS), __file__], check=True)
        return
    with joined() as ranks:
        behind, after = Side(ranks, overlap=True), Side(ranks, overlap=False)
        ratios = []
        for n in range(2 + ROUNDS):
            sides = (behind, after) if n % 2 else (after, behind)
            seconds = {side: side.step()[0] for side in sides}
            ratios.append(seconds[behind] / seconds[after])
        _, begun, ended = behind.step()
        pairs = zip(behind.supernet.net.parameters(), after.supernet.net.parameters(), strict=True)
        after.step()
        assert all(torch.equal(a, b) for a, b in pairs), "the weights differ"
        if ranks.is_rank0:
            report(
                sorted(ratios[2:]), sorted(behind.sum.trace, key=lambda each: each[1]), begun, ended
            )


def report(
    ratios: list[float], trace: list[tuple[int, float, float]], begun: float, ended: float
) -> None:
    whole = sum(size for size, _, _ in trace)
    print("bucket    sent  summed")
    for size, *times in trace:
        sent, summed = (100 * (when - begun) / (ended - begun) for when in times)
        print(f"{4 * size / 2**20:4.0f} MiB  {sent:5.0f}  {summed:5.0f}")
    hidden = sum(size for size, _, summed in trace if summed < ended)
    started = sum(size for size, sent, _ in trace if sent < ended)
    quarter = len(ratios) // 4
    print(
        f"sent before the end of the backward pass: {started / whole:.0%}, summed: "
        f"{hidden / whole:.0%}\nstep: ratio {statistics.median(ratios):.3f} "
        f"[{ratios[quarter]:.3f} to {ratios[-1 - quarter]:.3f}]"
    )


if __name__ == "__main__":
    main()
