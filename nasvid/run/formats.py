"""Subnets in the formats that a command asks for: whole folders, or denoising steps."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.export.formats import DIFFUSERS, STEPS, Format, check_installed
from nasvid.export.step import Recorded, Step
from nasvid.export.traced import StepInfo, export_step
from nasvid.host.files import remove_killed
from nasvid.run.extract import export
from nasvid.run.session import Session
from nasvid.shapes import Resolution

TIMES = 8
"""Timesteps of a sample that steps are checked at."""


@dataclass(frozen=True, slots=True)
class Formats:
    """What subnets are exported as.

    names: of formats. resolutions: of the run, for formats of a step; () for all. copy: whether a
    pipeline's unchanged files are copied rather than linked.
    """

    names: tuple[str, ...] = (DIFFUSERS,)
    resolutions: tuple[Resolution, ...] = ()
    copy: bool = False

    def check(self) -> None:
        """Check that what the formats need is installed.

        Raises:
            UserError: it is not, or resolutions are given for whole folders alone.
        """
        check_installed(self.names)
        if self.resolutions and not set(self.names) - {DIFFUSERS}:
            raise UserError(
                f"--at applies to --format {' and '.join(STEPS)}: a folder in diffusers' layout "
                "takes all resolutions; remove --at"
            )

    def check_resolutions(self, session: Session) -> None:
        """Check that a run has the resolutions.

        Raises:
            UserError: it has not.
        """
        known = sorted(session.components.shapes)
        for each in self.resolutions:
            if each not in known:
                have = ", ".join(map(str, known))
                raise UserError(f"--at {each} is not a resolution of this run; use one of {have}")

    def export(
        self, session: Session, model: nn.Module, evaluation: Evaluation, place: Path
    ) -> Iterator[Path]:
        """Write a model's folder in each format, and yield it.

        Whole folders have the subnet's id as their name, those of steps `ID-FORMAT`.

        Raises:
            UserError: the model cannot be exported.
        """
        id_ = evaluation.arch.id
        for name in dict.fromkeys(self.names):
            target = place / (id_ if name == DIFFUSERS else f"{id_}-{name}")
            remove_killed(target)
            if name == DIFFUSERS:
                yield export(session, model, evaluation, target, copy=self.copy)
            else:
                yield self._export_step(session, model, id_, STEPS[name], target)

    def _export_step(
        self, session: Session, model: nn.Module, id_: str, of: Format, target: Path
    ) -> Path:
        recipe, components = session.recipe, session.components
        space, scheduler = components.space, components.objective.make_scheduler()
        scheduler.set_timesteps(TIMES)
        wanted = self.resolutions or components.shapes
        info = StepInfo(
            id=id_,
            text=json.loads(recipe.text.model_dump_json()),
            fps=recipe.data.fps,
            scheduler=scheduler,
            inputs={
                each: Recorded(shape, space.domain, scheduler.timesteps, recipe.data.fps)
                for each, shape in sorted(components.shapes.items())
                if each in wanted
            },
        )
        written = export_step(Step(space, model.cpu()).eval(), of, info, target)
        for each, file in written.items():
            session.display.say(
                f"{of.title}: {each}.{of.name} predicts as the model to {file.difference:.1e}"
            )
        return target
