"""The architectures that a run has evaluated, found by their ids."""

from __future__ import annotations

import shlex
from dataclasses import replace
from difflib import get_close_matches

from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.run.evaluate import metrics
from nasvid.run.folder import RunFolder
from nasvid.run.rank import read_ranking
from nasvid.run.session import Session
from nasvid.search.front import read_front
from nasvid.search.record import read_record


def members(folder: RunFolder) -> list[Evaluation]:
    """Return the members of the front, ascending in cost, with all their metrics.

    Metrics from after the search replace those of the search.

    Raises:
        UserError: the run has not been searched.
    """
    if not folder.final_front.exists():
        raise UserError(
            f"{folder.path} has no front yet; run nasvid search {shlex.quote(str(folder.path))}"
        )
    found = [member.evaluation for member in read_front(folder.final_front).members]
    return [
        replace(each, metrics={**each.metrics, **metrics(folder, each.arch.id)}) for each in found
    ]


def find(session: Session, id_: str) -> Evaluation:
    """Return an architecture that was evaluated or ranked, by its id or a unique prefix of it.

    `largest` is the whole supernet and `smallest` the part that all subnets share.
    Neither has to be evaluated.

    Raises:
        UserError: there is none, or more than one; the message suggests the most similar.
    """
    folder = session.folder
    known = _ranked(session) | {each.arch.id: each for each in read_record(folder.record)}
    if folder.final_front.exists():
        known |= {each.arch.id: each for each in members(folder)}
    if id_ in ("largest", "smallest"):
        end = getattr(session.components.space, id_)
        return known.get(end.id, Evaluation(end, {}, 0.0))
    matches = [name for name in known if name.startswith(id_)] if id_ else []
    if len(matches) == 1:
        return known[matches[0]]
    if matches:
        raise UserError(f"Subnet '{id_}' is ambiguous: {', '.join(sorted(matches)[:5])}")
    near = get_close_matches(id_, known, n=1, cutoff=0.3)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    raise UserError(f"{folder.path} has no subnet '{id_}'{hint}")


def _ranked(session: Session) -> dict[str, Evaluation]:
    """Return the architectures that `nasvid rank` has compared, by id."""
    rows = (read_ranking(session.folder) or {"subnets": []})["subnets"]
    archs = [session.components.space.architecture(row["arch"]) for row in rows]
    return {
        arch.id: Evaluation(arch, row["inherited"], 0.0)
        for arch, row in zip(archs, rows, strict=True)
    }
