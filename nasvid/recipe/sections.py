"""The recipe: every setting of a run, typed. Reading one from a file is `nasvid.preflight`."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, PositiveInt, field_validator, model_validator

from nasvid.evaluator import EvaluatorSection
from nasvid.objective import ObjectiveSection
from nasvid.plugins.config import Config, ModelPath, RecipePath
from nasvid.plugins.section import PluginSection
from nasvid.recipe.constraint import Constraint
from nasvid.recipe.paths import CachePath, ShardPath
from nasvid.sampler import SamplerSection
from nasvid.shapes import Domain, VideoShape
from nasvid.space import SearchSpace, SpaceSection
from nasvid.strategy import StrategySection
from nasvid.text_encoder import TextEncoder, TextSection

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0, lt=1)]
ConstraintText = Annotated[str, AfterValidator(lambda text: str(Constraint.parse(text)))]


class DataSection(Config):
    """Where clips come from and how they are cut."""

    train: ShardPath | list[ShardPath] = "embedded"
    """WebDataset shards to train on: paths, relative to the recipe, with `{000..127}` and `*`;
    addresses with `{000..127}` (`https://`, `s3://`, `gs://`, `sftp://` and others, and
    `pipe:COMMAND`); `embedded` for the clips that ship with nasvid, `embedded:digits` and
    `embedded:footage` for a part of them."""
    val: ShardPath | list[ShardPath] = "embedded"
    """Shards that candidates are evaluated on; no source video of theirs may be in `train`."""
    frames: PositiveInt = 16
    """Frames of a clip."""
    fps: Positive = 8.0
    """Frames per second that clips are sampled at, as far as the source has them."""
    context_len: PositiveInt = 16
    """Text tokens of a caption; longer ones are cut."""
    flip: bool = False
    """Mirror clips at random; not where captions name sides."""
    workers: int = Field(default=1, ge=0)
    """Loader processes that decode; 0 decodes in the training process."""
    max_skipped: Fraction = 0.05
    """Share of unusable samples above which the run stops. A shard that cannot be fetched counts as
    many as the others have in the mean."""
    cache: CachePath = "run"
    """Where shards from elsewhere are kept, all of them: `run` for the run's own folder, else a
    folder, relative to the recipe, that runs share; one on each machine's own disk is quickest."""
    retries: int = Field(default=5, ge=0, le=100)
    """Times that a shard is asked for again; the first after half a second at most, then twice as
    long each time, up to half a minute."""
    allow_pipes: bool = False
    """Let `pipe:` shards run their commands in a shell."""


class ResolutionSection(Config):
    """One resolution of the supernet."""

    weight: Positive = 1.0
    """How often a step is at this resolution, relative to the others."""
    batch: PositiveInt | Literal["auto"] = "auto"
    """Clips of a step, of all ranks (of a group) together. `auto`: as many as cost about what a
    step of the lowest resolution costs."""
    micro_batch: PositiveInt | None = None
    """Clips of one backward pass on a device; a rank's share of the batch is made in as many as it
    takes, their gradients added up. Null makes it in one."""


class VaeTrainSection(Config):
    """How a VAE is trained on the run's own clips."""

    steps: PositiveInt = 4000
    """Optimizer steps."""
    learning_rate: Positive = 2e-3
    """Peak learning rate."""
    batch: PositiveInt = 16
    """Frames of a step."""
    widths: tuple[PositiveInt, ...] = (32, 48, 64)
    """Channels of each level, from the highest resolution; one more level than halvings."""


class VaeSection(Config):
    """The autoencoder whose latents are denoised: an `AutoencoderKL` of diffusers."""

    path: ModelPath = "embedded"
    """Local folder, or hub name such as `stabilityai/sd-vae-ft-mse`; `embedded` for the small one
    that ships with nasvid."""
    subfolder: str = ""
    """Folder of the VAE inside it (`vae` in a diffusers pipeline)."""
    channels: PositiveInt = 4
    """Latent channels."""
    factor: PositiveInt = 4
    """Pixels of a side that become one latent pixel; a power of two."""
    train: VaeTrainSection | None = None
    """Train one on the training clips instead, as the run's first stage."""
    cache: CachePath = "run"
    """Where clips are kept once encoded: `run` for the run's own folder, `none` to encode in every
    step, else a folder, relative to the recipe, that runs share and `nasvid data encode` fills."""
    cuts: PositiveInt = 1
    """Random cuts of each training clip in the cache."""
    dtype: Literal["fp16", "bf16"] = "fp16"
    """Precision of the cache."""

    @model_validator(mode="after")
    def _fits(self) -> VaeSection:
        halvings = self.factor.bit_length() - 1
        if self.factor != 2**halvings:
            raise ValueError(f"factor {self.factor} is not a power of two")
        if self.train is not None and self.path != "embedded":
            raise ValueError(f"either path '{self.path}' or train: a VAE is loaded or trained")
        if self.train is not None and len(self.train.widths) != halvings + 1:
            raise ValueError(
                f"train.widths has {len(self.train.widths)} levels, and factor {self.factor} needs "
                f"{halvings + 1}"
            )
        return self


class SupernetSection(Config):
    """The existing model that a supernet begins from."""

    init_from: ModelPath
    """Folder of a model in diffusers' layout, relative to the recipe, or hub name: its class and
    settings are those of the space's largest network."""
    subfolder: str = ""
    """Folder of the model inside it; in a local pipeline, `unet` or `transformer` by itself."""
    reorder: bool = True
    """Sort channels, heads and units by the norm of their weights first, so that smaller subnets
    keep the most important ones; the largest network computes the same (arXiv 2301.12900)."""


class EngineSection(PluginSection):
    """What moves the weights, on one process or many, and its options."""

    kind = "engines"


class TrainingSection(Config):
    """How the supernet is trained."""

    steps: PositiveInt
    """Optimizer steps."""
    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW."""
    lr_warmup: Fraction = 0.05
    """Part of the steps over which the learning rate rises from zero."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """What it does afterwards; cosine falls to a twentieth."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's, decoupled."""
    clip_norm: Positive = 1.0
    """Largest norm of a step's gradient."""
    ema_decay: Fraction = 0.999
    """Decay of the averaged weights that are searched and exported; it rises to this value."""
    distillation: Fraction = 0.0
    """Share of a smaller subnet's loss that is against the largest's prediction in the same step
    (in-place distillation, arXiv 1903.05134); 0 switches it off."""
    engine: EngineSection = Field(default_factory=lambda: EngineSection(name="torch"))
    """What moves the weights; `nasvid list engines` shows what is installed."""
    resolution_groups: PositiveInt = 1
    """Batches of a step, each at a resolution of its own, for the same subnets: more than one lets
    groups of ranks train at different resolutions at once."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 autocast where the device computes in it, else fp32. fp16 scales the loss, as
    far as its range takes. Weights and their updates are in fp32 in all."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d{1,2})?)$")
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    checkpoint_every: PositiveInt = 1000
    """Steps between checkpoints."""
    keep_checkpoints: PositiveInt = 2
    """Checkpoints kept."""
    keep_best: bool = False
    """Judge each checkpoint, the mean held-out loss of the largest and the smallest subnet with
    averaged weights, and keep the best one too; `search.checkpoint: best` searches it."""
    max_bad_steps: int = Field(default=20, ge=0)
    """Steps in a row that may be skipped for a loss or gradient that is not finite."""
    tensorboard: bool = False
    """Write what each step measured for TensorBoard too, into the run's folder `tensorboard`."""


class SearchSection(Config):
    """How the trained supernet is searched."""

    strategy: StrategySection
    """What proposes architectures."""
    evaluators: list[EvaluatorSection] = Field(
        default_factory=lambda: [EvaluatorSection(name="cost"), EvaluatorSection(name="loss")],
        min_length=1,
    )
    """What evaluates them."""
    budget: PositiveInt = 200
    """Architectures evaluated, the same one never twice."""
    batch: PositiveInt = 16
    """Architectures asked for at a time."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights are searched and extracted; `best` needs `training.keep_best`."""
    clips: PositiveInt = 64
    """Held-out clips of each resolution that candidates are evaluated on, the same for all."""
    objectives: tuple[str, ...] = Field(default=("loss", "macs"), min_length=1)
    """Metrics of the evaluators to optimise. A bare name is the mean over the resolutions,
    `loss@64` one of them."""
    constraints: tuple[ConstraintText, ...] = ()
    """What every subnet must satisfy: `params <= 900e6`, `macs@64 <= 2e12`, `loss < 0.2`."""


class FrontSection(Config):
    """What becomes of the subnets on the front."""

    subnets: PositiveInt = 8
    """How many are extracted, spread evenly over the cost; the ends always."""
    evaluators: list[EvaluatorSection] = Field(
        default_factory=lambda: [EvaluatorSection(name="latency")]
    )
    """What evaluates those that are extracted, after the search; [] for nothing."""
    prompts: tuple[str, ...] = ()
    """Captions to make sample videos for."""
    guidance_scale: float = Field(default=3.0, ge=1)
    """Strength of classifier-free guidance in samples; 1 is none."""
    sampling_steps: PositiveInt = 30
    """Denoising steps of a sample (DDIM)."""

    @model_validator(mode="before")
    @classmethod
    def _latency_is_an_evaluator(cls, section: Any) -> Any:
        if isinstance(section, dict) and "latency" in section:
            old = section["latency"]
            new = "[]" if old is None else json.dumps([old]).replace('"', "")
            raise ValueError(
                f"latency is one of front.evaluators now: write `evaluators: {new}` in its place"
            )
        return section


class FinetuneSection(Config):
    """Training of extracted subnets by themselves."""

    subnets: PositiveInt = 2
    """How many of the front's members, spread evenly over the cost; the ends always."""
    steps: PositiveInt = 1000
    """Optimizer steps of each."""
    learning_rate: Positive = 1e-4
    """Peak learning rate; the rest is as in `training`."""
    distillation: Fraction = 0.0
    """Share of the loss that is against the prediction of the whole supernet."""
    compile: bool = False
    """Compile each one's network (`torch.compile`): it takes a minute or more, and is worth it
    where the steps are many. A supernet is not compiled: each step trains other networks."""


class Recipe(Config):
    """A whole run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Names the run and its folder."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The source of all randomness."""
    plugins: tuple[RecipePath, ...] = ()
    """Python files, relative to the recipe, that register plug-ins."""
    data: DataSection = DataSection()
    resolutions: dict[Annotated[int, Field(gt=0)], ResolutionSection] = Field(min_length=1)
    """Pixels of a side -> settings; one supernet is trained at all of them."""
    text: TextSection = Field(default_factory=lambda: TextSection(name="hash"))
    vae: VaeSection | None = None
    """Denoise in the latent space of this autoencoder; null in pixels."""
    space: SpaceSection
    supernet: SupernetSection | None = None
    """Begin the supernet from an existing model; null from random weights."""
    sampler: SamplerSection = Field(default_factory=lambda: SamplerSection(name="warm_up"))
    objective: ObjectiveSection = Field(default_factory=lambda: ObjectiveSection(name="diffusion"))
    training: TrainingSection
    search: SearchSection
    front: FrontSection = Field(default_factory=FrontSection)
    finetune: FinetuneSection | None = None
    """Train some of the extracted subnets further; null for none."""

    @field_validator("resolutions")
    @classmethod
    def _lowest_batch_is_given(
        cls, sections: dict[int, ResolutionSection]
    ) -> dict[int, ResolutionSection]:
        lowest = min(sections)
        if sections[lowest].batch == "auto":
            raise ValueError(f"the batch of {lowest} must be a number: `auto` of others follows it")
        return sections

    def shape(self, side: int) -> VideoShape:
        """Return the shape that a model sees of a clip of `side` x `side` pixels."""
        size = side // (self.vae.factor if self.vae else 1)
        return VideoShape.square(size, frames=self.data.frames, context_len=self.data.context_len)

    def shapes(self) -> dict[int, VideoShape]:
        """Return the shape that a model sees of a clip at each resolution, ascending."""
        return {side: self.shape(side) for side in sorted(self.resolutions)}

    def make_space(self, text: TextEncoder | None = None) -> SearchSpace:
        """Make the search space for videos or their latents and the text encoder's embeddings.

        text: the encoder, where it has been made already.
        """
        channels = self.vae.channels if self.vae else 3
        dim = (text or self.text.make()).dim
        return self.space.make(Domain(channels=channels, context_dim=dim))
