"""What the other commands do with a run's folder, or with data before a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from nasvid.data.clips import clip_index
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.sample import to_frames
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.host.display import Display
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run.components import Components
from nasvid.run.extract import export
from nasvid.run.folder import existing
from nasvid.run.held_out import video_sampler
from nasvid.run.latents import fill_cache
from nasvid.run.members import find, members
from nasvid.run.pipeline import wait
from nasvid.run.report import report
from nasvid.run.samples import write_sample
from nasvid.run.search import shown_search
from nasvid.run.session import Session


def show_search(path: Path, options: Mapping[str, object]) -> None:
    """Show a run's search on its strategy's own page until Ctrl-C.

    options: of the strategy, instead of the recipe's.

    Raises:
        UserError: the strategy has no page, or it cannot be shown.
    """
    with stop_requests() as stop:
        session = _opened(path, stop)
        with shown_search(session, options):
            wait(session)


def _opened(path: Path, stop: Callable[[], int | None] = lambda: None) -> Session:
    folder = existing(path)
    return Session(folder, load_recipe(folder.recipe), stop=stop)


def export_subnets(path: Path, ids: Sequence[str], target: Path | None) -> list[Path]:
    """Export subnets of a run, or all members of its front if none is named.

    target: the folder to export to, each under its id; None for the run's own `subnets/`.
    """
    session = _opened(path)
    named = [find(session, id_) for id_ in ids]
    chosen = named or members(session.folder)
    place = target or session.folder.subnets
    return [
        export(session, session.supernet.extract(each.arch), each, place / each.arch.id)
        for each in chosen
    ]


def sample_video(
    path: Path, subnet: str, prompt: str, target: Path, resolution: int | None, seed: int
) -> Path:
    """Write one video of a subnet to `target`, at the highest resolution by default."""
    session = _opened(path)
    arch = find(session, subnet).arch
    sides = sorted(session.recipe.resolutions)
    side = sides[-1] if resolution is None else resolution
    if side not in sides:
        raise UserError(
            f"Resolution {side} is not one of this run's; use one of {', '.join(map(str, sides))}"
        )
    components = session.components
    sampler = replace(video_sampler(components), seed=seed)
    model = session.supernet.subnet(arch)
    (videos,) = sampler.videos(model, [prompt], components.shapes[side])
    write_sample(to_frames(videos)[0], target, session.recipe.data.fps)
    return target


def report_again(path: Path) -> None:
    """Rewrite a run's report.html."""
    report(_opened(path))


def encode(loaded: LoadedRecipe, out: Path | None) -> Path:
    """Encode the clips of a recipe into a folder that its runs share; return the folder.

    Raises:
        UserError: the recipe names no such folder, or no autoencoder that exists before a run.
        Interrupted: by a signal; what was encoded is kept.
    """
    recipe, display = loaded.recipe, Display()
    if recipe.vae is None or recipe.vae.train is not None:
        what = "trains its own in the run" if recipe.vae else "denoises pixels"
        raise UserError(f"There is no autoencoder to encode with; the recipe {what}")
    if out is None and recipe.vae.cache in ("run", "none"):
        raise UserError(
            "Each run has a cache of its own; name a shared one with --out or vae.cache"
        )
    folder = out or Path(recipe.vae.cache)
    indexes: dict[Split, ShardIndex] = {
        split: clip_index(recipe, split, folder, display) for split in SPLITS
    }
    with stop_requests() as stop:
        try:
            fill_cache(folder, Components(loaded), indexes, display, stop)
        except Interrupted as interrupted:
            how = "the same command; what was encoded is kept"
            raise Interrupted(interrupted.signal, how) from interrupted
    return folder
