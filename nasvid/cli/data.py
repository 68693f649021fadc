"""The commands for data: `nasvid data pack`, `inspect`, `encode`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click

from nasvid.cli.group import PATH, Verbs, as_json, print_json, recipe_options, scale, settings
from nasvid.errors import UserError
from nasvid.host.terminal import one_line, say

if TYPE_CHECKING:
    from nasvid.data.paths import Split


@click.group(cls=Verbs)
def data() -> None:
    """Make and inspect the shards that runs read."""


@data.command()
@click.argument("videos", type=PATH)
@click.argument("out", type=PATH)
@click.option(
    "--captions", type=PATH, help="CSV, TSV, JSON or JSONL with a video and a caption column."
)
@click.option(
    "--val",
    metavar="SHARE|FILE|COLUMN",
    help="Also make a validation split, OUT/val beside OUT/train: of a share of the source videos "
    "(0.05), of the videos that a file lists, or by the table's column.",
)
@click.option(
    "--size",
    type=click.IntRange(1, 8192),
    help="Shrink videos and images whose short side is longer to this many pixels.",
)
@click.option(
    "--shard-size",
    type=click.IntRange(1, 10**6),
    default=1000,
    show_default=True,
    help="Clips per shard.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Processes that read and encode [default: one for each usable core].",
)
@as_json
def pack(
    videos: Path,
    out: Path,
    captions: Path | None,
    val: str | None,
    size: int | None,
    shard_size: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Pack a folder of videos or images and their captions into shards.

    Captions come from --captions, or from files next to the videos. A pack that was stopped is
    resumed by the same command, with any number of workers.
    """
    from nasvid.data.pack import pack
    from nasvid.data.packing import is_begun
    from nasvid.host.display import Display

    try:
        report = pack(
            videos,
            out,
            captions=captions,
            val=val,
            size=size,
            shard_size=shard_size,
            workers=workers,
            display=None if as_json else Display(),
        )
    except KeyboardInterrupt:
        if is_begun(out):
            say("What is packed is kept; resume with the same command.", err=True)
        raise
    if as_json:
        print_json(asdict(report))
        return
    from nasvid.host.words import bytes_text, counted

    clips, shards = counted(report.clips, "clip"), counted(report.shards, "shard")
    say(f"{clips} in {shards}, {bytes_text(report.bytes)}, in {out} ({report.layout})")
    if report.resumed:
        say(f"{counted(report.resumed, 'clip')} of these had been packed before")
    for split, count in report.splits.items():
        say(f"{split}: {counted(count, 'clip')} in {out / split}")
    for name, caption in report.captions.items():
        say(f"  {one_line(name)}: {one_line(caption)}")
    for reason, count in report.skipped.items():
        say(f"skipped: {count}: {reason}, the first {one_line(report.examples[reason])}")


@data.command()
@click.argument("shards", nargs=-1)
@click.option(
    "--recipe", type=PATH, help="Also count the clips that RECIPE can use at each resolution."
)
@scale
@settings
@click.option(
    "--split",
    type=click.Choice(["train", "val"]),
    default="train",
    show_default=True,
    help="Split of `embedded`, and of the recipe's shards if none are given.",
)
@click.option(
    "--sample",
    type=click.IntRange(1, 10**7),
    default=200,
    show_default=True,
    help="Number of clips to open.",
)
@click.option("--sheet", type=PATH, help="PNG file to draw some of the clips to.")
@click.option(
    "--cache", type=PATH, help="Folder to keep remote shards in [default: they are not kept]."
)
@click.option(
    "--retries",
    type=click.IntRange(0, 100),
    default=5,
    show_default=True,
    help="Retries of a failed download.",
)
@click.option("--allow-pipes", is_flag=True, help="Allow `pipe:` shards to run their commands.")
@as_json
def inspect(
    shards: tuple[str, ...],
    recipe: Path | None,
    scale: str | None,
    sets: tuple[str, ...],
    split: Split,
    sample: int,
    sheet: Path | None,
    cache: Path | None,
    retries: int,
    allow_pipes: bool,
    as_json: bool,
) -> None:
    """Show what is in SHARDS: paths, addresses, patterns, or `embedded`; by default RECIPE's."""
    from nasvid.data.cache import ShardCache
    from nasvid.data.clips import in_buckets
    from nasvid.data.inspect import contact_sheet, inspect, uses
    from nasvid.data.shards import index_shards

    spec: str | list[str] = list(shards)
    loaded = None
    if recipe is not None:
        from nasvid.preflight import load_recipe

        loaded = load_recipe(recipe, scale=scale, overrides=sets).recipe
        section = loaded.data
        spec = spec or (section.train if split == "train" else section.val)
    elif scale or sets or not shards:
        raise UserError("Name shards, or a recipe with --recipe (--scale and --set change it)")
    with TemporaryDirectory(prefix="nasvid-") as own:
        kept = ShardCache(cache or Path(own), retries, allow_pipes)
        shapes = loaded is not None and loaded.data.buckets
        index = index_shards(spec, Path.cwd(), split, cache=kept, shapes=shapes, max_skipped=0.5)
        found, used = inspect(index, sample=sample), []
        if loaded is not None:
            index = in_buckets(loaded, index)
            used = uses(index, loaded.data, loaded.resolutions, sample=sample)
        if sheet is not None:
            contact_sheet(index, sheet)
    if as_json:
        print_json(asdict(found) | ({"recipe": [use.to_json() for use in used]} if used else {}))
        return
    from nasvid.cli.tables import show_inspection, show_use

    show_inspection(found)
    if loaded is not None:
        show_use(loaded.data, used)


@data.command()
@recipe_options
@click.option(
    "--out",
    type=PATH,
    help="Folder to write to [default: the recipe's vae.cache, or data.embeddings if it denoises "
    "pixels].",
)
def encode(recipe: Path, scale: str | None, sets: tuple[str, ...], out: Path | None) -> None:
    """Encode the clips of RECIPE once, for all its runs; of one that denoises pixels, the captions.

    What is already encoded is kept. Under torchrun, on all ranks.
    """
    from nasvid.preflight import check_ready, load_recipe

    loaded = load_recipe(recipe, scale=scale, overrides=sets)
    if loaded.why:
        say(loaded.why)
    check_ready(loaded)
    from nasvid.run import verbs

    verbs.encode(loaded, out)
