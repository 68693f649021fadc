import json
import shutil
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Page

from nasvid.report import write_report
from nasvid.report.collect import collect

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(visit, report: Path) -> Page:
    """The page of a finished run, open in a wide window; tests only look and click tabs."""
    return visit(report)


def test_the_page_shows_every_subnet(page: Page, finished_run: Path) -> None:
    members = collect(finished_run).members
    text = page.inner_text("body")
    for member in members:
        assert text.count(member.id) >= 3, "in its card, in the table, in its command"
        assert page.locator(f"#subnet-{member.id} svg.picture").count() == 1
    assert page.locator(".card svg.picture").count() == len(members)


def test_all_videos_are_there(page: Page, finished_run: Path) -> None:
    images = page.locator("#samples img")
    assert images.count() == len(collect(finished_run).videos)
    sizes = images.evaluate_all("all => all.map(image => [image.complete, image.naturalWidth])")
    assert {(done, width) for done, width in sizes} == {(True, 16), (True, 32)}


def test_tabs_choose_the_resolution(page: Page) -> None:
    assert page.locator("#samples img:visible").first.evaluate("i => i.naturalWidth") == 32
    page.get_by_text("16 px", exact=True).first.click()
    assert page.locator("#samples img:visible").first.evaluate("i => i.naturalWidth") == 16


def test_figures_in_a_tab_are_drawn_when_it_opens(page: Page) -> None:
    page.get_by_text("Latency", exact=True).click()
    shown = page.locator("#front .panel:visible .plot svg.main-svg")
    shown.first.wait_for()
    assert page.locator("#front .panel:visible").inner_text().count("latency (ms)") == 2


def test_dark_and_light_follow_the_system(page: Page) -> None:
    read = """() => [getComputedStyle(document.body).backgroundColor,
        getComputedStyle(document.querySelector("#training .xtick text")).fill]"""
    light = page.evaluate(read)
    page.emulate_media(color_scheme="dark")
    page.wait_for_function(f"before => ({read})().every((now, i) => now !== before[i])", arg=light)
    page.emulate_media(color_scheme="light")
    page.wait_for_function(f"before => ({read})().every((now, i) => now === before[i])", arg=light)


def test_the_page_forbids_itself_the_network_and_is_light(report: Path) -> None:
    text = report.read_text()
    assert "default-src 'none'" in text
    assert report.stat().st_size < 8e6
    assert [path.name for path in report.parent.glob(".report*")] == []


def test_what_people_wrote_is_text_and_never_markup(visit, make_run) -> None:
    folder = make_run(steps=60, subnets=2)
    hostile = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"name": hostile}))
    (folder / "samples" / "prompts.json").write_text(json.dumps([hostile] * 3))
    goals = json.loads((folder / "search" / "goals.json").read_text())
    goals["constraints"] = [hostile]
    goals["metrics"]["loss"]["unit"] = hostile
    goals["metrics"][hostile] = goals["metrics"]["loss"]
    (folder / "search" / "goals.json").write_text(json.dumps(goals))
    after = json.loads((folder / "evaluate" / "metrics.json").read_text())
    for metrics in after["metrics"].values():
        metrics |= {f"{hostile}@{side}": 0.5 for side in (16, 32)}
    (folder / "evaluate" / "metrics.json").write_text(json.dumps(after))
    environment = json.loads((folder / "environment.json").read_text())
    (folder / "environment.json").write_text(json.dumps(environment | {"device": hostile}))
    with open(folder / "events.jsonl", "a") as file:
        event = {"event": "skip", "key": "x", "shard": "b.tar", "reason": hostile}
        file.write(json.dumps(event) + "\n")
    page = visit(write_report(folder))
    assert page.evaluate("window.broken") is None
    assert page.inner_text("h1") == hostile
    assert page.locator("q").first.inner_text().strip('“”"') == hostile


def test_the_page_compares_subnets_with_training_alone(page: Page, finished_run: Path) -> None:
    rows = collect(finished_run).ranking["subnets"]
    text = page.inner_text("#ranking")
    for row in rows:
        assert row["id"] in text
        assert f"{row['inherited']['loss'] / row['alone']['loss']:.3f}" in text
    dots = page.locator("#ranking .plot .scatterlayer .point")
    dots.first.wait_for()
    assert dots.count() == len(rows)
    assert "also has the lower loss alone in 100% of 6 pairs" in text
    assert "1.00 [1.00 to 1.00]" in text


def test_without_a_ranking_there_is_no_word_of_it(make_run) -> None:
    folder = make_run(steps=60, subnets=2)
    path = folder / "rank" / "ranking.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"n": 3, "agreement": None}))
    page = write_report(folder).read_text()
    assert "1 more is not trained yet" in page
    assert "Spearman" not in page.partition("<script>")[0]
    path.unlink()
    assert 'id="ranking"' not in write_report(folder).read_text()


PARTS = {
    "samples": "No sample videos yet",
    "search/front.json": "No subnets have been chosen yet",
    "search/record.jsonl": "Nothing has been evaluated yet",
    "train/space.json": "No picture",
    "search/goals.json": "MACs has not been measured",
    "search": "No subnets have been chosen yet",
    "events.jsonl": "No training steps have been logged",
    "environment.json": "No environment.json",
    "subnets": "not yet",
    "data": "Samples skipped, by reason",
}


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_said(make_run, part: str) -> None:
    folder = make_run(steps=60, subnets=1)
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert PARTS[part] in write_report(folder).read_text()


def test_a_run_that_has_only_begun_has_a_page(visit, make_run) -> None:
    folder = make_run(steps=60, subnets=1)
    for path in folder.iterdir():
        if path.name != "recipe.yaml":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = visit(write_report(folder)).inner_text("body")
    assert "Nothing has been trained yet." in text


def test_without_latency_its_tab_says_so(make_run) -> None:
    folder = make_run(steps=60, subnets=2)
    shutil.rmtree(folder / "evaluate")
    assert "Latency has not been measured in this run." in write_report(folder).read_text()


def test_the_page_speaks_of_what_was_searched_for(visit, make_run) -> None:
    folder = make_run(steps=60, objectives=("temporal_consistency", "macs"))
    page = visit(write_report(folder))
    text = page.inner_text("#front")
    assert "higher temporal consistency, fewer MACs" in text
    assert "params <= 9e8" in text
    assert text.count("temporal consistency (higher is better)") == 2, "of two figures"
    assert "validation loss" not in text
    assert page.locator("#front .panel:visible .scatterlayer .js-line").count() == 2


def test_a_front_of_three_objectives_is_dots_and_fits_a_narrow_screen(visit, make_run) -> None:
    folder = make_run(steps=60, objectives=("loss", "temporal_consistency", "macs"))
    page = visit(write_report(folder), width=420)
    assert page.evaluate("document.documentElement.scrollWidth") <= 420
    assert page.locator("#front .panel:visible .plot").count() == 4
    assert page.locator("#front .panel:visible .scatterlayer .js-line").count() == 0
    assert "No line joins it" in page.inner_text("#front .lead")
