"""The stage that fine-tunes subnets: some of the front, and those that are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from nasvid.distributed.sharing import divide, rounds
from nasvid.evaluation import Evaluation
from nasvid.export.subnet import load_exported, read_info
from nasvid.host.files import write_json
from nasvid.host.reading import as_list, as_object, check_sums, read_json
from nasvid.host.words import counted
from nasvid.run.extract import export, is_exported, remove_former
from nasvid.run.members import find, members
from nasvid.run.own_weights import OwnWeights
from nasvid.run.session import Session
from nasvid.run.tune import Tuning, held_out_loss
from nasvid.search.pareto import choose
from nasvid.supernet import Supernet
from nasvid.training import checkpoint
from nasvid.training.engine import check_ready


def finetune(session: Session, ids: Sequence[str] = ()) -> None:
    """Fine-tune some members of the front on all ranks, and export them to `finetune/subnets/ID`.

    `finetune/finetuned.json` has each one's loss on the held-out clips before and after. Training
    is resumed like the supernet's; a model that was finished with the same settings is not trained
    again.

    ids: of the subnets to fine-tune instead, any of the run's; others are left as they are.

    Raises:
        UserError: the run has no such subnet, or the engine lacks something on this machine.
        Interrupted: by a signal; a checkpoint is saved.
        RankLost: another rank has ended.
    """
    section, ranks = session.recipe.finetune, session.ranks
    if section is None:
        return
    check_ready(session.recipe.training.engine)
    folder = session.folder.finetune / "checkpoints"
    weights = OwnWeights(session)
    tuning = Tuning(
        session=session,
        section=section,
        stage="finetune",
        setting="finetune",
        folder=folder,
        start=lambda arch: weights.supernet(arch).extract(arch),
        after=session.recipe.front.recover,
    )
    begun = ranks.rank0_does(lambda: _Results.read(tuning, ids), session.stop)
    missing = ranks.agree(begun.missing if begun else [])
    session.in_turn(lambda: missing and session.clips("train"))
    finish = _Finish(tuning, weights)
    for some in rounds(ranks, missing):
        for each in some:
            tuning.train(each.arch)
        session.in_turn(lambda: session.held_out)
        entries = divide(ranks, some, finish, session.stop)
        ranks.rank0_does(lambda entries=entries: begun and begun.add(entries), session.stop)


@dataclass(frozen=True, slots=True)
class _Finish:
    """What evaluates and exports a subnet that has been trained, on any rank.

    weights: that the subnets had before.
    """

    tuning: Tuning
    weights: OwnWeights

    def __call__(self, each: Evaluation) -> dict[str, Any]:
        """Export a subnet; return its entry in `finetune/finetuned.json`."""
        session, arch = self.tuning.session, each.arch
        before = held_out_loss(session, self.weights.supernet(arch), arch)
        tuned = self.tuning.tuned(arch)
        after = held_out_loss(session, tuned, tuned.space.largest)
        scored = replace(each, metrics={**each.metrics, **after})
        export(session, tuned.net, scored, fine_tuned(session, arch.id))
        return {"id": arch.id, "before": before, "after": after}


@dataclass(frozen=True, slots=True)
class _Results:
    """What `finetune/finetuned.json` holds, and what is to be added; on rank 0.

    missing: subnets that are not fine-tuned yet. done: the results with these settings, by id.
    """

    tuning: Tuning
    missing: list[Evaluation]
    done: dict[str, Any]

    @classmethod
    def read(cls, tuning: Tuning, ids: Sequence[str]) -> _Results:
        session = tuning.session
        wanted = [find(session, id_) for id_ in ids] or _chosen(session)
        if not ids:
            remove_former(session, _subnets(session), [each.arch.id for each in wanted])
        done = _done(tuning)
        _report_damage(tuning, done)
        missing = [each for each in wanted if each.arch.id not in done]
        if not missing:
            what = counted(len(wanted), "subnet")
            session.display.say(f"finetune: {what} already fine-tuned, nothing to do")
        return cls(tuning, missing, done)

    def add(self, entries: Sequence[dict[str, Any]]) -> None:
        """Add subnets that have been trained, evaluated and exported, and write the results."""
        session = self.tuning.session
        for entry in entries:
            self.done[entry["id"]] = entry
            before, after = entry["before"]["loss"], entry["after"]["loss"]
            session.display.say(f"finetune: {entry['id']}: loss {before:.4f} -> {after:.4f}")
        content = {"settings": self.tuning.settings, "subnets": list(self.done.values())}
        write_json(_path(session), content)


def newest(weights: OwnWeights, each: Evaluation) -> tuple[Supernet, Evaluation]:
    """Return the supernet to take a subnet from, fine-tuned if the subnet is, and its evaluation.

    The supernet is valid until weights are next asked for one.

    Raises:
        Damaged: the fine-tuned model is.
    """
    session, id_ = weights.session, each.arch.id
    folder, known = fine_tuned(session, id_), read_json(_path(session), _results)
    if known is None or id_ not in known[1] or not folder.exists():
        return weights.supernet(each.arch), each
    check_sums(folder)
    session.display.say(f"{id_}: as fine-tuned; --before-finetuning takes its earlier weights")
    tuned = replace(each, metrics=read_info(folder).metrics)
    return weights.with_model(each.arch, load_exported(folder)), tuned


def fine_tuned(session: Session, id_: str) -> Path:
    """Return the folder of a fine-tuned model."""
    return _subnets(session) / id_


def chosen_ids(session: Session) -> list[str]:
    """Return the ids of the members of the front that the recipe fine-tunes."""
    return [each.arch.id for each in _chosen(session)]


def _path(session: Session) -> Path:
    return session.folder.finetune / "finetuned.json"


def _subnets(session: Session) -> Path:
    return session.folder.finetune / "subnets"


def _chosen(session: Session) -> list[Evaluation]:
    assert session.recipe.finetune is not None
    known = members(session.folder)
    costs = np.arange(len(known), dtype=np.float64)
    return [known[i] for i in choose(costs, session.recipe.finetune.subnets)]


def _done(tuning: Tuning) -> dict[str, Any]:
    """Return the results with these settings, by id, of the models that are there and intact."""
    session = tuning.session
    found = session.made_again(_path(session), _results)
    if found is None or found[0] != tuning.settings:
        return {}
    is_there = partial(is_exported, session)
    return {id_: each for id_, each in found[1].items() if is_there(fine_tuned(session, id_))}


def _results(content: Any) -> tuple[Any, dict[str, Any]]:
    """Return the settings and the results by id that `finetuned.json` holds."""
    entries = as_list(content["subnets"])
    for entry in entries:
        as_object(entry["before"])
        as_object(entry["after"])
    return content["settings"], {str(entry["id"]): entry for entry in entries}


def _report_damage(tuning: Tuning, done: Sequence[str] | dict[str, Any]) -> None:
    """Print which checkpoints of finished models are damaged; nothing is made of them again."""
    for id_ in done:
        _, complaints = checkpoint.latest(tuning.checkpoints(id_))
        for complaint in complaints:
            tuning.session.display.say(f"{complaint}; the model made from it is intact")
