"""Code that is run where nasvid cannot be imported, by forks of a process that has diffusers."""

import json
import os
import subprocess
import sys
from pathlib import Path

SERVER = """
import json, os, sys, traceback


class Nowhere:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("nasvid", "nasvid_spaces", "nasvid_strategies"):
            raise ModuleNotFoundError(f"{name} is not to be imported here")


def run(code, folder, said, arguments):
    with open(said, "w") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    os.chdir(folder)
    sys.argv[1:] = arguments
    try:
        exec(compile(code, said, "exec"), {"__name__": "__main__"})
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


sys.meta_path.insert(0, Nowhere())
try:
    import nasvid
except ModuleNotFoundError:
    import torch, diffusers, transformers
else:
    sys.exit("nasvid can be imported")

torch.set_num_threads(1)
for name in ("DiffusionPipeline", "AutoModel", "UNet3DConditionModel", "DDIMScheduler"):
    getattr(diffusers, name)
for name in ("CLIPTextModel", "T5EncoderModel", "UMT5EncoderModel", "LlamaModel"):
    getattr(transformers, name)
for line in sys.stdin:
    child = os.fork()
    if not child:
        os._exit(run(*json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Stranger:
    """Runs code in processes that have torch and diffusers, and no nasvid."""

    def __init__(self, folder: Path) -> None:
        self._said = folder / "said"
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        environment["HF_MODULES_CACHE"] = str(folder / "modules")
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", SERVER],
            cwd=folder,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code: str, folder: Path, *arguments: object) -> str:
        """Run code in a folder, in a process of its own; return what it prints."""
        words = [code, str(folder), str(self._said), list(map(str, arguments))]
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        print(json.dumps(words), file=self._server.stdin, flush=True)
        status = self._server.stdout.readline()
        assert status == "0\n", self._said.read_text()
        return self._said.read_text()

    def end(self) -> None:
        """End the process that the others are forked from."""
        self._server.kill()  # its input stays open in processes forked from this one
        self._server.communicate()
