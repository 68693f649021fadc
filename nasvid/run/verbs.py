"""The other commands on a run's folder, or on data before a run."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path

from nasvid.data.clips import clip_index, streamed_shards
from nasvid.data.paths import SPLITS, Split
from nasvid.data.shards import ShardIndex
from nasvid.diffusion.sample import to_frames
from nasvid.diffusion.stock import Unfit
from nasvid.distributed.ranks import joined, launched, logged
from nasvid.distributed.signals import stop_requests
from nasvid.errors import Interrupted, UserError
from nasvid.evaluation import Evaluation
from nasvid.evaluator import Guidance
from nasvid.export.formats import DIFFUSERS
from nasvid.export.video import FORMATS, OF_IMAGES
from nasvid.host.display import Display
from nasvid.host.lock import locked
from nasvid.latents.cache import own_place
from nasvid.latents.captions import Shards
from nasvid.preflight import LoadedRecipe
from nasvid.run.components import Components
from nasvid.run.finetune import newest
from nasvid.run.folder import existing, load_of_run
from nasvid.run.formats import Formats
from nasvid.run.held_out import video_sampler
from nasvid.run.joint import Joint
from nasvid.run.latents import fill_cache
from nasvid.run.members import find, members
from nasvid.run.own_weights import OwnWeights
from nasvid.run.pipeline import wait
from nasvid.run.samples import write_sample
from nasvid.run.search import shown_search
from nasvid.run.session import Session
from nasvid.run.text import fill_text
from nasvid.shapes import Resolution
from nasvid.supernet import Supernet


def show_search(path: Path, options: Mapping[str, object], *, trust: bool = False) -> None:
    """Serve the strategy's own page of a run's search until Ctrl-C.

    options: of the strategy, instead of the recipe's. trust: run any plug-in file of the recipe.

    Raises:
        UserError: the strategy has no page, it cannot be shown, or plug-ins must be trusted first.
    """
    with stop_requests() as stop:
        session = _opened(path, trust=trust, stop=stop)
        with shown_search(session, options):
            wait(session)


def _opened(
    path: Path, *, trust: bool, writes: bool = True, stop: Callable[[], int | None] = lambda: None
) -> Session:
    folder = existing(path)
    return Session(folder, load_of_run(folder, trust=trust), stop=stop, writes=writes)


def export_subnets(
    path: Path,
    ids: Sequence[str],
    target: Path | None,
    formats: Formats,
    *,
    tuned: bool = False,
    trust: bool = False,
) -> list[Path]:
    """Export subnets of a run, or all members of its front if none is named.

    target: the folder to export to, each under its id; None for the run's own `subnets/`. tuned:
    with fine-tuned weights where there are any. trust: run any plug-in file of the recipe.

    Raises:
        UserError: the run has no such subnet or resolution, a format needs what is not installed,
            or a subnet cannot be exported to it.
    """
    formats.check()
    session = _opened(path, trust=trust, writes=target is None)
    formats.check_resolutions(session)
    named = [find(session, id_) for id_ in ids]
    chosen = named or members(session.folder)
    place, weights = target or session.folder.subnets, OwnWeights(session)
    pipeline = session.components.exported
    if DIFFUSERS in formats.names and isinstance(pipeline, Unfit):
        session.display.say(f"Denoisers alone: {pipeline}")
    with nullcontext() if target else locked(path):
        return [
            folder
            for each in chosen
            for supernet, found in [_weighted(weights, each, tuned=tuned)]
            for folder in formats.export(session, supernet.extract(each.arch), found, place)
        ]


def _weighted(weights: OwnWeights, each: Evaluation, *, tuned: bool) -> tuple[Supernet, Evaluation]:
    return newest(weights, each) if tuned else (weights.supernet(each.arch), each)


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRequest:
    """A video to sample: what it shows, and how; None means as in the run's own samples.

    resolution: None for the run's highest. steps: of denoising. guidance: the scale of
    classifier-free guidance. before_finetuning: by the weights that the subnet had then.
    """

    prompt: str
    seed: int
    resolution: Resolution | None
    steps: int | None
    guidance: float | None
    before_finetuning: bool = False


def sample_video(
    path: Path, subnet: str, wanted: SampleRequest, target: Path | None, *, trust: bool = False
) -> Path:
    """Write one video of a subnet, but nothing into the run's folder; return its path.

    target: an MP4, WebP or GIF file, of one frame also a PNG; None for an MP4 or a PNG in the
        current folder, named for what it is, which replaces no other file. trust: run any plug-in
        file of the recipe.

    Raises:
        UserError: the run has no such subnet or resolution, or its format is unknown.
    """
    if target is not None and target.suffix.lower() not in FORMATS:
        raise UserError(f"{target} must end in one of {', '.join(FORMATS)}")
    session = _opened(path, trust=trust, writes=False)
    found = find(session, subnet)
    arch = found.arch
    components = session.components
    resolutions = sorted(components.shapes)
    resolution = resolutions[-1] if wanted.resolution is None else wanted.resolution
    if resolution not in resolutions:
        known = ", ".join(map(str, resolutions))
        raise UserError(f"Resolution {resolution} is not one of this run's; use one of {known}")
    is_image = resolution.frames_or(session.recipe.data.frames) == 1
    if target is not None and target.suffix.lower() == OF_IMAGES and not is_image:
        raise UserError(f"{target} is an image, but {resolution} has several frames; use .mp4")
    as_usual = video_sampler(components)
    guidance = Guidance(
        scale=as_usual.guidance.scale if wanted.guidance is None else wanted.guidance,
        steps=wanted.steps or as_usual.guidance.steps,
    )
    sampler = replace(as_usual, seed=wanted.seed, guidance=guidance)
    tuned = not wanted.before_finetuning
    supernet, _ = _weighted(OwnWeights(session), found, tuned=tuned)
    model = supernet.subnet(arch)
    (videos,) = sampler.videos(model, [wanted.prompt], components.shapes[resolution])
    name = f"{arch.id}-{resolution}-{_slug(wanted.prompt)}"
    target = target or _unused(name, OF_IMAGES if is_image else ".mp4")
    write_sample(to_frames(videos)[0], target, session.recipe.data.fps)
    return target


def _slug(prompt: str) -> str:
    return "-".join(re.findall(r"\w+", prompt.lower()))[:40] or "sample"


def _unused(name: str, ending: str) -> Path:
    paths = (Path(f"{name}{end}{ending}") for end in chain([""], (f"-{n}" for n in count(2))))
    return next(path for path in paths if not path.exists())


def encode(loaded: LoadedRecipe, out: Path | None) -> Path:
    """Encode the clips of a recipe, or only their captions if it denoises pixels, on all ranks.

    Returns:
        The folder, inside one that the recipe's runs share.

    Raises:
        UserError: the recipe names no such folder, or there is nothing to encode before a run.
        Interrupted: by a signal; what was encoded is kept.
        RankLost: another rank has ended.
    """
    shared = _shared(loaded, out)
    with joined() as ranks, stop_requests(quiet=not ranks.is_rank0, launched=launched()) as stop:
        try:
            with logged(shared, ranks):
                return _encode(loaded, shared, Joint(Display(), stop, ranks))
        except Interrupted as interrupted:
            how = "the same command; what was encoded is kept"
            raise Interrupted(interrupted.signal, how) from interrupted


def _encode(loaded: LoadedRecipe, shared: Path, joint: Joint) -> Path:
    recipe, components = loaded.recipe, Components(loaded)

    def index(split: Split) -> ShardIndex:
        return clip_index(recipe, split, shared, joint.display, shared=True)

    def shards() -> dict[Split, Shards]:
        if not recipe.streams:
            return {split: index(split) for split in SPLITS}
        return {
            "train": streamed_shards(recipe, shared, joint.display, shared=True),
            "val": index("val"),
        }

    if recipe.vae is None:
        data = joint.ranks.rank0_does(shards, joint.stop) or shards()
        folder = own_place(shared, components.text_identity(data))
        fill_text(folder, components, data, joint)
    else:
        joint.ranks.rank0_does(lambda: [index(split) for split in SPLITS], joint.stop)
        indexes: dict[Split, ShardIndex] = {split: index(split) for split in SPLITS}
        folder = own_place(shared, components.latent_identity(indexes))
        fill_cache(folder, components, indexes, joint)
    return folder


def _shared(loaded: LoadedRecipe, out: Path | None) -> Path:
    """Return the folder that a recipe's runs share what is encoded in.

    Raises:
        UserError: it names none, or there is nothing to encode before a run.
    """
    recipe = loaded.recipe
    if recipe.vae is None and loaded.text.weightless:
        raise UserError(
            f"There is nothing to encode: the recipe denoises pixels, and text.name: "
            f"{recipe.text.name} encodes a caption as fast as it is read"
        )
    if recipe.vae is not None and recipe.vae.train is not None:
        raise UserError(
            "There is no autoencoder to encode with, because the recipe trains its own in the run"
        )
    is_pixels = recipe.vae is None
    key, what = ("data.embeddings", "embeddings") if is_pixels else ("vae.cache", "latents")
    place = recipe.data.embeddings if recipe.vae is None else recipe.vae.cache
    if out is None and place in ("run", "none"):
        why = {
            "run": f"Each run has its own cache ({key}: run)",
            "none": f"The recipe keeps no {what} ({key}: none)",
        }
        raise UserError(f"{why[place]}; name a shared folder with --out or {key}")
    return out or Path(place)
