"""The recipe: every setting of a run, typed. `nasvid.preflight` reads one from a file."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from nasvid.evaluator import EvaluatorSection
from nasvid.host.words import counted
from nasvid.objective import ObjectiveSection
from nasvid.plugins.config import Config, ModelPath, RecipePath
from nasvid.plugins.section import PluginSection
from nasvid.recipe.constraint import Constraint
from nasvid.recipe.paths import CachePath, ShardPath, is_url
from nasvid.recipe.size import Size
from nasvid.sampler import SamplerSection
from nasvid.shapes import LONGEST, Domain, Resolution, VideoShape
from nasvid.space import SearchSpace, SpaceSection
from nasvid.strategy import StrategySection
from nasvid.text_encoder import TextEncoder, TextSection
from nasvid.vae import PIXELS, Compression

Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=1e-6, le=1e6)]
Steps = Annotated[int, Field(ge=1, le=10**8)]
"""More would take months on any machine."""
LearningRate = Annotated[float, Field(gt=0, le=1)]
"""AdamW changes each weight by about this much in a step; more destroys any model."""
BatchSize = Annotated[int, Field(ge=1, le=65536)]
"""The clips of a step are in memory together."""
Channels = Annotated[int, Field(ge=1, le=65536)]
Models = Annotated[int, Field(ge=1, le=1000)]
"""Each is a folder with its own weights."""
Loss = Annotated[float, Field(ge=0, le=1e3)]
Decay = Annotated[float, Field(ge=0, lt=1)]
RUN_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
DEVICE = r"^(auto|cpu|cuda(:\d{1,2})?)$"
TRAINED = "supernet"
"""A teacher's `model` that is no folder but the trained supernet."""


def _as_named(given: object) -> Resolution:
    """Read the key of a resolution; there is one way to write each, so that all places find it."""
    resolution = Resolution.parse(given)
    if given not in (resolution, resolution.to_json()):
        raise ValueError(f"'{given}' must be written {resolution}")
    return resolution


ResolutionName = Annotated[Resolution, BeforeValidator(_as_named)]
ConstraintText = Annotated[str, AfterValidator(lambda text: str(Constraint.parse(text)))]


class DataSection(Config):
    """Where clips come from and how they are cut."""

    train: ShardPath | Annotated[list[ShardPath], Field(min_length=1)] = "embedded"
    """WebDataset shards to train on: paths, relative to the recipe, with `{000..127}` and `*`;
    addresses with `{000..127}` (`https://`, `s3://`, `gs://`, `sftp://` and others, and
    `pipe:COMMAND`); `embedded` for the clips that ship with nasvid, `embedded:digits` or
    `embedded:footage` for a part of them."""
    val: ShardPath | Annotated[list[ShardPath], Field(min_length=1)] = "embedded"
    """Shards to evaluate architectures on; none of their source videos may be in `train`."""
    frames: int = Field(default=16, ge=1, le=LONGEST)
    """Frames per clip, which is in memory whole; a resolution may have its own."""
    buckets: bool = False
    """Give each clip only to the resolutions whose aspect ratio fits its own best, of those for
    which it has the frames. All clips are opened once to find their shapes."""
    fps: float = Field(default=8.0, ge=0.01, le=1000)
    """Frames per second at which clips are sampled; fewer if the source has fewer."""
    context_len: int = Field(default=16, ge=1, le=4096)
    """Text tokens per caption; longer captions are truncated."""
    embeddings: CachePath = "run"
    """Where the captions' embeddings are kept, encoded before training: `run` for the run's own
    folder, or a folder, relative to the recipe, that runs share and `nasvid data encode` fills;
    each data set has its own folder inside it. `none` keeps none: captions are encoded while the
    steps before theirs are made; for streamed shards `run` means that, too. Encoded clips have the
    embeddings with them, and those of an encoder without weights are not kept."""
    flip: bool = False
    """Mirror clips at random; leave it off if captions mention left and right."""
    workers: int = Field(default=1, ge=0, le=512)
    """Loader processes that decode clips; 0 decodes in the training process."""
    max_skipped: Fraction = 0.05
    """Fraction of unusable samples above which the run stops. A shard that cannot be fetched counts
    as the mean number of samples of the others."""
    mode: Literal["stream", "local"] | None = None
    """How training clips are read. `stream`: shard by shard in an order of its own, with a few
    shards on each machine at a time. `local`: in any order, from shards that are all there and
    whose clips are all known when a run begins. Null: `stream` for remote shards, unless `buckets`
    or cached latents need to know all clips; else `local`. Clips to evaluate on are `local`."""
    window: int = Field(default=2, ge=1, le=1000)
    """Shards whose samples are shuffled together in each of the streams, of which there are up to
    8; so many shards are on a machine at a time, and as many more are fetched ahead."""
    cache: CachePath = "run"
    """Where remote shards are kept: `run` for the run's own folder, or a folder, relative to the
    recipe, that runs share; a local disk of each machine is fastest."""
    cache_limit: Size | None = "50 GB"
    """What shards may take there if they are streamed: two windows of each stream at least. Those
    that were used least recently make room for others. Null: as much as there is."""
    retries: int = Field(default=5, ge=0, le=100)
    """Retries of a shard that cannot be fetched: the first after at most half a second, then twice
    as long each time, up to half a minute."""
    allow_pipes: bool = False
    """Allow `pipe:` shards to run their commands in a shell."""

    @property
    def is_remote(self) -> bool:
        """Whether any training shard is remote."""
        return any(map(is_url, [self.train] if isinstance(self.train, str) else self.train))


class ResolutionSection(Config):
    """One resolution of the supernet."""

    weight: Weight = 1.0
    """How often a step uses this resolution, relative to the others."""
    batch: BatchSize | Literal["auto"] = "auto"
    """Batch size of a step, over all ranks (of a group) together. `auto`: as large as makes a step
    cost about as much as one at the lowest resolution."""
    micro_batch: BatchSize | None = None
    """Batch size of one backward pass on a device; a rank's share of the batch is split into as
    many as it takes, and their gradients are accumulated. Null: no split."""


class VaeTrainSection(Config):
    """How a VAE is trained on the run's own clips."""

    steps: Steps = 4000
    """Optimizer steps."""
    learning_rate: LearningRate = 2e-3
    """Peak learning rate."""
    batch: BatchSize = 16
    """Frames per step."""
    widths: tuple[Channels, ...] = Field(default=(32, 48, 64), max_length=9)
    """Channels of each level, from the highest resolution; one more level than downsamplings."""


class VaeSection(Config):
    """The autoencoder whose latents are denoised: a VAE plug-in, found by its folder's class."""

    path: ModelPath = "embedded"
    """A local folder, or a hub name such as `stabilityai/sd-vae-ft-mse`; `embedded` for the small
    one that ships with nasvid."""
    subfolder: str = ""
    """Folder of the VAE inside `path`; that of a local pipeline is found without it."""
    channels: int | None = Field(default=None, ge=1, le=1024)
    """Latent channels; null: as the local folder says, or 4."""
    factor: int | None = Field(default=None, ge=1, le=256)
    """Downsampling of height and width, a power of two; null: as the local folder says, or 4."""
    temporal_factor: int | None = Field(default=None, ge=1, le=64)
    """Frames for one of a latent, the first of which has its own; null: as the local folder says,
    or 1."""
    tiling: bool = False
    """Encode and decode large frames in overlapping tiles, which needs less memory; latents differ
    a little."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Further options of the VAE's class; `nasvid show` lists them."""
    train: VaeTrainSection | None = None
    """Train a VAE on the training clips instead, as the run's first stage."""
    cache: CachePath = "run"
    """Where encoded clips are kept: `run` for the run's own folder, `none` to encode in every step,
    or a folder, relative to the recipe, that runs share and `nasvid data encode` fills; each data
    set has its own folder inside it."""
    cuts: int = Field(default=1, ge=1, le=1000)
    """Random cuts of each training clip in the cache, all of them stored."""
    dtype: Literal["fp16", "bf16"] = "fp16"
    """Precision of the cache."""

    @model_validator(mode="after")
    def _fits(self) -> VaeSection:
        factor = self.compression.factor
        halvings = factor.bit_length() - 1
        if factor != 2**halvings:
            raise ValueError(f"factor {factor} is not a power of two")
        if self.train is not None and self.path != "embedded":
            raise ValueError(
                f"path '{self.path}' loads a VAE and train trains one; remove either of them"
            )
        if self.train is not None and len(self.train.widths) != halvings + 1:
            levels = counted(len(self.train.widths), "level")
            raise ValueError(f"train.widths has {levels}, but factor {factor} needs {halvings + 1}")
        return self

    @property
    def compression(self) -> Compression:
        """How latents relate to pixels, as far as the recipe says; by default as `embedded`'s."""
        temporal_factor = self.temporal_factor or 1
        return Compression(
            channels=self.channels or 4,
            factor=self.factor or 4,
            temporal_factor=temporal_factor,
            frame_step=temporal_factor,
        )


class SupernetSection(Config):
    """The existing model that the supernet is initialised from."""

    init_from: ModelPath
    """Folder of a model in diffusers' layout, relative to the recipe, or a hub name; its class and
    config must be those of the space's largest architecture. A space of a diffusers class takes
    from it the settings that the recipe leaves out."""
    subfolder: str = ""
    """Folder of the model inside it; found automatically in a local pipeline."""
    reorder: bool | Literal["weights", "activations", "gradients"] = True
    """First sort channels, heads and units by importance, so that smaller subnets keep the most
    important ones; the largest one's outputs do not change. By the norm of their weights (`true` or
    `weights`, arXiv 2301.12900), or by what `importance` has measured: the norm of their weights
    and values together, or by how much the loss changes without them, to first order."""


class ImportanceSection(Config):
    """What is measured of the model of `supernet.init_from` before training: how much it loses
    without each block, and what its channels, heads and units are worth."""

    clips: int = Field(default=16, ge=1, le=10**5)
    """Held-out clips of each resolution, the first of those of `search.clips`."""
    blocks_by: Literal["loss", "outputs"] = "loss"
    """What counts as the worth of a block: by how much the loss rises without it, or how far the
    prediction moves."""
    bias: Fraction = 0.5
    """How much random subnets prefer blocks that are worth more: 0 not at all; at 1 the blocks that
    a subnet has are always those worth most. The smallest subnet has those in any case."""


class TeacherSection(Config):
    """A frozen model that subnets learn from, besides the clips."""

    model: ModelPath | None = None
    """Folder or hub name, as in `supernet.init_from`, of a model that is the space's largest
    architecture; `supernet` for the trained supernet, after training only. Null for the model of
    `supernet.init_from` or, after training and without one, the trained supernet."""
    subfolder: str = ""
    """Folder of the model inside it; found automatically in a local pipeline."""
    task: Loss = 1.0
    """Weight of the objective's own loss."""
    outputs: Loss = 1.0
    """Weight of the mean squared difference between the predictions."""
    features: Loss = 1.0
    """Weight of the difference between hidden states, relative to how much the teacher's vary; 0
    for a space without feature points."""

    def pretrained(self, start: SupernetSection | None) -> SupernetSection | None:
        """Return the existing model that teaches; None if it is the trained supernet.

        start: the recipe's. A model's units are sorted if the supernet's are.
        """
        if self.model is None:
            return start
        if self.model == TRAINED:
            return None
        reorder = True if start is None else start.reorder
        return SupernetSection(init_from=self.model, subfolder=self.subfolder, reorder=reorder)


class EngineSection(PluginSection):
    """What updates the weights, on one process or many: an engine and its config."""

    kind = "engines"


class TrainingSection(Config):
    """How the supernet is trained."""

    steps: Steps
    """Optimizer steps."""
    learning_rate: LearningRate = 1e-4
    """Peak learning rate of AdamW."""
    lr_warmup: Fraction = 0.05
    """Fraction of the steps over which the learning rate rises from zero."""
    lr_schedule: Literal["constant", "cosine"] = "cosine"
    """The schedule afterwards; cosine falls to a twentieth."""
    betas: tuple[Decay, Decay] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = Field(default=0.01, ge=0, le=10)
    """AdamW's decoupled weight decay."""
    clip_norm: float = Field(default=1.0, gt=0, le=1e9)
    """Largest norm of a step's gradient."""
    ema_decay: Fraction = 0.999
    """Decay of the EMA weights, which are searched and exported; it warms up to this value."""
    distillation: Fraction = 0.0
    """Weight, in a smaller subnet's loss, of the distance to the largest's prediction in the same
    step (in-place distillation, arXiv 1903.05134); 0 switches it off."""
    teacher: TeacherSection | None = None
    """Let all subnets learn from a frozen model instead of the largest; null for none."""
    engine: EngineSection = Field(default_factory=lambda: EngineSection(name="torch"))
    """What updates the weights; `nasvid list engines` shows what is installed."""
    resolution_groups: int = Field(default=1, ge=1, le=1024)
    """Batches per step, each at its own resolution, for the same subnets: with more than one,
    groups of ranks train at different resolutions at once."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto` is bf16 autocast where the device supports it, otherwise fp32. fp16 uses dynamic loss
    scaling. Weights and their updates are always in fp32."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass instead of keeping them."""
    device: str = Field(default="auto", pattern=DEVICE)
    """`auto`, `cpu`, `cuda` or `cuda:N`."""
    checkpoint_every: Steps = 1000
    """Steps between checkpoints. Each is written while training goes on; if that takes longer, the
    next one waits for it."""
    keep_checkpoints: int = Field(default=2, ge=1, le=1000)
    """Checkpoints to keep, each several times as large as the weights."""
    keep_best: bool = False
    """Evaluate each checkpoint (the mean held-out loss of the largest and the smallest subnet with
    EMA weights) and also keep the best; `search.checkpoint: best` searches it. Training waits until
    a checkpoint is written and evaluated."""
    max_bad_steps: int = Field(default=20, ge=0, le=10**8)
    """Steps in a row that may be skipped because the loss or a gradient is not finite."""
    tensorboard: bool = False
    """Also write each step's measurements for TensorBoard, to `tensorboard` in the run's folder."""


class SearchSection(Config):
    """How the trained supernet is searched."""

    strategy: StrategySection
    """What proposes architectures."""
    evaluators: list[EvaluatorSection] = Field(
        default_factory=lambda: [EvaluatorSection(name="cost"), EvaluatorSection(name="loss")],
        min_length=1,
        max_length=32,
    )
    """What evaluates them."""
    budget: int = Field(default=200, ge=1, le=10**6)
    """Architectures to evaluate, none of them twice; all are in memory."""
    batch: int = Field(default=16, ge=1, le=10**4)
    """Architectures requested from the strategy at a time."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights are searched and extracted; `best` needs `training.keep_best`."""
    clips: int = Field(default=64, ge=1, le=10**5)
    """Held-out clips to evaluate on at each resolution, the same for all architectures and in
    memory together. If there are fewer, some come again with other noise, each up to 8
    times; 64 may always be."""
    objectives: tuple[str, ...] = Field(default=("loss", "macs"), min_length=1, max_length=8)
    """Metrics of the evaluators to optimise. A bare name is the mean over the resolutions,
    `loss@64` the value at one of them."""
    constraints: tuple[ConstraintText, ...] = Field(default=(), max_length=64)
    """What every architecture must satisfy: `params <= 900e6`, `macs@64 <= 2e12`, `loss < 0.2`.
    `params <= 60%` is relative to the largest architecture's; for a metric that is not a cost, a
    percentage is relative to its reference (`latency_rel <= 60%`: the largest's latency)."""


class TuningSection(Config):
    """How a subnet is trained further, alone."""

    steps: Steps = 1000
    """Optimizer steps for each."""
    learning_rate: LearningRate = 1e-4
    """Peak learning rate; everything else is as in `training`."""
    teacher: TeacherSection | None = None
    """Let it learn from a frozen model as well; null for none."""

    @model_validator(mode="before")
    @classmethod
    def _a_teacher_has_weights(cls, section: Any) -> Any:
        weight = section.get("distillation") if isinstance(section, dict) else None
        if isinstance(weight, int | float):
            shares = f"task: {1 - weight:g}, outputs: {weight:g}, features: 0"
            what = f"is now a teacher's; write `teacher: {{model: supernet, {shares}}}` instead"
            fault = InitErrorDetails(
                type="value_error",
                loc=("distillation",),
                input=weight,
                ctx={"error": ValueError(what if weight else "is no longer needed; remove it")},
            )
            raise ValidationError.from_exception_data("finetune", [fault])
        return section


class RecoverSection(TuningSection):
    """Recovery of the best candidates before the final choice."""

    top: Models = 6
    """Candidates for each of `front.subnets`: the best that cost no more than it, but more than the
    next smaller one."""


class FrontSection(Config):
    """What is done with the architectures on the front."""

    subnets: Models = 8
    """How many are extracted, spread evenly over the cost, both ends included."""
    recover: RecoverSection | None = None
    """Train the best candidates further, evaluate them again, and choose from them: a low loss in
    the supernet does not predict the loss after training (arXiv 2412.01199). Null to choose by the
    search alone."""
    evaluators: list[EvaluatorSection] = Field(
        default_factory=lambda: [EvaluatorSection(name="latency")], max_length=32
    )
    """What evaluates the extracted models after the search; [] for nothing."""
    prompts: Annotated[tuple[str, ...], Field(max_length=1000)] | None = None
    """Captions to generate sample videos for; null for those of three held-out clips, [] for
    none."""
    guidance_scale: float = Field(default=3.0, ge=1, le=100)
    """Strength of classifier-free guidance in samples; 1 is none."""
    sampling_steps: int = Field(default=30, ge=1, le=10**5)
    """Denoising steps of a sample, by the objective's scheduler."""

    @model_validator(mode="before")
    @classmethod
    def _latency_is_an_evaluator(cls, section: Any) -> Any:
        if isinstance(section, dict) and "latency" in section:
            old = section["latency"]
            named = {"name": "latency", **old} if isinstance(old, dict) else {"name": "latency"}
            new = "[]" if old is None else json.dumps([named]).replace('"', "")
            what = f"is now an evaluator; write `front.evaluators: {new}` instead, with any others"
            fault = InitErrorDetails(
                type="value_error", loc=("latency",), input=old, ctx={"error": ValueError(what)}
            )
            raise ValidationError.from_exception_data("front", [fault])
        return section


class FinetuneSection(TuningSection):
    """Fine-tuning of extracted models."""

    subnets: Annotated[int, Field(ge=0, le=1000)] = 2
    """How many models of the front, spread evenly over the cost, both ends included; 0 for none but
    those that `nasvid finetune` names."""
    compile: bool = False
    """Compile each model (`torch.compile`), which takes a minute or more and pays off over many
    steps. A supernet is not compiled: each step trains different subnets."""


class Recipe(Config):
    """A whole run."""

    name: str = Field(pattern=RUN_NAME, max_length=100)
    """Name of the run and of its folder."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """The source of all randomness."""
    plugins: tuple[RecipePath, ...] = Field(default=(), max_length=64)
    """Python files, relative to the recipe, that register plug-ins."""
    data: DataSection = DataSection()
    resolutions: dict[ResolutionName, ResolutionSection] = Field(min_length=1, max_length=32)
    """What clips are cut to -> settings; one supernet is trained at all of them. `64` is a square
    of 64 pixels, `480x832` has a height and a width, `480x832x81` also its own number of frames;
    `480x832x1` is for images."""
    text: TextSection = Field(default_factory=lambda: TextSection(name="hash"))
    vae: VaeSection | None = None
    """Denoise in the latent space of this autoencoder; null for pixels."""
    space: SpaceSection
    supernet: SupernetSection | None = None
    """Initialise the supernet from an existing model; null for random weights."""
    importance: ImportanceSection | None = None
    """Measure blocks and units first, so that small subnets have those that matter; null for not.
    Needs `supernet.init_from`."""
    sampler: SamplerSection = Field(default_factory=lambda: SamplerSection(name="warm_up"))
    objective: ObjectiveSection = Field(default_factory=lambda: ObjectiveSection(name="diffusion"))
    training: TrainingSection
    search: SearchSection
    front: FrontSection = Field(default_factory=FrontSection)
    finetune: FinetuneSection | None = None
    """Fine-tune some of the extracted models; null for none."""

    @field_validator("resolutions")
    @classmethod
    def _lowest_batch_is_given(
        cls, sections: dict[Resolution, ResolutionSection]
    ) -> dict[Resolution, ResolutionSection]:
        lowest = min(sections)
        if sections[lowest].batch == "auto":
            raise ValueError(
                f"the batch of {lowest}, the lowest, must be a number; `auto` follows from it"
            )
        return sections

    def shape(self, resolution: Resolution) -> VideoShape:
        """Return the shape of the model's input for a clip at a resolution."""
        to = self.vae.compression if self.vae else PIXELS
        return VideoShape(
            frames=to.latent_frames(resolution.frames_or(self.data.frames)),
            height=resolution.height // to.factor,
            width=resolution.width // to.factor,
            context_len=self.data.context_len,
        )

    def shapes(self) -> dict[Resolution, VideoShape]:
        """Return the shape of the model's input at each resolution, ascending."""
        return {each: self.shape(each) for each in sorted(self.resolutions)}

    @property
    def needs_every_clip(self) -> str:
        """The setting for which all training clips must be known before training, or ""."""
        if self.data.buckets:
            return "data.buckets: true"
        return (
            "" if self.vae is None or self.vae.cache == "none" else f"vae.cache: {self.vae.cache}"
        )

    @property
    def streams(self) -> bool:
        """Whether training clips are streamed, if no run folder says otherwise."""
        if self.data.mode is not None:
            return self.data.mode == "stream"
        return self.data.is_remote and not self.needs_every_clip

    def teachers(self) -> Iterator[tuple[tuple[str, ...], TeacherSection]]:
        """Yield the path and the section of each teacher."""
        for path, section in (
            (("training",), self.training),
            (("front", "recover"), self.front.recover),
            (("finetune",), self.finetune),
        ):
            if section is not None and section.teacher is not None:
                yield (*path, "teacher"), section.teacher

    def make_space(self, text: TextEncoder | None = None) -> SearchSpace:
        """Make the search space for these videos or latents and the text encoder's embeddings.

        text: the encoder, if it has been made already.
        """
        channels = (self.vae.compression if self.vae else PIXELS).channels
        text = text or self.text.make()
        domain = Domain(channels=channels, context_dim=text.dim, pooled_dim=text.pooled_dim)
        return self.space.make(domain)
