"""One run in one process: the parts that its stages share, each created once, on first use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import asdict
from functools import cache, cached_property
from pathlib import Path
from typing import Any, TypeVar

from nasvid.data.clips import Clips, clip_index, streamed_shards, streams
from nasvid.data.embeddings import StoredText
from nasvid.data.paths import SPLITS, Split
from nasvid.data.pools import pool
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.distributed.ranks import ALONE, Ranks, Stop
from nasvid.errors import Damaged, UserError
from nasvid.evaluator import Context
from nasvid.host.display import Display
from nasvid.host.files import write_json
from nasvid.host.reading import as_object, read_json
from nasvid.host.words import counted
from nasvid.latents.cache import Identity, LatentCache, check_same, open_cache, own_place
from nasvid.latents.captions import TextIdentity
from nasvid.preflight import LoadedRecipe
from nasvid.run.components import Components
from nasvid.run.folder import RunFolder, is_trained
from nasvid.run.held_out import HeldOut, held_out, load_trained, make_context
from nasvid.run.measured import prefer
from nasvid.supernet import Supernet

T = TypeVar("T")


class Session:
    """An open run: its recipe, folder, components, data and supernet; handed to each stage.

    stop: returns the number of a signal that asks to stop, or None. ranks: which process of the
    run this is. writes: whether the folder may be written to; otherwise prompts that it has no
    embeddings of are encoded each time.
    """

    def __init__(
        self,
        folder: RunFolder,
        loaded: LoadedRecipe,
        *,
        stop: Stop = lambda: None,
        ranks: Ranks = ALONE,
        writes: bool = True,
    ) -> None:
        self.folder = folder
        self.loaded = loaded
        self.recipe = loaded.recipe
        self.stop = stop
        self.ranks = ranks
        self.display = Display()
        self.components = Components(
            loaded,
            prompts=folder.prompts,
            vae_folder=folder.vae,
            importance_folder=folder.importance,
            stores_prompts=writes,
        )
        with nullcontext() if is_trained(folder) else suppress(Damaged):  # then it is made again
            prefer(self.components.space, folder.importance, self.recipe.importance)
        self.data = cache(self._data)
        self.clips = cache(self._clips)

    @cached_property
    def latents(self) -> Path | None:
        """The folder of encoded clips; None in pixel space, or if each step encodes its own."""
        vae = self.recipe.vae
        if vae is None or vae.cache == "none":
            return None
        if vae.cache == "run":
            return self.folder.latents
        return own_place(Path(vae.cache), self.latent_identity)

    @cached_property
    def latent_identity(self) -> Identity:
        """The settings of the run's latents: its autoencoder, text encoder, data and cuts.

        Raises:
            UserError: the run was trained on other latents; the message names what differs.
        """
        identity = self.components.latent_identity({split: self.data(split) for split in SPLITS})
        path = self.folder.path / "data" / "latents" / "made_with.json"
        known = self.made_again(path, as_object) if is_trained(self.folder) else None
        if known is not None:
            check_same(known, identity, f"{self.folder.path} was trained on")
        elif self.ranks.is_rank0:
            write_json(path, identity.to_json())
        return identity

    @cached_property
    def embeddings(self) -> Path | None:
        """The folder of captions' embeddings; None if latents have them, or they are not kept."""
        wanted = self.recipe.data.embeddings
        is_weightless = self.components.text.encoder.weightless
        if wanted == "none" or is_weightless or self.latents is not None:
            return None
        if wanted == "run":
            return None if self.streams else self.folder.text
        return own_place(Path(wanted), self.text_identity)

    @cached_property
    def text_identity(self) -> TextIdentity:
        """What the run's embeddings of captions depend on."""
        return self.components.text_identity({split: self.data(split) for split in SPLITS})

    @cached_property
    def held_out(self) -> HeldOut:
        """Held-out clips with fixed timesteps and noise, on the device."""
        return held_out(self.components, self.clips("val"))

    @cached_property
    def supernet(self) -> Supernet:
        """The trained supernet with its EMA weights, in eval mode, on the device.

        Raises:
            UserError: training is not finished.
        """
        folder, supernet = self.folder, self.components.supernet()
        return load_trained(self.recipe, supernet, folder.checkpoints, folder.command)

    def context(self, supernet: Supernet) -> Context:
        """Return the context in which evaluators evaluate a supernet's subnets."""
        return make_context(self.components, supernet, self.held_out, self.display)

    def in_turn(self, make: Callable[[], T]) -> T:
        """Return the result of `make`, which rank 0 calls before the others do.

        It can therefore write what the others read. All ranks must call this.

        Raises:
            RankLost: rank 0 has failed.
        """
        return self.ranks.rank0_does(make, self.stop) or make()

    def made_again(self, path: Path, parse: Callable[[Any], T]) -> T | None:
        """Return what `parse` makes of a JSON file; None if it has to be made.

        One that is damaged has to be made again, which a line says.
        """
        try:
            return read_json(path, parse)
        except Damaged as damaged:
            self.display.say(f"{path} is damaged ({damaged.reason}) and made again")
            return None

    def index(self, split: Split) -> ShardIndex:
        """Return the index of a split; see `data`.

        Raises:
            UserError: it is streamed.
        """
        index = self.data(split)
        if isinstance(index, StreamedShards):
            raise UserError(
                "data.mode: this needs all training clips, and they are streamed; set it to local"
            )
        return index

    @property
    def streams(self) -> bool:
        """Whether training clips are streamed."""
        return streams(self.recipe, self.folder.path)

    def _data(self, split: Split) -> ShardIndex | StreamedShards:
        """Return what is known of a split; the first time in a run, print a summary.

        Remote shards are fetched, unless they are streamed.

        Raises:
            UserError: the shards have changed since the run began, or too many samples are
                unusable.
        """
        if split == "train" and self.streams:
            found = streamed_shards(self.recipe, self.folder.path, self.display)
            self._begin_with(split, found, found.describe())
            return found
        index = clip_index(self.recipe, split, self.folder.path, self.display)
        left_out = f"; skipped: {index.left_out()}" if index.skipped else ""
        self._begin_with(split, index, f"{self._counts(index)}{left_out}")
        return index

    def _begin_with(self, split: Split, data: ShardIndex | StreamedShards, what: str) -> None:
        """Note what a run begins with, or check that it has not changed since."""
        summary = self.folder.path / "data" / f"{split}.json"
        known = self.made_again(summary, lambda value: str(value["fingerprint"]))
        if known is not None:
            if known != data.fingerprint:
                raise UserError(
                    f"data.{split}: the shards have changed since this run began; restore them, or "
                    "start a new run in another folder"
                )
            return
        for skip in data.skipped:
            self.folder.log({"event": "skip", **asdict(skip)})
        self.display.say(f"{split} data: {what}")
        reasons = Counter(skip.reason for skip in data.skipped)
        found = {"fingerprint": data.fingerprint, "clips": data.samples}
        write_json(summary, found | {"skipped": dict(reasons.most_common())})

    def _counts(self, index: ShardIndex) -> str:
        """Return the number of clips, and of each resolution's own where they do not take all."""
        recipe, every = self.recipe, len(index.clips)
        own = {each: len(pool(index, each, recipe.data.frames)) for each in recipe.resolutions}
        several = [f"{number} for {each.label}" for each, number in own.items() if number < every]
        return ", ".join([counted(every, "clip"), *several])

    def _clips(self, split: Split) -> Clips:
        """Return the clips of a split as the supernet takes them: pixels or latents."""
        data, folder = self.data(split), self.embeddings
        stored = StoredText.of(folder / split, data.shards) if folder else None
        return self.components.clips(data, split, self._latent_cache, stored)

    @cached_property
    def _latent_cache(self) -> LatentCache | None:
        if self.latents is None:
            return None
        cache = open_cache(self.latents, self.latent_identity)
        if self.components.vae is not None:
            self.components.vae.release()  # loaded to identify it, if it has not just encoded
        return cache
