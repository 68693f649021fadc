"""Fine-tuning extracted models: the training loop on a space of one architecture."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nasvid.architecture import Architecture
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Metrics
from nasvid.host.files import write_json
from nasvid.host.reading import as_list, as_object
from nasvid.host.words import counted
from nasvid.metrics.loss import DenoisingLoss
from nasvid.recipe.sections import EngineSection, FinetuneSection, Recipe
from nasvid.run.alone import OneNetwork
from nasvid.run.extract import export, is_exported, remove_former
from nasvid.run.held_out import load_trained
from nasvid.run.loop import Shown, newest_checkpoint, train_from
from nasvid.run.members import members
from nasvid.run.session import Session
from nasvid.run.teacher import load_teacher
from nasvid.sampler import SamplerSection
from nasvid.search.pareto import choose
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.trainer import Trainer


def finetune(session: Session) -> None:
    """Fine-tune some members of the front, and export them to `finetune/subnets/ID`.

    `finetune/finetuned.json` has each one's loss on the held-out clips before and after. Training
    is resumed like the supernet's; a model that was finished with the same settings is not trained
    again.
    """
    section, folder = session.recipe.finetune, session.folder.finetune
    if section is None:
        return
    settings = _settings(session.recipe, section)
    chosen = _chosen(session, section)
    remove_former(session, folder / "subnets", [each.arch.id for each in chosen])
    done = _done(session, settings, [each.arch.id for each in chosen])
    _report_damage(session, section, done)
    missing = [each for each in chosen if each.arch.id not in done]
    if not missing:
        session.display.say(
            f"finetune: {counted(len(done), 'subnet')} already fine-tuned, nothing to do"
        )
        return
    for each in missing:
        arch = each.arch
        before = _loss(session, session.supernet, arch)
        tuned = _train(session, section, arch)
        after = _loss(session, tuned, tuned.space.largest)
        scored = replace(each, metrics={**each.metrics, **after})
        export(session, tuned.net, scored, folder / "subnets" / arch.id)
        done[arch.id] = {"id": arch.id, "before": before, "after": after}
        content = {"settings": settings, "subnets": list(done.values())}
        write_json(_path(folder), content)
        session.display.say(
            f"finetune: {arch.id}: loss {before['loss']:.4f} -> {after['loss']:.4f}"
        )


def _path(folder: Path) -> Path:
    return folder / "finetuned.json"


def _settings(recipe: Recipe, section: FinetuneSection) -> dict[str, Any]:
    """Return what a fine-tuned model depends on besides its architecture and the supernet."""
    return {**section.model_dump(mode="json"), "checkpoint": recipe.search.checkpoint}


def _done(session: Session, settings: Mapping[str, Any], ids: Sequence[str]) -> dict[str, Any]:
    """Return the results with these settings, by id, of the models that are there and intact."""
    folder = session.folder.finetune
    found = session.made_again(_path(folder), _results)
    if found is None or found[0] != settings:
        return {}
    return {
        id_: found[1][id_]
        for id_ in ids
        if id_ in found[1] and is_exported(session, folder / "subnets" / id_)
    }


def _results(content: Any) -> tuple[Any, dict[str, Any]]:
    """Return the settings and the results by id that `finetuned.json` holds."""
    entries = as_list(content["subnets"])
    for entry in entries:
        as_object(entry["before"])
        as_object(entry["after"])
    return content["settings"], {str(entry["id"]): entry for entry in entries}


def _report_damage(session: Session, section: FinetuneSection, done: Iterable[str]) -> None:
    """Print which checkpoints of finished models are damaged; nothing is made of them again."""
    for id_ in done:
        _, complaints = checkpoint.latest(_checkpoints(session, section, id_))
        for complaint in complaints:
            session.display.say(f"{complaint}; the model made from it is intact")


def _checkpoints(session: Session, section: FinetuneSection, id_: str) -> Path:
    name = f"{id_}-{_key(session.recipe, section)}"
    return session.folder.finetune / "checkpoints" / name


def _chosen(session: Session, section: FinetuneSection) -> list[Evaluation]:
    known = members(session.folder)
    costs = np.arange(len(known), dtype=np.float64)
    return [known[i] for i in choose(costs, section.subnets)]


def _train(session: Session, section: FinetuneSection, arch: Architecture) -> Supernet:
    """Return the fine-tuned model with its EMA weights, as a supernet of one architecture."""
    recipe = _recipe(session.recipe, section)
    components = session.components
    space = OneNetwork(components.space, arch)
    one = Supernet(space, session.supernet.extract(arch))
    if section.compile:
        subnet = one.subnet(space.largest)
        subnet.forward = torch.compile(subnet.forward, dynamic=False)  # a graph for each shape
    folder = _checkpoints(session, section, arch.id)
    teacher = load_teacher(
        components, section.teacher, "finetune.teacher", trained=lambda: session.supernet
    )
    made = Trainer.of(recipe, one, components.noiser(), teacher=teacher)
    made = replace(made, rest=True)  # weights without gradient keep the supernet's values
    shown = Shown(stage="finetune", title=f"finetune {arch.id[:6]}", event="finetune_step")
    train_from(session, newest_checkpoint(session, folder, made.ranks), made, folder, shown)
    return load_trained(recipe, components.supernet(space), folder, session.folder.command)


def _recipe(recipe: Recipe, section: FinetuneSection) -> Recipe:
    changed = {
        "steps": section.steps,
        "learning_rate": section.learning_rate,
        "distillation": 0.0,
        "teacher": section.teacher,
        "engine": EngineSection(name="torch"),
        "keep_best": False,
    }
    training = recipe.training.model_copy(update=changed)
    sampler = SamplerSection(name="uniform")
    search = recipe.search.model_copy(update={"checkpoint": "last"})
    changed = {"training": training, "sampler": sampler, "search": search}
    return recipe.model_copy(update=changed)


def _key(recipe: Recipe, section: FinetuneSection) -> str:
    settings = {k: v for k, v in _settings(recipe, section).items() if k != "subnets"}
    return hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:8]


def _loss(session: Session, supernet: Supernet, arch: Architecture) -> Metrics:
    supernet.net.eval()
    evaluator = DenoisingLoss(DenoisingLoss.Config(), session.context(supernet))
    (metrics,) = evaluator.evaluate([arch])
    return metrics
