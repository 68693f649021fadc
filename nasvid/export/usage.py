"""The section of a model card that says how the folder is used: Python that runs as it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from nasvid.objective import Scheduler

INSIDE = "From inside this folder (or with its path instead of `.`):"


SAME = (
    "On the same device, `nasvid sample` makes the same frames from the same prompt, seed and "
    "settings, to the bit."
)
CARRIED = (
    "The folder carries the code of pipeline and model, which `trust_remote_code` lets run; it "
    "needs torch, diffusers and einops (and transformers, if `text_encoder/` has weights)."
)


def video_section(
    options: str, call: Mapping[str, Any], prompt: str, lines: str, fps: float
) -> str:
    """Return the section of a whole pipeline.

    options: further arguments of loading it. call: the arguments of its call besides prompt and
    generator. lines: between the two. fps: of the video.
    """
    arguments = "".join(f"    {key}={value!r},\n" for key, value in call.items())
    code = f'''\
import torch
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained("."{options})
{lines}frames = pipeline(
    {prompt!r},
{arguments}    generator=torch.Generator().manual_seed(0),
    output_type="pil",
).frames[0]
options = {{"duration": {round(1000 / fps)}, "lossless": True}}
frames[0].save("video.webp", save_all=True, append_images=frames[1:], **options)'''
    return f"## Make a video\n\n{INSIDE}\n\n```python\n{code}\n```"


def loading_section(
    model: nn.Module,
    part: str,
    scheduler: Scheduler,
    content: Mapping[str, Any],
    reason: str,
    *,
    carried: bool,
) -> str:
    """Return the section of a denoiser alone.

    part: its subfolder. content: of `nasvid.json`. reason: why it comes without its pipeline.
    carried: whether its code is in the folder.
    """
    schedule = type(scheduler).__name__
    imports, load = _loading(model, part, schedule, carried=carried)
    why = f"The denoiser comes without the rest of a pipeline: {reason}. " if reason else ""
    return f"""\
## Load it

{INSIDE}

```python
{imports}

model = {load}
scheduler = {schedule}.from_pretrained(".", subfolder="scheduler")
```

{why}Text encoder: `{content["text"]["name"]}`, {content["context_len"]} tokens of width \
{content["domain"]["context_dim"]}; all settings are in `nasvid.json`."""


def _loading(model: nn.Module, part: str, schedule: str, *, carried: bool) -> tuple[str, str]:
    """Return the Python that imports what loads the model, and that which loads it."""
    if carried:
        load = f'AutoModel.from_pretrained(".", subfolder="{part}", trust_remote_code=True)'
        return f"from diffusers import AutoModel, {schedule}", load
    if not isinstance(model, ModelMixin):
        imports = (
            "from pathlib import Path\n\n"
            f"from diffusers import {schedule}\n"
            "from nasvid.export.subnet import load_exported"
        )
        return imports, 'load_exported(Path("."))'
    cls = type(model)
    module = _public_module(cls)
    imports = f"from diffusers import {schedule}\nfrom {module} import {cls.__name__}"
    if module == "diffusers":
        imports = f"from diffusers import {', '.join(sorted((schedule, cls.__name__)))}"
    return imports, f'{cls.__name__}.from_pretrained(".", subfolder="{part}")'


def _public_module(cls: type) -> str:
    """Return the shortest module name that `cls` can be imported from."""
    parts = cls.__module__.split(".")
    names = (".".join(parts[:length]) for length in range(1, len(parts) + 1))
    found = (name for name in names if getattr(sys.modules.get(name), cls.__name__, None) is cls)
    return next(found, cls.__module__)
