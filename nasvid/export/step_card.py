"""The card of an exported denoising step: what its files take, and code that runs one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

RUN = {
    "pt2": """\
import torch

step = torch.export.load("{file}").module()
with torch.no_grad():
    prediction = step(
        torch.randn({sample}),  # noisy video
        torch.full((2,), 500, dtype=torch.{timestep}),  # the scheduler's timestep
        torch.randn({context}),  # embedded captions
        torch.ones({mask}, dtype=torch.bool),  # True where a token is real
        torch.full((2,), {fps}),  # frames per second
    )
print(tuple(prediction.shape))
""",
    "onnx": """\
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{file}")
inputs = {{
    "sample": np.random.randn{sample}.astype("float32"),  # noisy video
    "timestep": np.full(2, 500, "{timestep}"),  # the scheduler's timestep
    "context": np.random.randn{context}.astype("float32"),  # embedded captions
    "context_mask": np.ones({mask}, bool),  # True where a token is real
    "fps": np.full(2, {fps}, "float32"),  # frames per second
}}
taken = {{each.name for each in session.get_inputs()}}  # a model may not need all
prediction, *_ = session.run(None, {{name: inputs[name] for name in inputs if name in taken}})
print(prediction.shape)
""",
}
"""Format -> code that runs a file with two clips."""
ANY = (
    "Each file has the weights, for clips of one shape: all sizes are fixed but `batch`, which may "
    "be any."
)
PAIR = (
    "Each file has the weights, for two clips of one shape, such as those of a prompt with "
    "classifier-free guidance: all sizes are fixed."
)


def step_card(content: Mapping[str, Any], title: str) -> str:
    """Return the card as Markdown. content: of `step.json`. title: of the format."""
    files = content["files"]
    batch = next(iter(files.values()))["inputs"]["sample"]["shape"][0]
    made_with = ", ".join(f"{of} {number}" for of, number in content["made_with"].items())
    opset = f" of opset {content['opset']}" if "opset" in content else ""
    differences = ", ".join(
        f"{each['largest_difference']:.1e} ({file})" for file, each in files.items()
    )
    return "\n".join(
        [
            f"# One denoising step of subnet {content['id']} as {title}",
            "",
            f"{title}{opset}, made with {made_with}; weights and computation are in fp32.",
            ANY if batch == "batch" else PAIR,
            "",
            "| file | input | dtype | shape |",
            "| --- | --- | --- | --- |",
            *(
                f"| `{file}` | `{of}` | {about['dtype']} | {_shape(about['shape'])} |"
                for file, each in files.items()
                for of, about in each["inputs"].items()
            ),
            "",
            "The output is the prediction, of the shape of `sample`, which the scheduler in "
            f"`scheduler/` takes. Captions are embedded by `{content['text']['name']}`; `fps` is "
            f"{content['fps']:g}.",
            "",
            "Each file was run and compared with the model that it was made of; the largest "
            "differences of predictions, in proportion where these exceed 1:",
            f"{differences}.",
            "",
            "```python",
            run_code(content).rstrip(),
            "```",
            "",
        ]
    )


def run_code(content: Mapping[str, Any]) -> str:
    """Return Python that runs the first file from inside its folder."""
    file, about = next(iter(content["files"].items()))
    inputs = about["inputs"]

    def size(name: str) -> str:
        return str((2, *inputs[name]["shape"][1:]))

    return RUN[content["format"]].format(
        file=file,
        sample=size("sample"),
        timestep=inputs["timestep"]["dtype"],
        context=size("context"),
        mask=size("context_mask"),
        fps=float(content["fps"]),
    )


def _shape(shape: list[int | str]) -> str:
    return " x ".join(map(str, shape))
