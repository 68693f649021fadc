"""Training extracted subnets by themselves: the training loop, on a space of one network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nasvid.architecture import Architecture, Choice
from nasvid.costs import Costs
from nasvid.distributed.ranks import Stop
from nasvid.evaluator import Context, DenoisingLoss, Metrics
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.recipe.sections import EngineSection, FinetuneSection, Recipe
from nasvid.run import stages
from nasvid.run.folder import Run
from nasvid.run.held_out import held_out, make_context, trained_supernet
from nasvid.run.parts import Parts
from nasvid.run.subnets import export, members
from nasvid.run.train import step_log
from nasvid.sampler import SamplerSection
from nasvid.search.pareto import choose
from nasvid.shapes import DenoiserInput, VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training import checkpoint, trainer
from nasvid.training.trainer import Outside, Trainer


class OneNetwork(SearchSpace):
    """The space of a single architecture of another: nothing is left to choose."""

    def __init__(self, space: SearchSpace, arch: Architecture) -> None:
        self.whole, self.arch = space, arch
        super().__init__(space.config, space.domain)

    def make_choices(self) -> Sequence[Choice]:
        """Return none."""
        return ()

    def build(self, arch: Architecture) -> nn.Module:
        """Return the network."""
        del arch
        return self.whole.build(self.arch)

    def denoise(self, model: nn.Module, x: DenoiserInput) -> torch.Tensor:
        """Run it as its own space does."""
        return self.whole.denoise(model, x)

    def costs(self, genomes: np.ndarray, shape: VideoShape) -> Costs:
        """Return its costs, once for each genome."""
        row = self.whole.encode(self.arch)
        return self.whole.costs(np.tile(row, (len(genomes), 1)), shape)


def finetune(run: Run, display: Display, stop: Stop) -> None:
    """Train the chosen members of the front further, and export them to `finetuned/ID`.

    `search/finetuned.json` has each one's loss on the held-out clips before and after. Training is
    resumed like the supernet's; a subnet that is done with the same settings is not trained again.
    """
    section = run.recipe.finetune
    if section is None:
        return
    done = _done(run, section)
    chosen = {a.id: (a, metrics) for a, metrics in _chosen(run, section) if a.id not in done}
    if not chosen:
        display.say(f"finetune: {len(done)} subnets are trained already")
        return
    parts = Parts.of(run.recipe, run.folder)
    supernet = trained_supernet(run.recipe, parts, run.checkpoints)
    on = held_out(run.recipe, parts, stages.clips(run, parts, "val", display))
    context = make_context(run.recipe, parts, supernet, on, display)
    for arch, metrics in chosen.values():
        before = _loss(context, supernet, arch)
        tuned = _train(run, section, parts, supernet, arch, display, stop)
        after = _loss(context, tuned, tuned.space.largest)
        scored = metrics | after
        export(run, parts, tuned.net, arch, scored, run.folder / "finetuned" / arch.id)
        done[arch.id] = {"id": arch.id, "before": before, "after": after}
        content = {"settings": section.model_dump(mode="json"), "subnets": list(done.values())}
        write_json(_path(run), content)
        display.say(f"finetune: {arch.id}: loss {before['loss']:.4f} to {after['loss']:.4f}")


def _path(run: Run) -> Path:
    return run.folder / "search" / "finetuned.json"


def _done(run: Run, section: FinetuneSection) -> dict[str, Any]:
    """Return the results that these settings have given, by id."""
    path = _path(run)
    content = json.loads(path.read_text()) if path.exists() else {}
    if content.get("settings") != section.model_dump(mode="json"):
        return {}
    return {entry["id"]: entry for entry in content["subnets"]}


def _chosen(run: Run, section: FinetuneSection) -> list[tuple[Architecture, Metrics]]:
    known = list(members(run).values())
    costs = np.arange(len(known), dtype=np.float64)
    return [known[i] for i in choose(costs, section.subnets)]


def _train(
    run: Run,
    section: FinetuneSection,
    parts: Parts,
    supernet: Supernet,
    arch: Architecture,
    display: Display,
    stop: Stop,
) -> Supernet:
    """Return the subnet with its averaged weights after training, as a space of its own."""
    recipe = _recipe(run.recipe, section)
    alone = replace(parts, space=OneNetwork(parts.space, arch))
    one = Supernet(alone.space, supernet.extract(arch))
    if section.compile:
        subnet = one.subnet(alone.space.largest)
        subnet.forward = torch.compile(subnet.forward, dynamic=False)  # a graph for each shape
    folder = run.checkpoints / f"finetune-{arch.id}-{_key(section)}"
    train_clips = stages.clips(run, parts, "train", display)
    newest, complaints = checkpoint.latest(folder)
    for complaint in complaints:
        display.say(complaint)
    made = Trainer.of(
        recipe,
        one,
        alone.noiser(),
        teacher=supernet.net if section.distillation else None,
    )
    made = replace(made, rest=True)  # what has no gradient keeps what the supernet made of it
    title = f"finetune {arch.id[:6]}"
    with run.stage("finetune"), display.track(title, section.steps, "steps") as tracker:
        trainer.train(
            made if newest is None else made.resumed(newest),
            train_clips,
            folder,
            Outside(step_log(run, tracker, name="finetune_step"), display.say, stop),
            max_skipped=recipe.data.max_skipped,
        )
    return trained_supernet(recipe, alone, folder)


def _recipe(recipe: Recipe, section: FinetuneSection) -> Recipe:
    changed = {
        "steps": section.steps,
        "learning_rate": section.learning_rate,
        "distillation": section.distillation,
        "engine": EngineSection(name="torch"),
        "keep_best": False,
    }
    training = recipe.training.model_copy(update=changed)
    sampler = SamplerSection(name="uniform")
    search = recipe.search.model_copy(update={"checkpoint": "last"})
    changed = {"training": training, "sampler": sampler, "search": search}
    return recipe.model_copy(update=changed)


def _key(section: FinetuneSection) -> str:
    return hashlib.sha256(section.model_dump_json(exclude={"subnets"}).encode()).hexdigest()[:8]


def _loss(context: Context, supernet: Supernet, arch: Architecture) -> Metrics:
    supernet.net.eval()
    judge = DenoisingLoss(DenoisingLoss.Config(), replace(context, supernet=supernet))
    (metrics,) = judge.evaluate([arch])
    return metrics
