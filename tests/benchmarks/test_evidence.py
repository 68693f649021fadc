"""What subnets inherit against training alone, of a run that `nasvid rank` has ranked."""

import json
import re
import runpy
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from nasvid.cli.main import main

SCRIPT = Path(__file__).parents[2] / "benchmarks/evidence.py"


@pytest.mark.slow
def test_it_tells_ratios_flops_and_draws_each_loss(tiny, tmp_path, monkeypatch) -> None:
    recipe = tiny(
        resolutions={16: {"batch": 2}},
        data={"frames": 2, "context_len": 6, "workers": 0},
        training={"steps": 4, "learning_rate": 1e-3},
        search={"strategy": {"name": "random"}, "budget": 2, "clips": 2},
        front={"subnets": 1, "prompts": [], "evaluators": []},
    )
    (tmp_path / "recipe.yaml").write_text(recipe)
    run, plot = str(tmp_path / "run"), tmp_path / "plot.svg"
    monkeypatch.syspath_prepend(SCRIPT.parent)
    script = runpy.run_path(str(SCRIPT))["main"]
    begin = ["run", str(tmp_path / "recipe.yaml"), "--out", run]
    assert CliRunner().invoke(main, begin, catch_exceptions=False).exit_code == 0
    refused = CliRunner().invoke(script, [run])
    assert refused.exit_code == 2
    assert "run nasvid rank on it" in refused.output
    rank = ["rank", run, "--n", "3", "--steps", "2"]
    assert CliRunner().invoke(main, rank, catch_exceptions=False).exit_code == 0
    tune = ["finetune", run, "smallest", "largest", "--set", "finetune={subnets: 2, steps: 2}"]
    assert CliRunner().invoke(main, tune, catch_exceptions=False).exit_code == 0
    shutil.copytree(run, run + "-again")
    words = [run, run + "-again", "--plot", str(plot)]
    done = CliRunner().invoke(script, words, catch_exceptions=False)
    found = json.loads((tmp_path / "run/rank/ranking.json").read_text())
    largest = max(found["subnets"], key=lambda row: row["macs"])
    ratio = largest["inherited"]["loss"] / largest["alone"]["loss"]
    assert f"largest {ratio:.3f}" in done.output
    assert done.output.count(" |\n") == 8  # for each run, a head and three subnets
    # Four steps against eight trainings of two: of the average cost, give or take what was drawn.
    share, again = re.findall(r"training FLOPs: (\S+) of", done.output)
    assert 0.1 < float(share) < 1.2
    assert again == share
    assert "alone of run 1 against alone of run 2: tau 1.00" in done.output
    ranking = Path(run + "-again/rank/ranking.json")
    found["settings"]["steps"] = 3
    ranking.write_text(json.dumps(found))
    differ = CliRunner().invoke(script, [run, run + "-again"], catch_exceptions=False)
    assert "none: they differ" in differ.output
    assert "tau 1.00" not in differ.output.partition("mean of 2 runs")[2]
    ranking.write_text("{")
    damaged = CliRunner().invoke(script, [run + "-again"])
    assert damaged.exit_code == 2
    assert "ranking.json is damaged" in damaged.output
    texts = [text.text for text in ElementTree.parse(plot).iter("{http://www.w3.org/2000/svg}text")]
    assert [texts.count(mark) for mark in "●▲◆"] == [6, 4, 6]
