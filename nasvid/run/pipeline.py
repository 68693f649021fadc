"""What the command line's verbs do with a run folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from nasvid.data.clips import clip_index
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.sample import to_frames
from nasvid.distributed.ranks import Stop, joined, launched, logged
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.host.display import Display
from nasvid.preflight import LoadedRecipe, load_recipe
from nasvid.run import evaluate, latent_stages, samples, stages, subnets
from nasvid.run.finetune import finetune
from nasvid.run.folder import Run
from nasvid.run.held_out import video_sampler
from nasvid.run.parts import Parts
from nasvid.run.train import train


def run(loaded: LoadedRecipe, out: Path, *, keep_ui: bool = False) -> Path | None:
    """Go through all stages, from the first that is not done; return the report's path.

    Where a launcher has started several ranks, they train together; the first does the rest, and
    the others return None when the training is done.

    keep_ui: show the search on its strategy's own page afterwards, until Ctrl-C.

    Raises:
        Interrupted: by SIGINT or SIGTERM; what was done is saved.
        RankLost: another rank has ended.
    """
    if keep_ui:
        loaded.recipe.search.strategy.check_page()
    with joined() as ranks, stop_requests(quiet=not ranks.first, launched=launched()) as stop:
        run = ranks.first_does(lambda: Run.start(out, loaded), stop) or Run.open(out)
        try:
            with logged(run.folder, ranks):
                display = Display()
                ranks.first_does(lambda: latent_stages.vae(run, display, stop), stop)
                ranks.first_does(lambda: latent_stages.latents(run, display, stop), stop)
                train(run, display, stop, ranks)
            return _after_training(run, display, stop, keep_ui=keep_ui) if ranks.first else None
        except Interrupted as interrupted:
            how = f"nasvid run {out / 'recipe.yaml'} --out {out}"
            raise Interrupted(interrupted.signal, how) from interrupted


def encode(loaded: LoadedRecipe, out: Path | None) -> Path:
    """Encode the clips of a recipe into a folder that its runs share; return the folder.

    Raises:
        UserError: the recipe names no such folder or no autoencoder that is there before the run.
        Interrupted: by SIGINT or SIGTERM; what was encoded is kept.
    """
    recipe, display = loaded.recipe, Display()
    if recipe.vae is None or recipe.vae.train is not None:
        what = "trains its own in the run" if recipe.vae else "denoises pixels: it has no vae"
        raise UserError(f"there is no autoencoder to encode with: the recipe {what}")
    if out is None and recipe.vae.cache in ("run", "none"):
        raise UserError("name a folder with --out or vae.cache: without one, each run has its own")
    folder = out or Path(recipe.vae.cache)
    indexes: dict[Split, ShardIndex] = {
        split: clip_index(recipe, split, folder, display) for split in SPLITS
    }
    with stop_requests() as stop:
        parts = Parts.of(recipe, None)
        try:
            latent_stages.fill_cache(folder, recipe, parts, indexes, display, stop)
        except Interrupted as interrupted:
            how = "the same command; what was encoded is kept"
            raise Interrupted(interrupted.signal, how) from interrupted
    return folder


def search(folder: Path, overrides: Sequence[str] = (), *, keep_ui: bool = False) -> Path:
    """Search a trained run again, its recipe changed by overrides; return the report's path.

    keep_ui: show the search on its strategy's own page afterwards, until Ctrl-C.

    Raises:
        UserError: the overrides would need another supernet.
        Interrupted: by SIGINT or SIGTERM; what was judged is recorded.
    """
    before, display = Run.open(folder), Display()
    loaded = load_recipe(before.folder / "recipe.yaml", overrides=overrides)
    if keep_ui:
        loaded.recipe.search.strategy.check_page()
    run = Run.start(folder, loaded)
    with stop_requests() as stop:
        try:
            return _after_training(run, display, stop, keep_ui=keep_ui)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal, f"nasvid search {folder}") from interrupted


def _after_training(run: Run, display: Display, stop: Stop, *, keep_ui: bool) -> Path:
    stages.search(run, display, stop)
    with stages.shown_search(run, display) if keep_ui else nullcontext():
        evaluate.evaluate(run, lambda: stages.search_context(run, display), display, stop)
        subnets.extract(run, display)
        finetune(run, display, stop)
        samples.samples(run, stages.data(run, "val", display), display, stop)
        path = stages.report(run, display)
        if keep_ui:
            _wait(display, stop)
    return path


def show_search(folder: Path, options: Mapping[str, object]) -> None:
    """Show a run's search on its strategy's own page until Ctrl-C.

    options: of the strategy, instead of the recipe's.

    Raises:
        UserError: the strategy has none, or it cannot be shown.
    """
    run, display = Run.open(folder), Display()
    with stop_requests() as stop, stages.shown_search(run, display, options):
        _wait(display, stop)


def _wait(display: Display, stop: Stop) -> None:
    display.say("until Ctrl-C")
    while stop() is None:
        time.sleep(0.1)


def extract(folder: Path, ids: Sequence[str], target: Path | None) -> list[Path]:
    """Export subnets of a run, all members of its front when none is named.

    target: the folder they are put into, each under its id; None is the run's own `subnets/`.
    """
    run = Run.open(folder)
    chosen = [subnets.find(run, id_) for id_ in ids] if ids else list(subnets.members(run).values())
    parts, supernet = subnets.trained(run)
    folders = target or folder / "subnets"
    return [
        subnets.export(run, parts, supernet.extract(arch), arch, metrics, folders / arch.id)
        for arch, metrics in chosen
    ]


def sample(
    folder: Path, subnet: str, prompt: str, target: Path, resolution: int | None, seed: int
) -> Path:
    """Write one video of a subnet to `target`; the highest resolution unless one is given."""
    run = Run.open(folder)
    arch, _ = subnets.find(run, subnet)
    sides = sorted(run.recipe.resolutions)
    side = sides[-1] if resolution is None else resolution
    if side not in sides:
        raise UserError(f"resolution {side} is not one of this run's: {', '.join(map(str, sides))}")
    parts, supernet = subnets.trained(run)
    sampler = replace(video_sampler(run.recipe, parts), seed=seed)
    (videos,) = sampler.videos(supernet.subnet(arch), [prompt], parts.shapes[side])
    samples.write_sample(to_frames(videos)[0], target, run.recipe.data.fps)
    return target


def report(folder: Path) -> Path:
    """Write a run's report.html again."""
    return stages.report(Run.open(folder), Display())
