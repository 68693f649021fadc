"""Training a subnet further, alone: the training loop on a space of one architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nasvid.architecture import Architecture
from nasvid.evaluator import Metrics
from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import Recipe, TuningSection
from nasvid.run.alone import OneNetwork
from nasvid.run.held_out import load_trained
from nasvid.run.loop import Shown, newest_checkpoint, train_from
from nasvid.run.session import Session
from nasvid.run.teacher import load_teacher
from nasvid.sampler import SamplerSection
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.teacher import Teacher
from nasvid.training.trainer import Trainer

FREE = {"subnets", "top"}
"""Settings of a section that a tuned model does not depend on: they say how many are trained."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How a stage trains subnets further.

    stage: its name, in the log. setting: its section in the recipe, for messages. folder: of its
    checkpoints. start: returns a subnet with the weights that its training begins with. after: the
    section of the training before it, if there is one.
    """

    session: Session
    section: TuningSection
    stage: str
    setting: str
    folder: Path
    start: Callable[[Architecture], nn.Module]
    after: TuningSection | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """What a tuned model depends on besides its architecture and the supernet."""
        own = self.section.model_dump(mode="json", exclude=FREE)
        before = self.after and self.after.model_dump(mode="json", exclude=FREE)
        return {**own, "checkpoint": self.session.recipe.search.checkpoint, "after": before}

    def checkpoints(self, id_: str) -> Path:
        """Return the folder of a subnet's checkpoints."""
        key = hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:8]
        return self.folder / f"{id_}-{key}"

    def train(self, arch: Architecture) -> None:
        """Train a subnet from its first weights, or from its newest checkpoint, on all ranks.

        Raises:
            UserError, Interrupted, RankLost: see `nasvid.training.trainer.train`.
        """
        session, folder = self.session, self.checkpoints(arch.id)
        newest = newest_checkpoint(session, folder, session.ranks)
        if newest is not None and checkpoint.read_progress(newest).step == self.section.steps:
            return
        space = OneNetwork(session.components.space, arch)
        one = Supernet(space, self.start(arch))
        if getattr(self.section, "compile", False):
            subnet = one.subnet(space.largest)
            subnet.forward = torch.compile(subnet.forward, dynamic=False)  # a graph for each shape
        made = Trainer.of(
            self._recipe, one, session.components.noiser(), session.ranks, self._teacher
        )
        made = replace(made, rest=True)  # weights without gradient keep the supernet's values
        title = f"{self.stage} {arch.id[:6]}"
        shown = Shown(stage=self.stage, title=title, event=f"{self.stage}_step")
        train_from(session, newest, made, folder, shown)

    def is_trained(self, id_: str) -> bool:
        """Return whether a subnet's training is finished, and its last checkpoint intact."""
        newest, complaints = checkpoint.latest(self.checkpoints(id_))
        for complaint in complaints:
            self.session.display.say(complaint)
        return newest is not None and checkpoint.read_progress(newest).step == self.section.steps

    def tuned(self, arch: Architecture) -> Supernet:
        """Return a trained subnet with its EMA weights, as a supernet of one architecture.

        Raises:
            UserError: its training is not finished.
        """
        session, space = self.session, OneNetwork(self.session.components.space, arch)
        one, folder = session.components.supernet(space), self.checkpoints(arch.id)
        return load_trained(self._recipe, one, folder, session.folder.command)

    @cached_property
    def _teacher(self) -> Teacher | None:
        session = self.session
        return load_teacher(
            session.components,
            self.section.teacher,
            f"{self.setting}.teacher",
            trained=lambda: session.supernet,
        )

    @property
    def _recipe(self) -> Recipe:
        recipe, section = self.session.recipe, self.section
        changed = {
            "steps": section.steps,
            "learning_rate": section.learning_rate,
            "distillation": 0.0,
            "teacher": section.teacher,
            "keep_best": False,
        }
        training = recipe.training.model_copy(update=changed)
        sampler = SamplerSection(name="uniform")
        search = recipe.search.model_copy(update={"checkpoint": "last"})
        changed = {"training": training, "sampler": sampler, "search": search}
        return recipe.model_copy(update=changed)


def held_out_loss(session: Session, supernet: Supernet, arch: Architecture) -> Metrics:
    """Return a subnet's loss on the held-out clips: the mean, and at each resolution."""
    supernet.net.eval()
    evaluator = DenoisingLoss(DenoisingLoss.Config(), session.context(supernet))
    (metrics,) = evaluator.evaluate([arch])
    return metrics
