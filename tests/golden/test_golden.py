"""Two tiny runs whose every loss is kept: what a change to the code must leave as it was.

The test allows for kernels that round differently on another processor: losses to 1e-5, what is
discrete exactly. On the machine that recorded them, `python tests/golden/test_golden.py` compares
to the bit, weights included; with `--record` it writes the files again, for a change that is meant
to alter what is computed.
"""

import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from nasvid.cli.main import main as nasvid

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
SETUPS = ("pixel", "latent")


def run(setup: str, out: Path) -> dict[str, Any]:
    """Run a setup on one thread; return everything that its numbers decided."""
    torch.set_num_threads(1)
    command = ["run", str(HERE / f"{setup}.yaml"), "--out", str(out)]
    done = CliRunner().invoke(nasvid, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return collected(out)


def collected(out: Path) -> dict[str, Any]:
    events = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    record = (out / "search" / "record.jsonl").read_text().splitlines()
    front = json.loads((out / "search" / "front.json").read_text())
    tuned = next(out.glob("*/finetuned.json"), None)
    return {
        "steps": [_step(each) for each in events if each["event"] in ("step", "finetune_step")],
        "record": [_without(json.loads(line), "seconds") for line in record],
        "fronts": front["fronts"],
        "hypervolume": front["hypervolume"],
        "members": [member["id"] for member in front["members"]],
        "finetuned": json.loads(tuned.read_text())["subnets"] if tuned else [],
        "sha256": {
            "weights": _sha256(max(out.glob("checkpoints/step-*")) / "weights.safetensors"),
            **{
                f"subnet {path.parents[1].name}": _sha256(path)
                for path in sorted(out.glob("subnets/*/unet/*.safetensors"))
            },
        },
    }


def _step(event: dict[str, Any]) -> dict[str, Any]:
    kept = ("event", "step", "resolution", "groups", "subnets", "clips", "loss", "losses")
    return {key: event[key] for key in kept if key in event}


def _without(line: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in line.items() if name != key}


def _sha256(path: Path) -> str:
    """Return the hash of the values of a file of tensors, wherever they lie in it."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _close(value: Any) -> Any:
    """Return a value that equals another where its floats are near enough."""
    if isinstance(value, dict):
        return {key: _close(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_close(each) for each in value]
    return pytest.approx(value, rel=1e-5) if isinstance(value, float) else value


@pytest.mark.parametrize("setup", SETUPS)
def test_a_tiny_run_computes_what_it_always_has(setup: str, tmp_path: Path) -> None:
    found = _without(run(setup, tmp_path / "run"), "sha256")
    golden = _without(json.loads((HERE / f"{setup}.json").read_text()), "sha256")
    for part, expected in golden.items():
        assert found[part] == _close(expected), part


def main() -> None:
    for setup in SETUPS:
        path = HERE / f"{setup}.json"
        with tempfile.TemporaryDirectory() as folder:
            found = run(setup, Path(folder) / "run")
        if "--record" in sys.argv:
            path.write_text(json.dumps(found, indent=1) + "\n")
            continue
        golden = json.loads(path.read_text())
        differing = [part for part in golden if golden[part] != found[part]]
        print(f"{setup}: {'differs in ' + ', '.join(differing) if differing else 'to the bit'}")


if __name__ == "__main__":
    main()
