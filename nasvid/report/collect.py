"""A run folder as plain values: the report is made from these alone; nothing is run again."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import yaml

from nasvid.architecture import Choice
from nasvid.errors import UserError
from nasvid.evaluation import Evaluation
from nasvid.host.reading import AGAIN, as_object, damage, each_line, found_in, read_json
from nasvid.host.terminal import say
from nasvid.host.words import counted
from nasvid.layout import Layout
from nasvid.report import forms
from nasvid.report.goals import Goals
from nasvid.report.steps import Steps
from nasvid.search import front
from nasvid.search.record import read_record
from nasvid.shapes import Resolution

T = TypeVar("T")
REAL = "real"
"""The owner of sample videos that are real validation clips."""

VERB = re.compile(r"nasvid( [\w-]+)+")
"""The form of a page's `verb`: the report shows it as a command to copy into a terminal."""
_VIDEO = re.compile(r"([\dx]+)-(\d+)\.mp4")


@dataclass(frozen=True, slots=True)
class Member:
    """One subnet chosen from the front.

    number: its rank by size, from 1 for the smallest.
    evaluation: its metrics, from the search and from the evaluation after it.
    resolutions: those whose front it is on.
    exported: whether its folder is under `subnets/`.
    """

    number: int
    evaluation: Evaluation
    resolutions: tuple[Resolution, ...]
    exported: bool

    @property
    def id(self) -> str:
        """The architecture's id."""
        return self.evaluation.arch.id

    @property
    def metrics(self) -> Mapping[str, float]:
        """Its metrics, from the search and after."""
        return self.evaluation.metrics


@dataclass(frozen=True, slots=True)
class Video:
    """One sample: of the subnet with id `owner`, or a validation clip (`REAL`)."""

    owner: str
    resolution: Resolution
    index: int
    path: Path


@dataclass(frozen=True, slots=True)
class RunData:
    """The contents of a run folder; a field is empty if its file does not exist.

    data: split -> what its index found (`clips`).
    steps: of the supernet's training, as curves.
    events: of stages, and samples left out, in order. ended: seconds since 1970 of the last event.
    evaluations: the search's record, without metrics that were not finite.
    mean_loss: resolution -> loss of predicting the mean of the held-out clips.
    recovered: candidates that were trained further before the final choice: `id`, metrics `before`
        and `after`; fronts and hypervolumes are the search's, members those chosen finally.
    finetuned: fine-tuned subnets: `id`, metrics `before` and `after`.
    ranking: how architectures trained alone compare with the supernet's: `settings`, `n`,
        `subnets`, and `agreement` once there are all n.
    importance: `start` and `trained` -> what blocks and units were worth then: `clips`, `blocks`
        and `units`.
    vae: the autoencoder: `name`, and `psnr` by resolution.
    unmet: why the last search found nothing, if so: `objectives`, `constraints`, and `why`.
    page: the strategy's own page, if it has one: its `title`, and the `verb` that shows it.
    start: the model that the supernet was initialised from: `init_from`, `orders`, and `costs`,
        the losses of subnets of each cost before training.
    """

    folder: Path
    recipe_text: str
    recipe: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Mapping[str, Mapping[str, Any]]
    events: tuple[Mapping[str, Any], ...]
    ended: float | None
    steps: Steps
    choices: tuple[Choice, ...]
    layout: Layout
    goals: Goals
    evaluations: tuple[Evaluation, ...]
    fronts: Mapping[Resolution, frozenset[str]]
    hypervolume: Mapping[Resolution, float]
    mean_loss: Mapping[Resolution, float]
    recovered: tuple[Mapping[str, Any], ...]
    finetuned: tuple[Mapping[str, Any], ...]
    ranking: Mapping[str, Any]
    importance: Mapping[str, Mapping[str, Any]]
    vae: Mapping[str, Any]
    start: Mapping[str, Any]
    unmet: Mapping[str, Any]
    page: Mapping[str, Any]
    members: tuple[Member, ...]
    prompts: tuple[str, ...]
    videos: tuple[Video, ...]

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's."""
        return str(self.recipe.get("name", self.folder.name))

    @property
    def resolutions(self) -> tuple[Resolution, ...]:
        """The run's resolutions, ascending."""
        return tuple(sorted(map(Resolution.parse, self.recipe.get("resolutions", self.fronts))))

    def of(self, event: str) -> list[Mapping[str, Any]]:
        """Return the events of one kind, in order."""
        return [entry for entry in self.events if entry.get("event") == event]


def collect(folder: Path) -> RunData:
    """Read a run folder.

    Raises:
        UserError: it is not a run folder, or a file in it is damaged; the message names it.
    """
    recipe = folder / "recipe.yaml"
    if not recipe.exists():
        raise UserError(f"{folder} is not a run folder; it has no recipe.yaml")
    with damage(recipe, yaml.YAMLError, fix="restore it from a copy"):
        text = recipe.read_text(encoding="utf-8")
        settings = as_object(yaml.safe_load(text))
    found = _front(folder / "search" / "front.json")
    final = folder / "recover" / "front.json"
    chosen = _front(final) if final.exists() else found
    after = _json(folder / "evaluate" / "metrics.json", forms.metrics, {})
    ids = {REAL, *(member.evaluation.arch.id for member in chosen.members)}
    has_prompts = _below(settings, "front").get("prompts") != []
    has_finetune = settings.get("finetune") is not None
    log = _Log.of(folder / "events.jsonl")
    no_space: forms.Space = ((), Layout.from_json([]))
    choices, layout = _json(folder / "train" / "space.json", forms.space, no_space)
    declared = after.get("declared", {})

    def goals(value: Any) -> Goals:
        return Goals.of(value, declared)

    return RunData(
        folder=folder,
        recipe_text=text,
        recipe=settings,
        environment=_json(folder / "environment.json", forms.environment, {}),
        data={
            path.stem: _json(path, forms.split, {}) for path in found_in(folder / "data", "*.json")
        },
        events=tuple(log.events),
        ended=log.ended,
        steps=log.steps,
        choices=choices,
        layout=layout,
        goals=_json(folder / "search" / "goals.json", goals, Goals.of({}, declared)),
        evaluations=tuple(map(_only_finite, read_record(folder / "search" / "record.jsonl"))),
        fronts={resolution: frozenset(ids) for resolution, ids in found.fronts.items()},
        hypervolume={resolution: v for resolution, v in found.hypervolume.items() if v is not None},
        mean_loss=_json(folder / "search" / "mean_loss.json", forms.by_resolution, {}),
        finetuned=_json(folder / "finetune" / "finetuned.json", forms.tuned, ())
        if has_finetune
        else (),
        recovered=_json(folder / "recover" / "recovered.json", forms.recovered, ())
        if final.exists()
        else (),
        ranking=_json(folder / "rank" / "ranking.json", forms.ranking, {}, fix=forms.RANK_AGAIN),
        importance={
            when: worth
            for when in ("start", "trained")
            if (worth := _json(folder / "importance" / f"{when}.json", forms.importance, {}))
        },
        vae=_json(folder / "vae" / "quality.json", forms.vae, {}),
        start=_json(folder / "train" / "start.json", forms.start, {}),
        unmet=_json(folder / "search" / "unmet.json", forms.unmet, {}),
        page=_page(folder, settings),
        members=tuple(
            _member(number, member, after.get("metrics", {}), folder)
            for number, member in enumerate(chosen.members, start=1)
        ),
        prompts=_json(folder / "samples" / "prompts.json", forms.texts, ()) if has_prompts else (),
        videos=tuple(_videos(folder / "samples", ids)) if has_prompts else (),
    )


def _front(path: Path) -> front.Front:
    return front.read_front(path) if path.exists() else front.Front({}, {}, ())


def _page(folder: Path, settings: Any) -> Mapping[str, Any]:
    """Return the content of `page.json` in the strategy's folder."""
    try:
        name = settings["search"]["strategy"]["name"]
    except (KeyError, TypeError):
        return {}
    if Path(str(name)).name != name:  # a path could lead out of the folder
        return {}
    page = _json(folder / "search" / str(name) / "page.json", forms.page, {})
    return page if VERB.fullmatch(str(page.get("verb"))) else {}


def _only_finite(evaluation: Evaluation) -> Evaluation:
    metrics = {name: value for name, value in evaluation.metrics.items() if math.isfinite(value)}
    return replace(evaluation, metrics=metrics)


def _member(
    number: int, chosen: front.Member, after: Mapping[str, Mapping[str, Any]], folder: Path
) -> Member:
    """Return a member; metrics measured after the search replace the search's own."""
    evaluation = chosen.evaluation
    id_ = evaluation.arch.id
    metrics = _finite(evaluation.metrics) | _finite(after.get(id_, {}))
    exported = (folder / "subnets" / id_).is_dir()
    return Member(number, replace(evaluation, metrics=metrics), chosen.resolutions, exported)


def _finite(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if value is not None}


def _videos(folder: Path, owners: Collection[str]) -> list[Video]:
    found = []
    for owner in owners:
        for path in found_in(folder / owner, "*.mp4"):
            match = _VIDEO.fullmatch(path.name)
            if match:
                found.append(Video(owner, Resolution.parse(match[1]), int(match[2]), path))
    return sorted(found, key=lambda video: (video.resolution, video.index, video.owner))


def _below(settings: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    found = settings.get(section)
    return found if isinstance(found, dict) else {}


def _json(path: Path, parse: Callable[[Any], T], absent: T, fix: str = AGAIN) -> T:
    found = read_json(path, parse, fix)
    return absent if found is None else found


@dataclass(slots=True)
class _Log:
    """What the report needs of the event log."""

    events: list[Mapping[str, Any]] = field(default_factory=list)
    ended: float | None = None
    steps: Steps = field(default_factory=Steps)

    @classmethod
    def of(cls, path: Path) -> _Log:
        log = cls()
        if damaged := each_line(path, log.add):
            say(f"{path}: {counted(damaged, 'damaged line')} left out")
        return log

    def add(self, line: Any) -> None:
        event = forms.event(line)
        if event.get("event") == "step":
            self.steps.add(event)
        elif event.get("event") in forms.NEEDED:
            self.events.append(event)
        self.ended = event.get("time", self.ended)
