"""The stages of a run, in order, and how they are run."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nasvid.distributed.ranks import joined, launched, logged
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.host.files import atomic_path
from nasvid.host.lock import locked
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.recipe.nodes import read
from nasvid.run import folder as folders
from nasvid.run.evaluate import evaluate
from nasvid.run.extract import extract
from nasvid.run.finetune import chosen_ids, fine_tuned, finetune
from nasvid.run.importance import importance, measure_trained
from nasvid.run.latents import latents
from nasvid.run.members import find
from nasvid.run.rank import NUMBER, rank, read_ranking
from nasvid.run.recover import recover
from nasvid.run.report import report
from nasvid.run.samples import samples
from nasvid.run.search import check_search, search, shown_search
from nasvid.run.session import Session
from nasvid.run.splits import check_splits
from nasvid.run.text import text
from nasvid.run.train import train
from nasvid.run.vae import vae
from nasvid.search.unmet import NothingFoundError


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One stage of a run.

    Existing results are kept, so a run can be resumed wherever and however it stopped.

    do: carries it out in a session, on all ranks or on rank 0 alone. needs: names of the stages
    whose files it reads. writes: its own files in the run's folder; no other stage writes there.
    """

    name: str
    do: Callable[[Session], None]
    needs: tuple[str, ...] = ()
    writes: tuple[str, ...]
    all_ranks: bool = False


BEFORE_SEARCH = (
    Stage(name="vae", do=vae, writes=("vae",)),
    Stage(name="latents", do=latents, needs=("vae",), writes=("latents",), all_ranks=True),
    Stage(name="text", do=text, writes=("text",), all_ranks=True),
    Stage(
        name="importance",
        do=importance,
        needs=("vae", "latents", "text"),
        writes=("importance",),
        all_ranks=True,
    ),
    Stage(
        name="train",
        do=train,
        needs=("vae", "latents", "text", "importance"),
        writes=("checkpoints", "train", "tensorboard"),
        all_ranks=True,
    ),
)
SEARCH = Stage(name="search", do=search, needs=("train",), writes=("search",), all_ranks=True)
CHOSEN = ("train", "search", "recover")
"""What there must be for the front's members and their weights."""
AFTER_SEARCH = (
    Stage(
        name="recover",
        do=recover,
        needs=("train", "search"),
        writes=("recover",),
        all_ranks=True,
    ),
    Stage(name="evaluate", do=evaluate, needs=CHOSEN, writes=("evaluate",), all_ranks=True),
    Stage(name="extract", do=extract, needs=(*CHOSEN, "evaluate"), writes=("subnets",)),
    Stage(
        name="finetune",
        do=finetune,
        needs=(*CHOSEN, "evaluate"),
        writes=("finetune",),
        all_ranks=True,
    ),
    Stage(name="samples", do=samples, needs=CHOSEN, writes=("samples",), all_ranks=True),
    Stage(
        name="report",
        do=report,
        needs=("vae", "importance", *CHOSEN, "evaluate", "extract", "finetune", "samples", "rank"),
        writes=("report.html",),
    ),
)
STAGES = (*BEFORE_SEARCH, SEARCH, *AFTER_SEARCH)
RANK = Stage(name="rank", do=rank, needs=("train",), writes=("rank",), all_ranks=True)
"""Only its own command carries it out."""
SHARED = ("recipe.yaml", "environment.json", "events.jsonl", "data", "shards", "logs")
"""Files of no stage: they belong to the session or, like the event log, are only appended to."""


def run(loaded: LoadedRecipe, out: Path, *, keep_ui: bool = False) -> None:
    """Run all stages, from the first that is not done.

    If a launcher has started several ranks, they train, search, evaluate and sample together;
    rank 0 does the rest.

    keep_ui: show the search on its strategy's own page afterwards, until Ctrl-C.

    Raises:
        UserError: another process works in the folder.
        Interrupted: by a signal; what was done is saved.
        RankLost: another rank has ended.
    """
    if keep_ui:
        loaded.recipe.search.strategy.check_page()
    before = _recipe_text(out)
    with (
        joined() as ranks,
        stop_requests(quiet=not ranks.is_rank0, launched=launched()) as stop,
        ExitStack() as lock,
    ):
        begun = ranks.rank0_does(lambda: _begin(out, loaded, lock), stop)
        folder = begun or folders.existing(out)
        if not ranks.is_rank0:  # rank 0's recipe applies: its machine may have chosen the scale
            loaded = load_recipe(folder.recipe)
        try:
            with logged(out, ranks):
                session = Session(folder, loaded, stop=stop, ranks=ranks)
                ranks.rank0_does(lambda: check_splits(session), stop)
                for stage in BEFORE_SEARCH:
                    _carry_out(stage, session)
                _search(session, keep_ui=keep_ui, recipe_before=before)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal, folder.command) from interrupted


def _recipe_text(path: Path) -> str | None:
    recipe = folders.RunFolder(path).recipe
    return recipe.read_text(encoding="utf-8") if recipe.is_file() else None


def _begin(out: Path, loaded: LoadedRecipe, lock: ExitStack) -> folders.RunFolder:
    """Make or open the folder of a run, and keep other processes out of it."""
    folders.check_free(out)
    lock.enter_context(locked(out))
    return folders.begin(out, loaded)


def _carry_out(stage: Stage, session: Session) -> None:
    if stage.all_ranks:
        stage.do(session)
    else:
        session.ranks.rank0_does(lambda: stage.do(session), session.stop)


def _search(session: Session, *, keep_ui: bool, recipe_before: str | None = None) -> None:
    """Run the search and the stages after it.

    recipe_before: the run's recipe before this search's, which stands again if it finds nothing.
    """
    try:
        _carry_out(SEARCH, session)
    except NothingFoundError:
        if recipe_before is not None and session.folder.front.exists():
            with atomic_path(session.folder.recipe) as temporary:
                temporary.write_text(recipe_before, encoding="utf-8")
        report(session)
        raise
    keep_ui = keep_ui and session.ranks.is_rank0
    with shown_search(session) if keep_ui else nullcontext():
        for stage in AFTER_SEARCH:
            _carry_out(stage, session)
        if keep_ui:
            wait(session)


def search_again(
    path: Path, overrides: Sequence[str] = (), *, keep_ui: bool = False, trust: bool = False
) -> None:
    """Search a trained run again, with overrides of its recipe.

    If a launcher has started several ranks, they search together.

    keep_ui: show the search on its strategy's own page afterwards, until Ctrl-C. trust: run any
    code that the run's recipe names.

    Raises:
        UserError: the overrides would need a different supernet, the search cannot be made, or the
            code must be trusted first; nothing has been written then. Or nothing satisfies the
            constraints; then only the record and the report have changed.
        Interrupted: by a signal; all evaluations are recorded.
        RankLost: another rank has ended.
    """
    words = ["nasvid", "search", str(path)]
    with _opened_by_all(path, words, overrides, trust=trust) as session:
        before = _recipe_text(path)
        if keep_ui:
            session.recipe.search.strategy.check_page()
        fix = "a search cannot change it; start a new run with nasvid run"
        folders.check_same_supernet(session.folder, session.recipe, fix=fix)
        session.ranks.rank0_does(lambda: _begin_search(session), session.stop)
        _search(session, keep_ui=keep_ui, recipe_before=before)


def _begin_search(session: Session) -> None:
    check_search(session)
    folders.write_recipe(session.folder, session.loaded)


def rank_again(
    path: Path, n: int = NUMBER, steps: int | None = None, *, trust: bool = False
) -> dict[str, Any] | None:
    """Train n architectures of a trained run alone, and compare them with the supernet's subnets.

    If a launcher has started several ranks, they train together. The report is written again.

    steps: of each training; None for as many as the supernet's. trust: run any code that the run's
    recipe names.

    Returns:
        The content of `rank/ranking.json` on rank 0, None on others.

    Raises:
        UserError: the supernet is not trained, the code must be trusted first, or another process
            works in the folder.
        Interrupted: by a signal; what was trained is kept.
        RankLost: another rank has ended.
    """
    words = ["nasvid", "rank", str(path), "--n", str(n)]
    words += [] if steps is None else ["--steps", str(steps)]
    with _opened_by_all(path, words, trust=trust) as session:
        rank(session, n, steps)
        if not session.ranks.is_rank0:
            return None
        report(session)
        return read_ranking(session.folder)


def finetune_again(
    path: Path, ids: Sequence[str] = (), overrides: Sequence[str] = (), *, trust: bool = False
) -> list[Path]:
    """Fine-tune subnets of a trained run, with overrides of its recipe, which are kept.

    If a launcher has started several ranks, they train together. The report is written again.

    ids: of any subnets of the run; () for those of the front that the recipe asks for. trust: run
    any code that the run's recipe names.

    Returns:
        The folders of the fine-tuned models on rank 0, none on others.

    Raises:
        UserError: the run has no such subnet, it asks for none, the supernet is not trained, the
            code must be trusted first, or another process works in the folder.
        Interrupted: by a signal; what was trained is kept.
        RankLost: another rank has ended.
    """
    section = read(folders.existing(path).recipe).child("finetune")
    if section is None or section.value is None:
        overrides = ["finetune={subnets: 0}", *overrides]
    words = ["nasvid", "finetune", str(path), *ids]
    with _opened_by_all(path, words, overrides, trust=trust) as session:
        folder, ranks, stop = session.folder, session.ranks, session.stop
        assert session.recipe.finetune is not None
        if not ids and not session.recipe.finetune.subnets:
            raise UserError(
                f"{path}: the recipe fine-tunes none of the front; name subnets by their IDs, or "
                "set finetune.subnets"
            )
        fix = "fine-tuning cannot change it; start a new run with nasvid run"
        folders.check_same_supernet(folder, session.recipe, fix=fix)
        session.supernet  # noqa: B018 (is trained)
        found = [find(session, id_).arch.id for id_ in ids]
        ranks.rank0_does(lambda: folders.write_recipe(folder, session.loaded), stop)
        finetune(session, ids)
        if not ranks.is_rank0:
            return []
        report(session)
        return [fine_tuned(session, id_) for id_ in found or chosen_ids(session)]


@contextmanager
def _opened_by_all(
    path: Path, words: Sequence[str], overrides: Sequence[str] = (), *, trust: bool
) -> Iterator[Session]:
    """Open a run's folder on all ranks, which no other process may use meanwhile.

    words: of the command that resumes what is interrupted.
    """
    folder = folders.existing(path)
    with (
        joined() as ranks,
        stop_requests(quiet=not ranks.is_rank0, launched=launched()) as stop,
        ExitStack() as lock,
    ):
        ranks.rank0_does(lambda: lock.enter_context(locked(path)), stop)
        loaded = folders.load_of_run(folder, overrides=overrides, trust=trust, reads_data=True)
        try:
            with logged(path, ranks):
                yield Session(folder, loaded, stop=stop, ranks=ranks)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal, shlex.join(words)) from interrupted


def importance_again(path: Path, *, trust: bool = False) -> dict[str, Any]:
    """Measure what blocks and units of a run's trained supernet are worth; write the report again.

    trust: run any code that the run's recipe names.

    Returns:
        The content of `importance/trained.json`.

    Raises:
        UserError: the supernet is not trained, the code must be trusted first, or another process
            works in the folder.
        Interrupted: by a signal.
    """
    folder = folders.existing(path)
    with stop_requests() as stop, locked(path):
        loaded = folders.load_of_run(folder, trust=trust, reads_data=True)
        session = Session(folder, loaded, stop=stop)
        found = measure_trained(session)
        report(session)
    return found


def wait(session: Session) -> None:
    """Wait until a signal asks to stop."""
    session.display.say("Press Ctrl-C to stop")
    while session.stop() is None:
        time.sleep(0.1)
