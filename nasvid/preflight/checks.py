"""The checks that the schema alone cannot make: whether the parts of a recipe fit together."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from importlib.util import find_spec

import numpy as np
from pydantic import BaseModel

from nasvid import plugins
from nasvid.costs import NoValuesError, built_on_meta
from nasvid.errors import UserError, nearest
from nasvid.evaluator import EvaluatorSection, KnownCost, Metric
from nasvid.host.words import quantity
from nasvid.metrics.cost import COSTS, TABLED, space_costs
from nasvid.plugins.needs import missing
from nasvid.plugins.section import PluginSection
from nasvid.recipe.constraint import Constraint
from nasvid.recipe.problems import Problem
from nasvid.recipe.sections import Recipe, SupernetSection
from nasvid.search.goals import metric_keys
from nasvid.shapes import Resolution
from nasvid.space import SearchSpace
from nasvid.training.planner import Planner
from nasvid.vae import PIXELS


def check(recipe: Recipe, space: SearchSpace | Problem) -> list[Problem]:
    """Return the problems of a recipe whose settings are valid one by one; allocates nothing.

    space: the recipe's, or why it cannot be made.
    """
    problems = [*_streaming(recipe), *_metrics(recipe), *_front(recipe)]
    if isinstance(space, Problem):
        return [*problems, space]
    problems += _shapes(recipe, space)
    try:
        fitting = (_constraints, _distillation, _teachers, _importance)
        return problems or [each for check in fitting for each in check(recipe, space)]
    except NoValuesError as error:
        return [Problem(("space",), str(error))]


def check_ready(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Yield what would make a run fail on this machine: missing devices and packages."""
    from nasvid.host.device import pick_device
    from nasvid.training.engine import engine_of

    try:
        pick_device(recipe.training.device)
    except UserError as error:
        yield Problem(("training", "device"), str(error).removeprefix("training.device: "))
    lacking = list(needs_of(recipe))
    yield from lacking
    if not lacking:
        try:
            engine_of(recipe.training.engine).check_ready()
        except UserError as error:
            yield Problem(("training", "engine"), str(error))
    if recipe.training.tensorboard and find_spec("tensorboard") is None:
        what = "needs TensorBoard: pip install 'nasvid[tensorboard]'"
        yield Problem(("training", "tensorboard"), what)
    if recipe.training.gradient_checkpointing:
        yield from _checkpointing(recipe, space)


def needs_of(section: BaseModel, path: tuple[str | int, ...] = ()) -> Iterator[Problem]:
    """Check that the packages needed by all named plug-ins, nested ones too, are installed."""
    if isinstance(section, PluginSection):
        for need in missing(section.cls.needs):
            what = f"'{section.name}' needs {need.package}, which is not installed: {need.install}"
            yield Problem(path, what)
        section = section.config
    for name in type(section).model_fields:
        value = getattr(section, name)
        for key, each in enumerate(value) if isinstance(value, list | tuple) else [(None, value)]:
            if isinstance(each, BaseModel):
                yield from needs_of(each, (*path, name) if key is None else (*path, name, key))


def _streaming(recipe: Recipe) -> Iterator[Problem]:
    """Check that nothing needs all clips before training if they are streamed."""
    if recipe.data.mode == "stream" and (why := recipe.needs_every_clip):
        fix = "mode: local" if recipe.data.buckets else "mode: local, or vae.cache: none"
        what = f"'stream' knows clips only as they are read, but {why} needs all of them before"
        yield Problem(("data", "mode"), f"{what}; set {fix}")


def _metrics(recipe: Recipe) -> Iterator[Problem]:
    """Check that each objective and constraint names a metric that is measured."""
    search, resolutions = recipe.search, sorted(recipe.resolutions)
    try:
        measured = _declared(search.evaluators, resolutions)
    except UserError as error:
        yield Problem(("search", "evaluators"), str(error))
        return
    for i, name in enumerate(search.objectives):
        path = ("search", "objectives", i)
        if name not in measured:
            yield Problem(path, _unmeasured(name, measured, resolutions))
        elif name in search.objectives[:i]:
            yield Problem(path, f"'{name}' is listed twice; remove one")
    known = measured | {key: metric for metric in COSTS for key in metric.keys(resolutions)}
    for i, text in enumerate(search.constraints):
        path, constraint = ("search", "constraints", i), Constraint.parse(text)
        metric = known.get(constraint.metric)
        if metric is None:
            yield Problem(path, _unmeasured(constraint.metric, known, resolutions))
        elif constraint.percent is not None and not metric.known and metric.reference is None:
            what = f"'{text}': {metric.name} has no reference to take a percentage of"
            yield Problem(path, f"{what}; write a number")


def _declared(
    evaluators: Iterable[EvaluatorSection], resolutions: list[Resolution]
) -> dict[str, Metric]:
    return metric_keys([(section.name, section.metrics) for section in evaluators], resolutions)


def _unmeasured(name: str, measured: Collection[str], resolutions: list[Resolution]) -> str:
    metric, _, resolution = name.partition("@")
    if resolution and resolution not in map(str, resolutions) and metric in measured:
        shown = ", ".join(map(str, resolutions))
        return f"'{name}': {resolution} is not a resolution of this recipe ({shown})"
    what = f"no evaluator of this recipe measures '{name}'"
    if metric in [each.name for each in TABLED]:
        what += "; give cost a latency_table, which nasvid latency build makes"
        others = " or ".join(f"add {{name: {other}}}" for other in _evaluators_of(metric))
        return f"{what}, or {others} to search.evaluators" if others else what
    if others := list(_evaluators_of(metric)):
        adds = " or ".join(f"{{name: {other}}}" for other in others)
        return f"{what}; add {adds} to search.evaluators"
    return f"{what}{nearest(name, sorted(measured))}"


def _evaluators_of(metric: str) -> Iterator[str]:
    """Yield the installed evaluators that measure a metric with their default options."""
    for name in plugins.available("evaluators"):
        try:
            section = EvaluatorSection(name=name, config=plugins.load("evaluators", name).Config())
            if metric in [each.name for each in section.metrics]:
                yield name
        except ValueError:  # needs options, or cannot be imported
            continue


def _front(recipe: Recipe) -> Iterator[Problem]:
    try:
        _declared(recipe.front.evaluators, sorted(recipe.resolutions))
    except UserError as error:
        yield Problem(("front", "evaluators"), str(error))
    subnets, budget = recipe.front.subnets, recipe.search.budget
    if subnets > budget:
        yield Problem(("front", "subnets"), f"{subnets} is more than search.budget, {budget}")
    if recipe.front.recover is not None and not _quality(recipe):
        what = "all objectives are costs, which no training changes; add one such as loss"
        yield Problem(("front", "recover"), what)
    if recipe.search.checkpoint == "best" and not recipe.training.keep_best:
        what = "'best' needs training.keep_best: true, which determines the best checkpoint"
        yield Problem(("search", "checkpoint"), what)
    for i, prompt in enumerate(recipe.front.prompts or ()):
        if not prompt.strip():
            yield Problem(("front", "prompts", i), "is empty")
    steps, timesteps = recipe.front.sampling_steps, recipe.objective.config.train_timesteps
    if steps > timesteps:
        what = f"{steps} is more than objective.train_timesteps, {timesteps}"
        yield Problem(("front", "sampling_steps"), what)


def _quality(recipe: Recipe) -> bool:
    """Return whether an objective is known only from an evaluation."""
    with suppress(UserError):
        measured = _declared(recipe.search.evaluators, sorted(recipe.resolutions))
        return any(
            not measured[name].known for name in recipe.search.objectives if name in measured
        )
    return True


def _shapes(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    from nasvid.latents.vae import compression

    latents = compression(recipe.vae) if recipe.vae else PIXELS
    if any(resolution.frames is None for resolution in recipe.resolutions):
        try:
            latents.check_frames(recipe.data.frames)
        except ValueError as error:
            yield Problem(("data", "frames"), str(error))
            return
    seen: dict[tuple[int, int, int], Resolution] = {}
    for resolution, shape in recipe.shapes().items():
        path = ("resolutions", resolution.to_json())
        frames = resolution.frames_or(recipe.data.frames)
        try:
            latents.check_size(resolution.height)
            latents.check_size(resolution.width)
            latents.check_frames(frames)
            space.check_shape(shape)
        except ValueError as error:
            yield Problem(path, str(error))
        clip = (resolution.height, resolution.width, frames)
        if (other := seen.setdefault(clip, resolution)) != resolution:
            what = f"has the shape of {other}, because data.frames is {recipe.data.frames}"
            yield Problem(path, f"{what}; remove one")


def _constraints(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check that each bound on a cost can be met together with earlier bounds on the same cost.

    Files that costs come from are checked by `check_named`.
    """
    known = _known(recipe, space)
    largest = space.encode(space.largest)[None]
    left: dict[str, tuple[float, float]] = {}
    for i, text in enumerate(recipe.search.constraints):
        constraint = Constraint.parse(text)
        name = constraint.metric
        if name not in known:
            continue
        least, most = known[name].bounds()
        constraint = constraint.relative_to(float(known[name].of(largest)[0]))
        low, high = left.get(name, (least, most))
        is_upper = constraint.relation[0] == "<"
        if constraint.violation(np.array(low if is_upper else high)) > 0:
            reach = f"{name} ranges from {_text(least)} to {_text(most)} in this space"
            if (low, high) != (least, most):
                reach += f", and from {_text(low)} to {_text(high)} under the preceding constraints"
            what = f"no architecture satisfies '{text}': {reach}"
            yield Problem(("search", "constraints", i), what)
        bound = constraint.bound
        left[name] = (low, min(high, bound)) if is_upper else (max(low, bound), high)


def _known(recipe: Recipe, space: SearchSpace) -> dict[str, KnownCost]:
    """Return the costs that are known before an evaluation, without those of unusable files."""
    shapes = recipe.shapes()
    known = space_costs(space, shapes)
    for section in recipe.search.evaluators:
        with suppress(UserError):
            known |= section.known(space, shapes)
    return known


def _text(cost: float) -> str:
    return quantity(cost, digits=4)


def _distillation(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    if recipe.training.distillation > 0 and not Planner.of(recipe, space).trains_largest:
        yield Problem(
            ("training", "distillation"),
            f"the sampler '{recipe.sampler.name}' never trains the largest subnet, which "
            "the others are distilled from; use 'sandwich' in it, or distillation: 0",
        )


def _importance(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check that there is a model to measure before training."""
    del space
    if recipe.importance is not None and recipe.supernet is None:
        yield Problem(
            ("importance",),
            "there is no pretrained model to measure, and the blocks of a new one are all alike; "
            "name one in supernet.init_from, or remove the section",
        )
    by = recipe.supernet.reorder if recipe.supernet is not None else True
    if isinstance(by, str) and by != "weights" and recipe.importance is None:
        yield Problem(
            ("supernet", "reorder"), f"'{by}' must be measured first; add `importance: {{}}`"
        )


def _teachers(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check that each teacher is a model that exists by then and can teach what it should."""
    start = recipe.supernet
    for path, section in recipe.teachers():
        model = section.pretrained(start)
        in_training = path[0] == "training"
        if in_training and model is None:
            what = "there is no pretrained model; name one in model, or in supernet.init_from"
            yield Problem(path, what)
        if in_training and recipe.training.distillation:
            what = "teaches in place of the largest subnet; set training.distillation: 0"
            yield Problem(path, what)
        if not (section.task or section.outputs or section.features):
            yield Problem(path, "all weights are 0, so that nothing would be learned")
        if not section.features:
            continue
        if not space.feature_points(space.largest):
            what = f"space '{recipe.space.name}' has no feature points; set features: 0"
            yield Problem((*path, "features"), what)
        elif start and model and start.reorder and not _same_start(start, model):
            yield Problem(
                (*path, "model"),
                f"its channels are not in the order in which those of '{start.init_from}' are "
                "sorted; set supernet.reorder: false, or features: 0",
            )
    tuned = recipe.finetune
    if tuned and tuned.compile and tuned.teacher and tuned.teacher.features:
        what = "a compiled model hides its hidden states; set compile: false, or features: 0"
        yield Problem(("finetune", "compile"), what)


def _same_start(one: SupernetSection, other: SupernetSection) -> bool:
    return (one.init_from, one.subfolder) == (other.init_from, other.subfolder)


def _checkpointing(recipe: Recipe, space: SearchSpace) -> Iterator[Problem]:
    """Check that the space's models can recompute activations, as diffusers models do."""
    try:
        model = built_on_meta(lambda: space.build(space.smallest))
    except NoValuesError:
        return  # which `check_named` reports
    try:
        model.enable_gradient_checkpointing()  # pyright: ignore[reportCallIssue]
    except (AttributeError, ValueError):  # ValueError: a diffusers model that cannot
        yield Problem(
            ("training", "gradient_checkpointing"),
            f"{type(model).__name__}, the model of space '{recipe.space.name}', has no "
            "enable_gradient_checkpointing(); set gradient_checkpointing: false",
        )
