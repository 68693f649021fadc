"""A run whose search is watched: the live pages of NNI in a browser, against the record."""

import json
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from playwright.sync_api import Page, sync_playwright

from nasvid.evaluation import Evaluation
from nasvid.search.record import read_record
from tests.processes import Started, nasvid

pytestmark = pytest.mark.slow

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
QUIET = ["--disable-background-networking", "--disable-component-update", "--disable-sync"]


@pytest.fixture(scope="module")
def watched(tiny, free_port, tmp_path_factory) -> Iterator[tuple[Path, str]]:
    """A finished run that keeps its pages up; afterwards nothing of it is left."""
    folder = tmp_path_factory.mktemp("watched")
    port = free_port()
    strategy = {"name": "nni", "tuner": "TPE", "port": port, "concurrency": 2}
    recipe = tiny(
        name="watched",
        training={"steps": 4, "learning_rate": 1e-3},
        search={"strategy": strategy, "budget": 5, "clips": 8},
        front={"subnets": 2, "evaluators": []},
    )
    (folder / "recipe.yaml").write_text(recipe)
    command = ["run", folder / "recipe.yaml", "--out", folder / "run", "--keep-ui"]
    process = Started(folder / "said", nasvid, *command)
    process.wait_for(lambda: "Press Ctrl-C" in process.said)
    (address,) = re.findall(r"The search is shown at (\S+)", process.said)
    assert address.startswith(f"http://127.0.0.1:{port}/?token=")
    yield folder / "run", address
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0, process.said
    _, left = psutil.wait_procs(children, timeout=5)
    assert left == []


@pytest.fixture(scope="module")
def page(watched) -> Iterator[Page]:
    path = shutil.which("chromium")
    if path is None:
        pytest.fail("NNI's pages are tested in a browser: install chromium so that it is on PATH")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS + QUIET)
        context = browser.new_context(viewport={"width": 1400, "height": 1000})
        page = context.new_page()
        page.goto(watched[1])
        page.wait_for_url(lambda url: "token" not in url)  # the page leaves the address for good
        yield page
        browser.close()


def records(run: Path) -> list[Evaluation]:
    return read_record(run / "search/record.jsonl")


def test_the_overview_shows_that_all_succeeded_and_the_best(watched, page):
    run, address = watched
    page.goto(address.partition("?")[0] + "oview")
    page.wait_for_selector("text=Trial numbers", timeout=20_000)
    best = min(record.metrics["loss"] for record in records(run))
    page.wait_for_selector("text=SUCCEEDED", timeout=20_000)
    text = page.inner_text("body")
    (shown,) = re.findall(r"([\d.]+)\s+Best metric", text)
    assert float(shown) == pytest.approx(best, abs=1e-6)
    assert re.search(r"Succeeded\s+5\b", text), text
    assert re.search(r"Failed\s+0\b", text)
    assert "watched" in text


def test_each_trials_detail_shows_its_choices_and_metrics(watched, page):
    run, address = watched
    server = address.partition("?")[0]
    page.goto(server + "detail")
    page.wait_for_selector("text=Trial jobs", timeout=20_000)
    for record in records(run):
        trial = record.about["trial"]
        row = page.locator(".ms-DetailsRow", has_text=trial)
        row.wait_for(timeout=20_000)
        assert f"{record.metrics['loss']:g} (FINAL)" in row.inner_text()
        row.locator("i.cursor").click()
        page.wait_for_selector("text=Copy as json", timeout=20_000)
        choices = {
            f"{name}:{json.dumps(option).removesuffix('.0')}"  # JavaScript writes 1.0 as 1
            for name, option in record.arch.items()
        }
        assert choices <= {line.strip() for line in page.inner_text("body").splitlines()}
        row.locator("i.cursor").click()
        page.wait_for_selector("text=Copy as json", state="detached", timeout=20_000)
        shown = page.request.get(f"{server}api/v1/nni/trial-jobs/{trial}").json()
        parameters = json.loads(shown["hyperParameters"][0])["parameters"]
        assert parameters == dict(record.arch)
        final = json.loads(json.loads(shown["finalMetricData"][0]["data"]))
        assert final["default"] == record.metrics["loss"]
        assert {name: final[name] for name in record.metrics} == record.metrics


def test_the_report_names_the_experiment_and_how_to_look_at_it(watched):
    run, _ = watched
    known = json.loads((run / "search/nni/experiment.json").read_text())
    page = (run / "report.html").read_text()
    assert known["id"] in page
    assert f"nasvid nni view {run}" in page


def test_only_loopback_can_reach_the_pages(watched):
    port = urlsplit(watched[1]).port
    listening = [
        connection.laddr.ip
        for connection in psutil.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port
    ]
    assert listening == ["127.0.0.1"]


def test_the_address_leads_to_the_pages_and_the_token_leaves_it(watched, page):
    page.goto(watched[1])
    page.wait_for_url(lambda url: "token" not in url)
    page.wait_for_selector("text=Trial numbers", timeout=20_000)
    assert "token" not in page.url
    assert page.evaluate("document.cookie") == ""


def test_a_page_of_another_site_gets_no_answer_and_sends_no_command(watched, page):
    """A page at another address of this machine, in the browser that has the cookie."""
    _, address = watched
    server = address.partition("?")[0]
    with page.context.new_page() as other, _elsewhere() as site:
        other.goto(site)
        script = """async ([url, type]) => {
            const sent = {method: 'POST', mode: 'no-cors', body: '{}', credentials: 'include',
                          headers: {'Content-Type': type}};
            return (await fetch(url, sent)).type;
        }"""
        answers: list[int] = []
        other.on("response", lambda response: answers.append(response.status))
        for path in ("experiment", "trial-jobs"):
            url = f"{server}api/v1/nni/{path}"
            assert other.evaluate(script, [url, "text/plain"]) == "opaque"
        assert answers == [403, 403]
        socket = """url => new Promise(done => {
            const opened = new WebSocket(url);
            opened.onopen = () => done('open');
            opened.onerror = () => done('refused');
        })"""
        assert other.evaluate(socket, server.replace("http", "ws") + "tuner") == "refused"


@contextmanager
def _elsewhere() -> Iterator[str]:
    """A site on loopback with an empty page."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def test_a_finished_search_is_shown_again(watched, free_port):
    (run, _), port = watched, free_port()
    again = run.parent / "again"
    shutil.copytree(run, again, symlinks=True)
    process = Started(run.parent / "viewed", nasvid, "nni", "view", again, "--port", port)
    process.wait_for(lambda: "\n" in process.said)
    assert process.said.startswith(f"The search is shown at http://127.0.0.1:{port}/?token=")
    refused = Started(run.parent / "refused", nasvid, "nni", "view", run, "--port", port)
    assert refused.wait() == 2
    assert f"Port {port} is in use; choose another with --port" in refused.said
    children = psutil.Process(process.pid).children()
    process.kill()
    _, left = psutil.wait_procs(children, timeout=5)
    assert left == [], "the page outlives the process that shows it"
