"""The parts that a recipe's supernet is trained and sampled with, each created on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path

import torch

from nasvid.costs import built_on_meta
from nasvid.data.clips import Clips
from nasvid.data.embeddings import Captioned, Encoded, StoredText
from nasvid.data.paths import Split
from nasvid.data.shards import ShardIndex
from nasvid.data.streamed import StreamedShards
from nasvid.data.text_ahead import encoded_ahead
from nasvid.diffusion.cached_text import CachedText
from nasvid.diffusion.stock import StockPipeline, Unfit, pipeline_place, stock_pipeline
from nasvid.errors import UserError
from nasvid.export.carried import CarriedPipeline
from nasvid.host.device import autocast_dtype, pick_device
from nasvid.host.reading import SUMS, check_sums
from nasvid.latents.cache import Identity, LatentCache
from nasvid.latents.captions import Shards, TextIdentity
from nasvid.latents.clips import clips_of
from nasvid.objective import Objective
from nasvid.preflight import LoadedRecipe
from nasvid.recipe.sections import Recipe, VaeSection
from nasvid.run.folder import RunFolder
from nasvid.run.measured import unit_order
from nasvid.shapes import Resolution, VideoShape
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.training.noise import Noiser
from nasvid.vae import Vae


class Components:
    """Space, text encoder, VAE, objective and device of a recipe.

    prompts: the file that has the embeddings of prompts; None for none. vae_folder: of the VAE that
    a run has trained; None outside a run. importance_folder: of what the run has measured.
    stores_prompts: whether others are added to that file.
    """

    def __init__(
        self,
        loaded: LoadedRecipe,
        *,
        prompts: Path | None = None,
        vae_folder: Path | None = None,
        importance_folder: Path | None = None,
        stores_prompts: bool = True,
    ) -> None:
        self.recipe: Recipe = loaded.recipe
        self.space: SearchSpace = loaded.space
        self.shapes: Mapping[Resolution, VideoShape] = loaded.recipe.shapes()
        self._encoder, self._prompts, self._stores_prompts = loaded.text, prompts, stores_prompts
        self._vae_folder = vae_folder
        self._importance_folder = importance_folder

    @cached_property
    def device(self) -> torch.device:
        """The device to compute on."""
        return pick_device(self.recipe.training.device)

    @cached_property
    def text(self) -> CachedText:
        """The text encoder, on the device, with what it has encoded."""
        self._encoder.place(self.device)
        length = self.recipe.data.context_len
        return CachedText(self._encoder, length, self._prompts, stores=self._stores_prompts)

    @cached_property
    def autocast(self) -> torch.dtype | None:
        """The dtype of mixed precision, or None."""
        return autocast_dtype(self.recipe.training.precision, self.device)

    @property
    def unit_order(self) -> Mapping[str, torch.Tensor] | None:
        """By what units of a pretrained model are sorted; None for the norm of their weights.

        Raises:
            UserError: it has not been measured.
        """
        start, folder = self.recipe.supernet, self._importance_folder
        by = start.reorder if start is not None else False
        if by not in ("activations", "gradients") or folder is None:
            return None
        return unit_order(folder, by)

    @cached_property
    def objective(self) -> Objective:
        """The objective: what is predicted from a noisy video, and the loss."""
        return self.recipe.objective.make()

    @cached_property
    def vae(self) -> Vae | None:
        """The autoencoder, None in pixel space.

        Raises:
            UserError: it cannot be loaded, or the run has not trained it yet.
        """
        section = self.recipe.vae
        return None if section is None else _vae(section, self._vae_folder, self.device)

    @cached_property
    def pipeline(self) -> StockPipeline | Unfit:
        """The stock pipeline that the models can be put into, or why there is none.

        Raises:
            UserError: the run has not trained its VAE yet, or the pipeline's scheduler is damaged.
        """
        start, vae, text = self.recipe.supernet, self.vae, self._encoder
        own = [] if start is None else [pipeline_place(start.init_from, start.subfolder)]
        parts = [folder for folder in (vae and vae.folder, *text.parts.values()) if folder]
        model = type(built_on_meta(lambda: self.space.build(self.space.smallest))).__name__
        try:
            context_len = self.recipe.data.context_len
            found = stock_pipeline([*own, *parts], model, text, vae, context_len)
            found.check_scheduler(self.objective.make_scheduler())
        except Unfit as unfit:
            return unfit
        return found

    @cached_property
    def exported(self) -> StockPipeline | CarriedPipeline | Unfit:
        """The pipeline that models are exported in: a stock one, or one that carries its code.

        Or why there is neither.
        """
        stock, data = self.pipeline, self.recipe.data
        if isinstance(stock, StockPipeline):
            return stock
        scheduler = self.objective.make_scheduler()
        parts = (self.space, self._encoder, self.vae, scheduler)
        try:
            return CarriedPipeline.of(*parts, data.context_len, data.fps)
        except Unfit as unfit:
            return unfit if self.space.model_module else stock

    def latent_identity(self, indexes: Mapping[Split, ShardIndex | StreamedShards]) -> Identity:
        """Return the identity that a cache of the recipe's latents must have."""
        assert self.vae is not None
        text = self.text.encoder.identity
        return Identity.of(self.recipe, self.vae.identity, text, indexes)

    def text_identity(self, data: Mapping[Split, Shards]) -> TextIdentity:
        """Return what the embeddings of the recipe's captions depend on."""
        prints = {split: shards.fingerprint for split, shards in data.items()}
        length = self.recipe.data.context_len
        return TextIdentity(text=self.text.encoder.identity, context_len=length, data=prints)

    def clips(
        self,
        index: ShardIndex | StreamedShards,
        split: Split,
        cache: LatentCache | None = None,
        stored: StoredText | None = None,
    ) -> Clips:
        """Return the clips of a split as the supernet takes them, with their captions encoded.

        cache: of latents, which have embeddings; None encodes each batch. stored: embeddings that
        are kept; None encodes each batch's captions, ahead of the step that takes it.
        """
        weightless = self._encoder.weightless
        text = partial(_of_clips, self.text) if weightless and stored is None else stored
        clips = clips_of(self.recipe, index, split, self.vae, cache, text)
        if cache is not None or text is not None:
            return clips
        return Clips(index, partial(encoded_ahead, clips.load, self.text.of_clips))

    def noiser(self) -> Noiser:
        """Return the noiser, which corrupts clips and puts them on the device."""
        return Noiser(self.objective, self.text, self.device)

    def supernet(self, space: SearchSpace | None = None) -> Supernet:
        """Create the supernet on the device, initialised with the recipe's seed.

        space: another of the same domain; None for the recipe's.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.recipe.seed)
            supernet = Supernet(space or self.space)
        supernet.net.to(self.device)
        return supernet


def _of_clips(text: CachedText, clips: Sequence[Captioned]) -> Encoded:
    return text.of_clips([caption for _, caption in clips])


def _vae(section: VaeSection, folder: Path | None, device: torch.device) -> Vae:
    from nasvid.latents.vae import check_latents, make_vae

    if section.train is not None:
        if folder is None or not (folder / SUMS).exists():
            how = RunFolder(folder.parent).command if folder else "nasvid run"
            raise UserError(f"This recipe's VAE is not trained yet; train it with {how}")
        check_sums(folder)
        trained = {"path": str(folder), "subfolder": "", "train": None}
        section = section.model_copy(update=trained)
    vae = make_vae(section, device)
    check_latents(section, vae)
    return vae
