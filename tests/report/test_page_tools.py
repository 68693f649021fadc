"""What a reader can do on the page: sort, download, compare, enlarge, pause."""

import csv
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from nasvid.report.collect import collect

pytestmark = pytest.mark.slow

MOVING = "all => all.every(i => i.src.startsWith('data:image/webp'))"
STILL = "all => all.every(i => i.src.startsWith('data:image/png'))"


@pytest.fixture(scope="module")
def page(visit, report: Path) -> Page:
    """The page of a finished run; its table may be sorted already."""
    return visit(report)


def ids(page: Page) -> list[str | None]:
    rows = page.locator("#metrics tbody tr")
    return [row.get_attribute("data-subnet") for row in rows.all()]


def test_the_table_downloads_with_its_numbers_unrounded(page: Page, report: Path, tmp_path: Path):
    with page.expect_download() as download:
        page.get_by_text("Download as CSV").first.click()
    assert download.value.suggested_filename.endswith("-subnets.csv")
    download.value.save_as(tmp_path / "t.csv")
    with open(tmp_path / "t.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    members = collect(report.parent).members
    assert [row["subnet"] for row in rows] == ids(page)
    shown = {member.id: member for member in members}
    assert shown.keys() == set(ids(page))
    for row in rows:
        member = shown[row["subnet"]]
        numbers = {name: float(text) for name, text in row.items() if name != "subnet"}
        assert {"params", "loss@16", "latency_ms@32"} < numbers.keys()
        assert numbers == {name: member.metrics[name] for name in numbers}


def test_a_click_on_a_head_sorts_by_the_number_and_not_by_its_text(page: Page, report: Path):
    metrics = {member.id: member.metrics for member in collect(report.parent).members}
    for name in ("loss@16", "latency_ms@32", "params"):
        head = page.locator(f'#metrics th[data-column="{name}"]')
        for direction, reverse in (("ascending", False), ("descending", True)):
            head.locator("button").click()
            assert head.get_attribute("aria-sort") == direction
            assert page.locator("#metrics [aria-sort]").count() == 1
            wanted = sorted(metrics, key=lambda id_: metrics[id_][name], reverse=reverse)
            assert ids(page) == wanted


def test_two_subnets_stand_side_by_side(page: Page, report: Path) -> None:
    members = collect(report.parent).members
    first, second = page.locator("#compare select").all()
    assert (first.input_value(), second.input_value()) == (members[0].id, members[-1].id)
    second.select_option(members[1].id)
    versus = page.locator("#compare table")
    assert versus.locator("thead").inner_text().count(members[1].id) == 1
    row = versus.locator("tr", has=page.get_by_text("validation loss at 16 px"))
    ratio = members[1].metrics["loss@16"] / members[0].metrics["loss@16"]
    text = row.locator("td").last.inner_text()
    assert float(text.removeprefix("× ")) == pytest.approx(ratio, rel=5e-3)
    assert versus.locator("svg.picture").count() == 2
    shown = page.locator("#samples img[data-subnet]").count() / (len(members) + 1)
    assert versus.locator("img").count() == 2 * shown


def test_a_video_enlarges_by_click_and_key(page: Page) -> None:
    image, dialog = page.locator("#samples img:visible").first, page.locator("#enlarged")
    for open_it in (image.click, lambda: image.press("Enter")):
        open_it()
        large = dialog.locator("img").bounding_box()
        small = image.bounding_box()
        assert large
        assert small
        assert large["width"] > 2 * small["width"]
        page.keyboard.press("Escape")
        assert not dialog.is_visible()


def test_videos_pause_and_play(page: Page) -> None:
    images = page.locator("#samples img, #compare img")
    assert images.evaluate_all(MOVING)
    page.get_by_role("button", name="Pause videos").click()
    page.wait_for_function(f"({STILL})([...document.querySelectorAll('#samples img')])")
    page.locator("#compare select").first.select_option(index=1)
    page.wait_for_function(f"({STILL})([...document.querySelectorAll('#compare img')])")
    page.get_by_role("button", name="Play videos").click()
    assert images.evaluate_all(MOVING)


def test_who_asks_for_less_motion_sees_stills(browser: Browser, report: Path) -> None:
    page = browser.new_page(reduced_motion="reduce")
    page.goto(report.as_uri())
    page.wait_for_function(f"({STILL})([...document.querySelectorAll('#samples img')])")
    page.get_by_role("button", name="Play videos").click()
    assert page.locator("#samples img").evaluate_all(MOVING)
    page.close()


def test_without_scripts_nothing_is_offered_that_needs_them(browser: Browser, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert not page.get_by_text("Pause videos").is_visible()
    assert not page.get_by_text("Compare two subnets").is_visible()
    context.close()
