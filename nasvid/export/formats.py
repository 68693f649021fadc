"""The formats that a denoising step is exported to: how a file of each is written and run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nasvid.errors import UserError
from nasvid.plugins.needs import Need, missing

if TYPE_CHECKING:
    import torch
    from torch.export import ExportedProgram

    from nasvid.export.step import Inputs

DIFFUSERS = "diffusers"
"""The format of whole folders, which is not one of a step."""
OPSET = 18
"""Of the operators in ONNX files."""
LARGEST_FILE = 1_500_000_000
"""Bytes of weights above which they have a file of their own: one ONNX file holds at most 2 GB."""
INSTALL = "pip install 'nasvid[onnx]'"


class Format(ABC):
    """A format of files that each hold a step for clips of one shape.

    name: also the ending of its files. title: for people. facts: what `step.json` says of it.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    facts: ClassVar[dict[str, int]] = {}
    needs: ClassVar[tuple[Need, ...]] = ()

    @abstractmethod
    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a traced step to a file, with its weights."""

    @abstractmethod
    def run(self, path: Path, several: Iterable[Inputs]) -> list[torch.Tensor]:
        """Return what a file, loaded afresh, predicts of each input: `b c t h w`."""


class Pt2(Format):
    """torch.export's own files."""

    name = "pt2"
    title = "torch.export"

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a file that `torch.export.load` reads."""
        import torch

        torch.export.save(program, path)

    def run(self, path: Path, several: Iterable[Inputs]) -> list[torch.Tensor]:
        """Return what torch predicts."""
        import torch

        step = torch.export.load(path).module()
        return [step(*inputs) for inputs in several]


class Onnx(Format):
    """Files of ONNX, of operators that many runtimes have."""

    name = "onnx"
    title = "ONNX"
    facts: ClassVar = {"opset": OPSET}
    needs = tuple(Need(name, INSTALL) for name in ("onnx", "onnxruntime", "onnxscript"))

    def write(self, program: ExportedProgram, path: Path) -> None:
        """Write a file that passes ONNX's own checker; large weights are in a second one."""
        import torch

        size = sum(tensor.nbytes for tensor in program.state_dict.values())
        made = torch.onnx.export(
            _without_filled_masks(program),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        assert made is not None
        made.save(path, external_data=size > LARGEST_FILE)
        import_module("onnx").checker.check_model(str(path))

    def run(self, path: Path, several: Iterable[Inputs]) -> list[torch.Tensor]:
        """Return what onnxruntime predicts on the CPU."""
        import torch

        runtime: Any = import_module("onnxruntime")  # an extra, which need not be installed
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        taken = [each.name for each in session.get_inputs()]
        found = [
            session.run(None, {name: getattr(inputs, name).numpy() for name in taken})
            for inputs in several
        ]
        return [torch.from_numpy(prediction) for (prediction,) in found]


def _without_filled_masks(program: ExportedProgram) -> ExportedProgram:
    """Return a program that fills no bool tensor, for which onnxruntime has no operator."""
    import torch

    fill = torch.ops.aten.masked_fill.Scalar

    def filled(tensor: torch.Tensor, mask: torch.Tensor, value: float) -> torch.Tensor:
        if tensor.dtype != torch.bool:
            return NotImplemented
        return tensor | mask if value else tensor & ~mask

    fills = (node.meta["val"].dtype for node in program.graph.nodes if node.target is fill)
    return program.run_decompositions({fill: filled}) if torch.bool in fills else program


STEPS: dict[str, Format] = {each.name: each for each in (Pt2(), Onnx())}
"""The formats of a step, by name."""
NAMES = (DIFFUSERS, *STEPS)
"""All formats of an exported subnet."""


def check_installed(names: Iterable[str]) -> None:
    """Check that what some formats need is installed.

    Raises:
        UserError: it is not; the message says what to install.
    """
    for name in names:
        needs = STEPS[name].needs if name in STEPS else ()
        if lacking := missing(needs):
            packages = " and ".join(need.package for need in lacking)
            verb = "is" if len(lacking) == 1 else "are"
            raise UserError(
                f"--format {name} needs {packages}, which {verb} not installed: "
                f"{lacking[0].install}"
            )
