"""What the command line's verbs do with a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nasvid import latent_stages, stages, subnets
from nasvid.display import Display
from nasvid.errors import Interrupted, UserError
from nasvid.finetune import finetune
from nasvid.recipe_file import LoadedRecipe, load_recipe
from nasvid.run import Run
from nasvid.signals import stop_requests


def run(loaded: LoadedRecipe, out: Path) -> Path:
    """Go through all stages, from the first that is not done; return the report's path.

    Raises:
        Interrupted: by SIGINT or SIGTERM; what was done is saved.
    """
    display = Display()
    run = Run.start(out, loaded)
    with stop_requests() as stop:
        try:
            latent_stages.vae(run, display, stop)
            latent_stages.latents(run, display, stop)
            stages.train(run, display, stop)
            return _after_training(run, display, stop)
        except Interrupted as interrupted:
            how = f"nasvid run {out / 'recipe.yaml'} --out {out}"
            raise Interrupted(interrupted.signal, how) from interrupted


def search(folder: Path, overrides: Sequence[str] = ()) -> Path:
    """Search a trained run again, its recipe changed by overrides; return the report's path.

    Raises:
        UserError: the overrides would need another supernet.
        Interrupted: by SIGINT or SIGTERM; what was judged is recorded.
    """
    before, display = Run.open(folder), Display()
    loaded = load_recipe(before.folder / "recipe.yaml", overrides=overrides)
    run = Run.start(folder, loaded)
    with stop_requests() as stop:
        try:
            return _after_training(run, display, stop)
        except Interrupted as interrupted:
            raise Interrupted(interrupted.signal, f"nasvid search {folder}") from interrupted


def _after_training(run: Run, display: Display, stop: stages.Stop) -> Path:
    stages.search(run, display, stop)
    stages.latency(run, display)
    subnets.extract(run, display)
    finetune(run, display, stop)
    subnets.samples(run, stages.data(run, "val", display), display, stop)
    return stages.report(run, display)


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
    (video,) = subnets.sample(run, parts, supernet, arch, [prompt], side, seed)
    subnets.write_sample(video, target, run.recipe.data.fps)
    return target


def report(folder: Path) -> Path:
    """Write a run's report.html again."""
    return stages.report(Run.open(folder), Display())
