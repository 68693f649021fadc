"""Engine `deepspeed`: ZeRO partitions the state over the ranks.

Rajbhandari et al., arXiv 1910.02054.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from nasvid.distributed.launch import Job, master, program, shell_line
from nasvid.distributed.ranks import Ranks
from nasvid.plugins.needs import Need
from nasvid.recipe.sections import TrainingSection
from nasvid.training.engine import Engine, Updater
from nasvid.training.engines.deepspeed_config import (
    DeepSpeedConfig,
    deepspeed_config,
    read_json,
    reduce_bucket,
)
from nasvid.training.resources import Resources, Workload, ring_bytes, state_bytes, step_bytes


class DeepSpeedEngine(Engine[DeepSpeedConfig]):
    """DeepSpeed's ZeRO 0, 1 and 2: partitions the optimizer's state and gradients over the ranks.

    Stage 3 is not supported: it would empty the weights that subnets are views of.
    """

    needs: ClassVar = (Need("deepspeed", "pip install 'nasvid[deepspeed]'"),)

    def start(self, net: nn.Module, settings: TrainingSection, ranks: Ranks) -> Updater:
        """Return the updater of a net's weights; see `Engine.start`."""
        from nasvid.training.engines.deepspeed_updater import DeepSpeedUpdater

        config = self.library_config(settings)
        return DeepSpeedUpdater(net, settings, ranks, divided=self.config.zero > 0, config=config)

    @property
    def variant(self) -> str:
        """The ZeRO stage, and whether the state is on the host."""
        return f"zero {self.config.zero}" + (" offload" if self.config.offload else "")

    def variants(self) -> Sequence[DeepSpeedConfig]:
        """Return a config for each stage, with and without offloading where possible."""
        found = [(zero, False) for zero in (0, 1, 2)] + [(zero, True) for zero in (1, 2)]
        return [
            self.config.model_copy(update={"zero": zero, "offload": offload})
            for zero, offload in found
        ]

    def library_config(self, settings: TrainingSection) -> dict[str, Any]:
        """Return DeepSpeed's configuration; see `Engine.library_config`."""
        return deepspeed_config(self.config, settings)

    def check_ready(self) -> None:
        """Raise UserError if the user's own file cannot be read."""
        if self.config.config is not None:
            read_json(Path(self.config.config))

    @classmethod
    def launch_line(cls, job: Job) -> str:
        """Return the line that node 0 runs; it starts the other nodes over SSH from a hostfile."""
        meeting = ["--no_local_rank", f"--num_gpus={job.devices}"]
        if job.nodes > 1:
            meeting += ["--hostfile=hostfile", f"--num_nodes={job.nodes}"]
        meeting += [f"--master_addr={master(job)}", f"--master_port={job.port}"]
        started = [*program("deepspeed", "deepspeed.launcher.runner"), *meeting]
        line = shell_line(started, ["--module", "nasvid"], job)
        if job.nodes == 1:
            return line
        slots = f"a line `HOST slots={job.devices}` for each of the {job.nodes} nodes"
        return f"# hostfile: {slots}\n{line}"

    def resources(self, work: Workload) -> Resources:
        """Return DeepSpeed's needs, derived from its code (`zero/stage_1_and_2.py` of 0.19).

        From stage 1 on, ZeRO (section 5 of the paper) partitions the optimizer's state and the EMA
        weights over the devices and adds a copy of each partition's weights, which it updates.
        DeepSpeed's stages 1 and 2 also need the whole sum of the gradients
        (`use_multi_rank_bucket_allreduce`), and gather the updated weights.
        """
        if self.config.zero == 0:
            bucket = min(4 * reduce_bucket(self.config), work.size)
            return Resources(
                optimizer=state_bytes(work.size, work),
                ema=work.size,
                update=max(bucket, step_bytes(work.size, work.largest_tensor, work)),
                host=0,
                sent=ring_bytes(2, work),
            )
        part = work.size // work.devices
        state = state_bytes(part, work) + part
        ema, host = part, 0
        # The host also holds the gradients of its part and a buffer of the same size for copies.
        if self.config.offload and work.cuda:
            state, ema, host = 0, 0, state + 3 * part
        elif self.config.offload:
            state += 2 * part
        return Resources(
            optimizer=state,
            ema=ema,
            update=max(self._update(part, work)),
            host=host,
            sent=ring_bytes(3, work),
            parts=work.devices,
        )

    def _update(self, part: int, work: Workload) -> Iterator[int]:
        """Yield the bytes that each phase of an update needs; each device updates `part` bytes."""
        full = 4 * reduce_bucket(self.config)
        # Gradients move into a bucket, which is allocated whole; on a CPU only what is written
        # takes memory.
        moved = min(full, work.size)
        bucket = full if work.cuda else moved
        # It is flattened again for the sum over the ranks; then this rank's part is taken out.
        summed = moved if work.devices > 1 else 0
        if self.config.offload:
            yield bucket - moved + max(summed, 4 * work.largest_tensor)
            return
        yield bucket - moved + max(summed, part)
        # The whole gradients are freed by then; flattening the part's takes two more copies.
        yield max(3 * part, part + step_bytes(part, part // 4, work)) - work.size
