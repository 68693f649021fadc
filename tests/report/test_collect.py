import json
from pathlib import Path

import pytest

from nasvid.errors import Damaged, UserError
from nasvid.report.collect import collect
from nasvid.report.views import facts, notes, skipped, stages, table


def test_a_step_made_twice_counts_once_and_the_last_holds(make_run) -> None:
    folder = make_run(steps=60)
    with open(folder / "events.jsonl", "a") as file:
        again = {"event": "step", "step": 59, "resolution": 16, "losses": {"largest": 0.5}}
        file.write(json.dumps(again) + "\n")
    steps = collect(folder).steps
    assert len(steps) == 60
    assert list(steps.made.step) == list(range(60))
    losses = {
        (resolution.height, role): curve.value[-1]
        for (resolution, role), curve in steps.losses.items()
        if curve.step[-1] == 59
    }
    assert losses == {(16, "largest"): 0.5}


def test_a_line_torn_by_a_kill_is_not_read(make_run) -> None:
    folder = make_run(steps=60)
    before = len(collect(folder).events)
    with open(folder / "events.jsonl", "a") as file:
        file.write('{"event": "step", "st')
    assert len(collect(folder).events) == before


def test_what_is_not_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a run folder; it has no recipe\.yaml"):
        collect(tmp_path)


@pytest.mark.parametrize(
    "name",
    ["search/front.json", "search/record.jsonl", "environment.json", "rank/ranking.json"],
)
def test_a_damaged_file_is_named(make_run, name: str) -> None:
    folder = make_run(steps=60)
    (folder / name).write_text('{"members": [\n')
    with pytest.raises(
        UserError, match=f"{name}.* is (damaged|not a (search's front|valid evaluation))"
    ):
        collect(folder)


def test_metrics_that_were_not_finite_are_left_out(make_run) -> None:
    folder = make_run(steps=60)
    record = folder / "search" / "record.jsonl"
    line = json.loads(record.read_text().splitlines()[0])
    line["metrics"]["loss@16"] = None
    line["violation"] = None
    record.write_text(json.dumps(line) + "\n")
    (evaluation,) = collect(folder).evaluations
    assert "loss@16" not in evaluation.metrics
    assert not evaluation.feasible


def test_a_resumed_stage_is_as_long_as_its_parts(make_run) -> None:
    folder = make_run(steps=60)
    with open(folder / "events.jsonl", "a") as file:
        for status in ("started", "done"):
            event = {"event": "stage", "stage": "train", "status": status, "seconds": 8.0}
            file.write(json.dumps(event) + "\n")
    assert ("train", 380.0, "6 min 20 s") in stages(collect(folder))


def test_a_sample_skipped_again_is_counted_once(make_run) -> None:
    folder = make_run(steps=60)
    with open(folder / "events.jsonl", "a") as file:
        event = {"event": "skip", "shard": "a.tar", "key": "0", "reason": "moov atom not found"}
        file.write(json.dumps(event) + "\n")
    assert skipped(collect(folder))[0] == ("moov atom not found", 2)


def test_the_table_has_a_column_for_every_metric(finished_run: Path) -> None:
    shown = table(collect(finished_run))
    names = [name for _, _, below in shown.heads for name in below]
    assert {arrow for _, arrow, _ in shown.heads} == {"↓"}
    assert names[0] == "params"
    assert names[1:] == [f"{m}@{side}" for m in ("macs", "loss", "latency_ms") for side in (16, 32)]
    for member, _, _, cells in shown.rows:
        assert [value for _, value in cells] == [member.metrics[name] for name in names]
        assert all(text for text, _ in cells)


def test_an_arrow_leads_to_the_better_end(make_run) -> None:
    shown = table(collect(make_run(steps=60, objectives=("temporal_consistency", "macs"))))
    arrows = {name: arrow for name, arrow, _ in shown.heads}
    assert arrows["temporal_consistency"] == "↑"
    assert arrows["macs"] == arrows["latency_ms"] == "↓"


def test_what_was_evaluated_after_the_search_stands_in_place_of_the_searchs_own(make_run) -> None:
    folder = make_run(steps=60)
    path = folder / "evaluate" / "metrics.json"
    after = json.loads(path.read_text())
    first = collect(folder).members[0]
    after["metrics"][first.id] |= {"loss@16": 0.125, "loss@32": None}
    path.write_text(json.dumps(after))
    again = collect(folder).members[0].metrics
    assert again["loss@16"] == 0.125
    assert again["loss@32"] == first.metrics["loss@32"]


def test_facts_are_those_of_the_environment(finished_run: Path) -> None:
    known = dict(facts(collect(finished_run)))
    assert known["scale"] == "cpu"
    assert known["precision"] == "float32"
    assert known["torch"] == "2.13.0"


@pytest.mark.parametrize(
    "event",
    [
        {"event": "step", "step": "one"},
        {"event": "step"},
        {"event": "step", "step": 1},
        {"event": "step", "step": 1, "resolution": 16, "grad_norm": "x"},
        {"event": "step", "step": 1, "groups": [3]},
        {"event": "step", "step": 1, "resolution": 16, "losses": {"largest": "x"}},
        {"event": "step", "step": 1, "losses": "low"},
        {"event": "stage", "stage": ["train"], "status": "started"},
        {"event": "stage", "stage": "train", "status": "done"},
        {"event": "stage", "stage": "train", "status": "done", "seconds": "long"},
        {"event": "skip", "reason": "broken"},
        {"event": "note", "time": "noon"},
    ],
)
def test_an_event_of_other_types_is_left_out(make_run, capsys, event):
    folder = make_run()
    before = len(collect(folder).events)
    with (folder / "events.jsonl").open("a") as file:
        file.write(json.dumps(event) + "\n")
    assert len(collect(folder).events) == before
    assert "1 damaged line left out" in capsys.readouterr().out


def test_a_layout_of_another_space_is_damaged(make_run):
    path = make_run() / "train/space.json"
    space = json.loads(path.read_text())
    space["choices"][0]["name"] = "other"
    path.write_text(json.dumps(space))
    with pytest.raises(Damaged, match=r"space\.json is damaged \(Layout: 'other'"):
        collect(path.parents[1])


ENTRY = {"id": "a", "before": {"loss": 0.2}, "after": {"loss": 0.1}}
COST = {"macs": 1, "params": 1, "given": 0.5}
START = {"init_from": "wan", "orders": ["given"], "costs": [COST]}
AMISS = [
    ("finetune/finetuned.json", {"subnets": [ENTRY | {"before": {"loss": "low"}}]}),
    ("finetune/finetuned.json", {"subnets": [ENTRY | {"after": {"loss": None}}]}),
    ("finetune/finetuned.json", {"subnets": [ENTRY | {"after": {}}]}),
    ("finetune/finetuned.json", {"subnets": [ENTRY | {"id": 3}]}),
    ("vae/quality.json", {"name": "kl", "psnr": {"16": None}}),
    ("vae/quality.json", {"psnr": {}}),
    ("train/start.json", START | {"costs": [COST | {"macs": "many"}]}),
    ("train/start.json", START | {"costs": [COST | {"given": None}]}),
    ("train/start.json", START | {"orders": ["other"]}),
    ("train/start.json", {"orders": [], "costs": []}),
    ("data/train.json", {"clips": "many"}),
    ("environment.json", {"packages": []}),
    ("search/mean_loss.json", {"16": "low"}),
    ("search/unmet.json", {}),
    ("search/front.json", {"hypervolume": {"16": "x"}, "fronts": {}, "members": []}),
    ("evaluate/metrics.json", {"metrics": {"a": {"loss": "low"}}}),
    ("evaluate/metrics.json", {"metrics": {}, "declared": {"mine": {"nothing": 1}}}),
]


@pytest.fixture
def small(tmp_path: Path):
    """The least that is a run's folder; its recipe asks for fine-tuning."""
    (tmp_path / "recipe.yaml").write_text("finetune: {subnets: 1}\n")
    return tmp_path


@pytest.mark.parametrize(("name", "content"), AMISS)
def test_a_value_of_another_type_is_damage(small, name, content):
    (small / name).parent.mkdir(exist_ok=True)
    (small / name).write_text(json.dumps(content))
    with pytest.raises(Damaged) as raised:
        collect(small)
    assert name in str(raised.value)
    assert "\n" not in str(raised.value)


def test_what_a_run_writes_is_no_damage(small):
    for name, content in (
        ("finetune/finetuned.json", {"subnets": [ENTRY]}),
        ("vae/quality.json", {"name": "kl", "compression": "4x8x8", "psnr": {"16": 30.5}}),
        ("train/start.json", START),
    ):
        (small / name).parent.mkdir(exist_ok=True)
        (small / name).write_text(json.dumps(content))
    run = collect(small)
    assert (run.finetuned, run.start) == ((ENTRY,), START)
    assert dict(facts(run))["autoencoder"] == "kl, 4x8x8, 30.5 dB at 16 px"


def test_half_an_interval_is_shown_beside_its_metric_and_a_note_below(make_run) -> None:
    folder = make_run(steps=60)
    path = folder / "evaluate" / "metrics.json"
    after = json.loads(path.read_text())
    kind = {"unit": "", "goal": "minimise", "per_resolution": True}
    after["declared"] |= {
        "distance": kind | {"note": "of few clips"},
        "spread": kind | {"half_width_of": "distance"},
    }
    first, *_ = after["metrics"].values()
    first |= {"distance@16": 12.34, "spread@16": 0.56, "distance@32": 7.0}
    path.write_text(json.dumps(after))
    run = collect(folder)
    shown = table(run)
    names = [name for _, _, below in shown.heads for name in below]
    assert {"distance@16", "distance@32"} < set(names)
    assert not [name for name in names if name.startswith("spread")]
    texts = dict(zip(names, shown.rows[0][3], strict=True))
    assert texts["distance@16"] == ("12.3 ± 0.6", 12.34)
    assert texts["distance@32"] == ("7.0000", 7.0)
    assert notes(run) == [("distance", "of few clips")]
    assert "distance" in run.goals.qualities
    assert "spread" not in run.goals.qualities
