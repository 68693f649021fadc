"""The stage that measures what blocks and units of a pretrained model are worth."""

from __future__ import annotations

from typing import Any

import torch

from nasvid.host.aligned import write_aligned
from nasvid.host.files import write_json
from nasvid.host.words import counted
from nasvid.metrics.importance import Worth, worth_of_blocks
from nasvid.metrics.unit_scores import unit_scores
from nasvid.recipe.sections import ImportanceSection
from nasvid.run.init_from import load_start
from nasvid.run.measured import START, UNITS, importance_of, prefer
from nasvid.run.session import Session
from nasvid.supernet import Supernet


def importance(session: Session) -> None:
    """Measure the model that the supernet begins from, once, and let random subnets prefer it.

    Writes `importance/start.json` and, for ordering units, `importance/units.safetensors`.

    Raises:
        UserError: there is no such model, or it is not the space's largest architecture.
        RankLost: another rank has ended.
    """
    section, start = session.recipe.importance, session.recipe.supernet
    if section is None or start is None:
        return
    path = session.folder.importance / START

    def measure() -> None:
        if session.made_again(path, importance_of) is not None:
            return
        supernet = session.components.supernet()
        load_start(start, supernet, reorder=False)
        supernet.net.eval()
        found, scores = _measured(session, section, supernet)
        tensors = {f"{by}/{name}": s for by, each in scores.items() for name, s in each.items()}
        path.parent.mkdir(exist_ok=True)
        if tensors:
            write_aligned(tensors, path.with_name(UNITS))
        write_json(path, found)

    session.ranks.rank0_does(measure, session.stop)
    prefer(session.components.space, session.folder.importance, section)


def measure_trained(session: Session) -> dict[str, Any]:
    """Measure the trained supernet, write `importance/trained.json`, and return its content.

    Raises:
        UserError: training is not finished.
    """
    section = session.recipe.importance or ImportanceSection()
    found, _ = _measured(session, section, session.supernet)
    session.folder.importance.mkdir(exist_ok=True)
    write_json(session.folder.importance / "trained.json", found)
    return found


def _measured(
    session: Session, section: ImportanceSection, supernet: Supernet
) -> tuple[dict[str, Any], dict[str, dict[str, torch.Tensor]]]:
    context = session.context(supernet)
    blocks = worth_of_blocks(context, section.clips)
    scores = unit_scores(context, section.clips)
    by_gradient = scores["gradients"]
    units = [
        {"name": name, "count": len(each), "loss": each.sum().item(), "most": each.max().item()}
        for name, each in by_gradient.items()
    ]
    session.display.say(f"importance: {_summary(blocks)}, {counted(len(units), 'group')} of units")
    content = {"clips": section.clips, "blocks": [block.to_json() for block in blocks]}
    return content | {"units": units}, scores


def _summary(blocks: list[Worth]) -> str:
    if not blocks:
        return "no block can be off"
    least, most = (end(blocks, key=lambda block: block.loss) for end in (min, max))
    return (
        f"{counted(len(blocks), 'block')}, the loss rises by {least.loss:.4g} without {least.name} "
        f"and by {most.loss:.4g} without {most.name}"
    )
