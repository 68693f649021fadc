"""The parts of a run's pipeline, as they were when it was trained."""

from __future__ import annotations

from pathlib import Path

from nasvid.diffusion.stock import StockPipeline
from nasvid.errors import UserError
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, fingerprint, read_json
from nasvid.run.folder import RunFolder
from nasvid.run.session import Session


def note_parts(session: Session, *, is_new: bool) -> None:
    """Write down what the parts are, if the run has a pipeline.

    is_new: whether training begins, in which case an earlier note does not count.
    """
    pipeline, path = session.components.pipeline, _path(session.folder)
    if isinstance(pipeline, StockPipeline) and (is_new or not path.exists()):
        write_json(path, _fingerprints(pipeline))


def check_unchanged(folder: RunFolder, pipeline: StockPipeline) -> None:
    """Check that the parts are there, as they were when the run was trained, if that is known.

    Raises:
        UserError: one has changed or vanished.
    """
    pipeline.check_parts()
    path = _path(folder)
    then, now = read_json(path, as_object) or {}, _fingerprints(pipeline)
    for part in now:
        if then.get(part, now[part]) != now[part]:
            raise UserError(
                f"The {part} of the run's pipeline, {pipeline.parts[part]}, has changed since the "
                f"run began to be trained; restore it, or delete {path} to take it as it is"
            )


def _path(folder: RunFolder) -> Path:
    return folder.train / "pipeline.json"


def _fingerprints(pipeline: StockPipeline) -> dict[str, str]:
    return {part: fingerprint(folder) for part, folder in pipeline.parts.items()}
