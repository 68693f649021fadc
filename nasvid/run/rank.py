"""The stage that compares the supernet's subnets with the same architectures trained alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.architecture import Architecture
from nasvid.distributed.sharing import divide, rounds
from nasvid.errors import Interrupted, UserError
from nasvid.evaluator import Context, EvaluatorSection, Metrics
from nasvid.host.files import write_json
from nasvid.host.reading import as_list, as_object, read_json
from nasvid.host.words import counted
from nasvid.metrics.cost import Cost, CostConfig
from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import Recipe
from nasvid.report import forms
from nasvid.run.alone import OneNetwork
from nasvid.run.evaluate import evaluated_with
from nasvid.run.folder import RunFolder
from nasvid.run.loop import Shown, newest_checkpoint, train_from
from nasvid.run.session import Session
from nasvid.search.agreement import agreement
from nasvid.search.spread import spread
from nasvid.training import checkpoint
from nasvid.training.engine import check_ready
from nasvid.training.planner import Alone, Planner
from nasvid.training.trainer import Trainer

NUMBER = 12
"""Architectures, unless another number is asked for."""
Row = dict[str, Any]
"""A subnet: `id`, `arch`, `params`, `macs`, and its metrics `inherited` and `alone`."""


def rank(session: Session, n: int = NUMBER, steps: int | None = None) -> None:
    """Train n architectures that span the space alone, and compare them with the supernet's.

    `rank/ranking.json` has the losses of each and, once all are trained, how well the supernet
    ranks them. Each is trained from its own random weights as the supernet was: the same settings,
    and in each step the same resolution, clips and noise. What was trained before is kept.

    steps: of each training; None for as many as the supernet's.

    Raises:
        UserError: the supernet is not trained, or the space has fewer architectures.
        Interrupted: by a signal; a checkpoint is saved.
        RankLost: another rank has ended.
    """
    recipe, ranks = _alone(session.recipe, steps), session.ranks
    space, shapes = session.components.space, session.components.shapes
    check_ready(recipe.training.engine)
    archs = spread(space, shapes[max(shapes)], n)
    session.in_turn(lambda: session.held_out)
    losses = _Losses(session, recipe, session.context(session.supernet))
    results = ranks.rank0_does(lambda: _Results.read(losses, archs), session.stop)
    missing = ranks.agree(results.missing if results else [])
    session.in_turn(lambda: session.clips("train"))
    planner = Planner.of(recipe, space)
    planner = replace(planner, sampler=Alone(planner))
    for some in rounds(ranks, missing):
        for arch in some:
            _train(session, recipe, arch, planner)
        rows = divide(ranks, some, losses.row, session.stop)
        ranks.rank0_does(lambda rows=rows: results and results.add(rows), session.stop)
    if not missing:
        session.display.say(f"rank: {counted(n, 'architecture')} already trained alone")


def read_ranking(folder: RunFolder) -> dict[str, Any] | None:
    """Return the content of `rank/ranking.json`; None if there is none.

    Raises:
        Damaged: it is something else.
    """
    return read_json(_path(folder), _content, fix=forms.RANK_AGAIN)


def _alone(recipe: Recipe, steps: int | None) -> Recipe:
    """Return the recipe of training one architecture: the run's, but for what makes a supernet."""
    changed = {"distillation": 0.0, "teacher": None, "keep_best": False, "keep_checkpoints": 1}
    if steps is not None:
        changed["steps"] = steps
    training = recipe.training.model_copy(update=changed)
    return recipe.model_copy(update={"training": training})


def _train(session: Session, recipe: Recipe, arch: Architecture, planner: Planner) -> None:
    """Train an architecture from random weights, or from its newest checkpoint, on all ranks.

    planner: of the resolutions and clips of each step.
    """
    components, ranks = session.components, session.ranks
    folder = _checkpoints(session.folder, recipe, arch)
    newest = newest_checkpoint(session, folder, ranks)
    if newest is not None and checkpoint.read_progress(newest).step == recipe.training.steps:
        return
    space = OneNetwork(components.space, arch)
    planner = replace(planner, space=space)
    supernet = components.supernet(space)
    made = Trainer.of(recipe, supernet, components.noiser(), ranks, planner=planner)
    shown = Shown(stage="rank", title=f"rank {arch.id[:6]}", event="rank_step")
    train_from(session, newest, made, folder, shown)


def _checkpoints(folder: RunFolder, recipe: Recipe, arch: Architecture) -> Path:
    return folder.rank / "checkpoints" / f"{arch.id}-{recipe.training.steps}"


@dataclass(frozen=True, slots=True)
class _Losses:
    """What evaluates architectures in the supernet and trained alone, on any rank.

    recipe: of training alone. context: with the supernet.
    """

    session: Session
    recipe: Recipe
    context: Context

    def row(self, arch: Architecture) -> Row:
        """Return an architecture's row.

        Raises:
            UserError: a loss is not finite.
        """
        (costs,) = Cost(CostConfig(), self.context).evaluate([arch])
        inherited, alone = _loss(self.context, arch), self._alone(arch)
        for what, metrics in (("in the supernet", inherited), ("trained alone", alone)):
            if not all(map(math.isfinite, metrics.values())):
                raise UserError(
                    f"The loss of {arch.id} {what} is not a finite number, so it cannot be ranked; "
                    "train with a lower training.learning_rate in a new run"
                )
        return {
            "id": arch.id,
            "arch": dict(arch),
            "params": int(costs["params"]),
            "macs": costs["macs"],
            "inherited": inherited,
            "alone": alone,
        }

    def _alone(self, arch: Architecture) -> Metrics:
        session = self.session
        supernet = session.components.supernet(OneNetwork(session.components.space, arch))
        last, _ = checkpoint.latest(_checkpoints(session.folder, self.recipe, arch))
        assert last is not None
        checkpoint.load_ema(last, supernet.net.eval())
        return _loss(session.context(supernet), supernet.space.largest)


@dataclass(frozen=True, slots=True)
class _Results:
    """What `rank/ranking.json` holds, and what is to be added; on rank 0.

    archs: all that are to be compared. rows: by id.
    """

    losses: _Losses
    archs: Sequence[Architecture]
    rows: dict[str, Row]

    @classmethod
    def read(cls, losses: _Losses, archs: Sequence[Architecture]) -> _Results:
        """Read the results with the same settings."""
        found = losses.session.made_again(_path(losses.session.folder), _content)
        made = cls(losses, archs, {})
        if found is not None and found["settings"] == made.settings:
            made.rows.update({row["id"]: row for row in found["subnets"]})
        if found is not None and not made.missing:
            made.write()  # there may have been more
        return made

    @property
    def settings(self) -> dict[str, Any]:
        """What the losses depend on besides the supernet and the architecture."""
        recipe = self.losses.recipe
        loss = evaluated_with(recipe, EvaluatorSection(name="loss"))
        return {"steps": recipe.training.steps, "loss": loss}

    @property
    def missing(self) -> list[Architecture]:
        """The architectures that are not evaluated yet."""
        return [arch for arch in self.archs if arch.id not in self.rows]

    def add(self, rows: Sequence[Row]) -> None:
        """Add rows, and write the results.

        Raises:
            Interrupted: a signal asks to stop.
        """
        session = self.losses.session
        for row in rows:
            self.rows[row["id"]] = row
            inherited, alone = row["inherited"]["loss"], row["alone"]["loss"]
            losses = f"{inherited:.4f} in the supernet, {alone:.4f} alone"
            session.display.say(f"rank: {row['id']}: loss {losses}")
        self.write()
        if self.missing and (signal := session.stop()) is not None:
            raise Interrupted(signal, "what is trained is kept")

    def write(self) -> None:
        """Write the results so far, and what they say once there are all."""
        rows = [self.rows[arch.id] for arch in self.archs if arch.id in self.rows]
        found = None
        if not self.missing:
            found = agreement(
                inherited=np.array([row["inherited"]["loss"] for row in rows]),
                alone=np.array([row["alone"]["loss"] for row in rows]),
                params=np.array([row["params"] for row in rows]),
                macs=np.array([row["macs"] for row in rows]),
                seed=self.losses.recipe.seed,
            )
        content = {"settings": self.settings, "n": len(self.archs), "subnets": rows}
        write_json(_path(self.losses.session.folder), content | {"agreement": found})


def _loss(context: Context, arch: Architecture) -> Metrics:
    (metrics,) = DenoisingLoss(DenoisingLoss.Config(), context).evaluate([arch])
    return metrics


def _path(folder: RunFolder) -> Path:
    return folder.rank / "ranking.json"


def _content(value: Any) -> dict[str, Any]:
    for row in as_list(value["subnets"]):
        as_object(row["arch"])
    return forms.ranking(value)
