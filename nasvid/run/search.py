"""The stage that searches the trained supernet, and the page that shows the search."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

from nasvid.distributed.sharing import lead
from nasvid.errors import Damaged, Interrupted
from nasvid.host.files import remove, write_json
from nasvid.host.reading import as_list, as_object, found_in, read_json
from nasvid.host.words import quantity
from nasvid.run.evaluate import evaluated_with
from nasvid.run.session import Session
from nasvid.run.splits import check_captions
from nasvid.search.driver import Progress, run_search
from nasvid.search.evaluating import Evaluating, Share, Unrecorded
from nasvid.search.front import front_of, write_front
from nasvid.search.goals import Goals, write_goals
from nasvid.search.record import read_record
from nasvid.search.unmet import NothingFoundError
from nasvid.strategy import RunContext


def search(session: Session) -> None:
    """Search the trained supernet on all ranks, and write its front.

    Rank 0 asks the strategy and keeps the record; all ranks evaluate.

    Raises:
        NothingFoundError: nothing satisfies the constraints. The results of an earlier search are
            kept; `search/unmet.json` says what was looked for and why it was not found.
        Interrupted: by a signal; all that was evaluated is kept.
        RankLost: another rank has ended.
    """
    ranks, folder = session.ranks, session.folder
    session.in_turn(lambda: session.held_out)
    ranks.rank0_does(lambda: _prepare(session), session.stop)
    context = session.context(session.supernet)
    evaluators = [part.make(context) for part in session.recipe.search.evaluators]
    unrecorded = Unrecorded(folder.unrecorded, ranks)
    ranks.rank0_does(unrecorded.read, session.stop)
    evaluating = Evaluating(evaluators, unrecorded)
    lead(
        ranks,
        evaluating.on_any_rank,
        lambda share: _search(session, evaluating, share),
        session.stop,
    )


def _prepare(session: Session) -> None:
    _report_damage(session)
    _set_record_aside(session)


def _search(session: Session, evaluating: Evaluating, share: Share) -> None:
    """Search on rank 0."""
    folder, section = session.folder, session.recipe.search
    with (
        folder.logged("search"),
        session.display.track("search", section.budget, "subnets") as tracker,
    ):

        def evaluated(progress: Progress) -> None:
            best = ", ".join(
                f"{name} {quantity(value, digits=4)}" for name, value in progress.best.items()
            )
            tracker.advance(f"best {best}")
            if (signal := session.stop()) is not None:
                raise Interrupted(signal, "every evaluation is recorded")

        if not folder.front.exists():
            _write_goals(session)
        try:
            result = run_search(
                section,
                session.context(session.supernet),
                seed=session.recipe.seed,
                record_path=folder.record,
                run=_run_context(session),
                on_progress=evaluated,
                evaluating=evaluating,
                share=share,
            )
        except NothingFoundError as error:
            wanted = {"objectives": section.objectives, "constraints": section.constraints}
            write_json(folder.search / "unmet.json", wanted | {"why": str(error)})
            raise
    for message in result.messages:
        session.display.say(f"search: {message}")
    _write_goals(session)
    write_front(folder.front, result, session.recipe.front.subnets)
    remove(folder.unrecorded)
    (folder.search / "unmet.json").unlink(missing_ok=True)


def _write_goals(session: Session) -> None:
    folder = session.folder.search
    write_goals(folder / "goals.json", session.recipe.search)
    mean_loss = session.held_out.mean_loss
    write_json(folder / "mean_loss.json", {str(each): loss for each, loss in mean_loss.items()})


def check_search(session: Session) -> None:
    """Check that a search can be made, before anything is written.

    Raises:
        UserError: the supernet is not trained, the record is damaged, an objective or constraint
            does not name a metric, or an evaluator does not take the held-out captions.
    """
    section = session.recipe.search
    read_record(session.folder.record)
    context = session.context(session.supernet)
    check_captions(session)
    evaluators = [evaluator.make(context) for evaluator in section.evaluators]
    space, shapes = session.components.space, session.components.shapes
    Goals.of(space, shapes, evaluators, section.objectives, section.constraints)


def _set_record_aside(session: Session) -> None:
    """Begin a new record if the old one was made with different settings."""
    folder, recipe = session.folder, session.recipe
    now = [evaluated_with(recipe, section) for section in recipe.search.evaluators]
    path, record = folder.search / "evaluated_with.json", folder.record
    try:
        before = read_json(path, as_list)
    except Damaged as damaged:  # the record may be anyone's
        session.display.say(f"search: {path} is damaged ({damaged.reason})")
        before = []
    if before is not None and before != now:
        remove(folder.unrecorded)
    if record.exists() and before is not None and before != now:
        number = len(found_in(folder.search, "record*.jsonl"))
        old = record.with_name(f"record-{number}.jsonl")
        record.replace(old)
        session.display.say(
            f"search: settings have changed; starting a new record, the old one is now {old.name}"
        )
    write_json(path, now)


def _report_damage(session: Session) -> None:
    """Print which of a search's results are damaged; every search writes all of them again."""
    folder = session.folder
    for name in ("goals.json", "mean_loss.json"):
        session.made_again(folder.search / name, as_object)
    session.made_again(folder.front, front_of)
    if folder.front.exists() and not read_record(folder.record):
        state = "empty" if folder.record.exists() else "missing"
        session.display.say(f"search: {folder.record} is {state}; all is evaluated again")


def _run_context(session: Session) -> RunContext:
    """Return what a strategy receives of the run, with a folder for its files."""
    recipe = session.recipe
    folder = session.folder.search / recipe.search.strategy.name
    return RunContext(recipe.name, folder, session.display.say)


@contextmanager
def shown_search(
    session: Session, options: Mapping[str, object] = MappingProxyType({})
) -> Iterator[None]:
    """Serve the strategy's own page of the search inside the context.

    options: of the strategy, instead of the recipe's.

    Raises:
        UserError: the strategy has no page, or it cannot be shown.
    """
    strategy = session.recipe.search.strategy.with_options(**options)
    with strategy.page(_run_context(session)) as address:
        session.display.say(f"The search is shown at {address}")
        yield
