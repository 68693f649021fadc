"""Real experiments of NNI: what they show, and that nothing of them is left behind."""

import json
import re
import runpy
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import requests

from nasvid.errors import Damaged, UserError
from nasvid.evaluation import Evaluation
from nasvid.host.files import NotWritten
from nasvid.search.record import read_record
from nasvid.strategy import RunContext, StrategySection
from nasvid.testing.toy import ToySpace
from nasvid_strategies.nni import binding, config
from nasvid_strategies.nni import trials as trials_module
from nasvid_strategies.nni.config import NNI_TUNERS, NniConfig
from nasvid_strategies.nni.relay import Relay

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("searching.py")
SMALL, WIDE = dict(ToySpace.of().smallest), dict(ToySpace.of().largest)
ARGUMENTS = {
    "Batch": {"architectures": [{"width": 2}, {"width": 4}, {"block.0": False}, {"width": 2}]},
    "Evolution": {"population_size": 4},
    "evolutionary": {"population": 4},
}


def search(folder: Path, **options):
    return runpy.run_path(str(SCRIPT))["search"](folder, **options)


def managers(folder: Path) -> list[psutil.Process]:
    """The processes that belong to a folder's experiment: NNI's manager and its trials."""
    found = []
    for process in psutil.process_iter(["cmdline", "cwd", "name"]):
        info = process.info
        words = " ".join(info["cmdline"] or [])
        if str(folder) in words or str(info["cwd"] or "").startswith(str(folder)):
            found.append(process)
    return [process for process in found if process.info["name"] in ("node", "bash")]


@pytest.fixture
def nothing_left(tmp_path) -> Iterator[None]:
    yield
    until = time.monotonic() + 20
    while managers(tmp_path) and time.monotonic() < until:
        time.sleep(0.1)
    assert managers(tmp_path) == []


def trials(folder: Path) -> dict[str, dict]:
    """What NNI's own database says of each trial: parameters, events, metrics."""
    (path,) = folder.glob("nni/[!_]*/db/nni.sqlite")
    with sqlite3.connect(path) as database:
        events = database.execute(
            "select trialJobId, event, data from TrialJobEvent where trialJobId != '' "
            "order by timestamp"
        ).fetchall()
        metrics = database.execute(
            "select trialJobId, type, sequence, data from MetricData order by timestamp, sequence"
        ).fetchall()
    found: dict[str, dict] = {}
    for trial, event, data in events:
        entry = found.setdefault(trial, {"events": [], "steps": [], "final": None})
        entry["events"].append(event)
        if data:
            entry["parameters"] = json.loads(data)["parameters"]
    for trial, kind, _, data in metrics:
        value = json.loads(json.loads(data))
        if kind == "FINAL":
            found[trial]["final"] = value
        else:
            found[trial]["steps"].append(value)
    return found


def check_against_record(folder: Path, records: list[Evaluation], objective: str = "loss") -> None:
    """Each evaluated architecture is one trial that succeeded, with its choices and its metrics."""
    shown = trials(folder)
    for record in records:
        trial = shown[record.about["trial"]]
        assert trial["events"][-1] == "SUCCEEDED"
        assert trial["parameters"] == dict(record.arch)
        assert trial["final"]["default"] == record.metrics[objective]
        assert {name: trial["final"][name] for name in record.metrics} == record.metrics
        sides = [name for name in record.metrics if name.startswith(f"{objective}@")]
        assert trial["steps"] == [record.metrics[name] for name in sides]
    assert len({record.about["trial"] for record in records}) == len(records)


@pytest.mark.parametrize(
    ("tuner", "concurrency"),
    [*((name, 1 + i % 2) for i, name in enumerate(NNI_TUNERS)), ("evolutionary", 2)],
)
def test_each_tuner_searches_and_every_trial_is_right(
    tmp_path, nothing_left, tuner, concurrency, free_port
):
    result = search(
        tmp_path,
        tuner=tuner,
        arguments=ARGUMENTS.get(tuner, {}),
        port=free_port(),
        concurrency=concurrency,
    )
    records = read_record(tmp_path / "record.jsonl")
    assert [r.arch for r in records] == [r.arch for r in result.evaluations]
    check_against_record(tmp_path, records)
    assert len(trials(tmp_path)) == len(records)
    if tuner == "Batch":
        named = [{**WIDE, **choices} for choices in ARGUMENTS["Batch"]["architectures"]]
        space = ToySpace.of()
        asked = [SMALL, WIDE, *(dict(space.architecture(choices)) for choices in named[:3])]
        assert [dict(record.arch) for record in records] == asked
        assert "nothing left to propose" in result.messages[0]
    else:
        assert len(records) == 7


def test_what_misses_a_constraint_ends_at_once_and_is_shown(tmp_path, nothing_left, free_port):
    options = {"tuner": "Random", "port": free_port(), "constraints": ("params <= 120",)}
    search(tmp_path, **options)
    records = read_record(tmp_path / "record.jsonl")
    assert len(records) == 7
    check_against_record(tmp_path, records)
    evaluated = {record.about["trial"] for record in records}
    refused = [trial for name, trial in trials(tmp_path).items() if name not in evaluated]
    assert len(refused) >= 3
    space = ToySpace.of()
    for trial in refused:
        assert trial["events"][-1] == "SUCCEEDED"
        assert trial["final"]["params"] > 120
        assert trial["final"]["violation"] == pytest.approx(trial["final"]["params"] / 120 - 1)
        assert trial["final"]["default"] > min(r.metrics["loss"] for r in records)
        assert space.architecture(trial["parameters"]) not in {r.arch for r in records}


def start(folder: Path, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, SCRIPT, folder, json.dumps(options)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def shown_at(process: subprocess.Popen) -> tuple[str, str]:
    """The address that a search prints, and the token in it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.fullmatch(r"nni: experiment \w+ at (http://[\w.]+:\d+)/\?token=([\w-]+)\n", line)
    assert found, line
    return found[1], found[2]


def wait_for(reached, process: subprocess.Popen) -> None:
    until = time.monotonic() + 60
    while not reached():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.01)


def lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def plain(folder: Path) -> list[tuple]:
    return [(r.arch, r.metrics) for r in read_record(folder / "record.jsonl")]


def test_a_killed_search_leaves_nothing_and_is_resumed_to_the_same_record(tmp_path, free_port):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir(), killed.mkdir()
    options = {"tuner": "TPE", "seconds": 0.3, "port": free_port(), "budget": 8}
    process = start(killed, **options)
    wait_for(lambda: lines(killed / "record.jsonl") == 4, process)
    assert managers(killed)
    process.kill()
    process.wait()
    until = time.monotonic() + 20
    while managers(killed):
        assert time.monotonic() < until, "the manager outlives the search"
        time.sleep(0.05)
    ended = start(killed, **options)
    said, _ = ended.communicate(timeout=90)
    assert ended.returncode == 0, said
    search(whole, **options | {"seconds": 0})
    assert plain(killed) == plain(whole)
    shown = trials(killed)
    records = read_record(killed / "record.jsonl")
    alive = [r for r in records if shown[r.about["trial"]]["events"][-1] == "SUCCEEDED"]
    assert len(alive) >= 7  # the trial of the last one before the kill may have died with it
    check_against_record(killed, alive)
    assert not managers(tmp_path)


def test_a_killed_trial_costs_only_its_line_in_the_ui(tmp_path, nothing_left, free_port):
    process = start(tmp_path, tuner="Random", seconds=1.5, port=free_port(), budget=5)
    evaluated: list[psutil.Process] = []

    def one_is_being_evaluated() -> bool:
        trials = [p for p in managers(tmp_path) if p.info["cmdline"][-1] == "trial.sh"]
        done = {r.about["trial"] for r in read_record(tmp_path / "record.jsonl")}
        with suppress(psutil.NoSuchProcess):  # one has just ended: look again
            new = [t for t in trials if t.environ()["NNI_TRIAL_JOB_ID"] not in done]
            evaluated[:] = [t for t in new if t.net_connections()]
        return bool(evaluated)

    wait_for(lambda: lines(tmp_path / "record.jsonl") == 2 and one_is_being_evaluated(), process)
    evaluated[0].send_signal(signal.SIGKILL)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    records = read_record(tmp_path / "record.jsonl")
    assert len(records) == 5
    states = [trial["events"][-1] for trial in trials(tmp_path).values()]
    assert states.count("SUCCEEDED") == 4
    assert len(states) == 5


def test_a_manager_that_dies_is_an_error_to_resume_from(tmp_path, nothing_left, free_port):
    options = {"tuner": "Random", "seconds": 0.3, "port": free_port(), "budget": 5}
    process = start(tmp_path, **options)
    wait_for(lambda: lines(tmp_path / "record.jsonl") == 2, process)
    pid = json.loads((tmp_path / "nni/experiment.json").read_text())["pid"]
    psutil.Process(pid).kill()
    said, _ = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "NNI's manager has ended; see " in said
    search(tmp_path, **options | {"seconds": 0})
    assert len(read_record(tmp_path / "record.jsonl")) == 5


def test_a_manager_that_was_left_is_ended_at_the_next_start(tmp_path, nothing_left, free_port):
    options = {"tuner": "Random", "port": free_port()}
    search(tmp_path, **options, budget=2)
    path = tmp_path / "nni/experiment.json"
    known = json.loads(path.read_text())
    idle = [sys.executable, "-c", "import time; time.sleep(300)", "--experiment-id"]
    left, other = (subprocess.Popen([*idle, word]) for word in (known["id"], "another"))
    path.write_text(json.dumps(known | {"pid": left.pid}))
    search(tmp_path, **options, budget=3)
    assert left.poll() is not None
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"pid": other.pid}))  # a number that was given again
    search(tmp_path, **options, budget=4)
    assert other.poll() is None
    other.kill()
    other.wait()


@pytest.mark.parametrize("pid", ["1", -1, 0, True, 10**30, [1]])
def test_a_process_that_is_none_is_damage_not_a_process(tmp_path, pid):
    (tmp_path / "experiment.json").write_text(json.dumps({"id": "abc", "pid": pid}))
    with pytest.raises(Damaged, match=r"experiment\.json is damaged \(its pid"):
        binding._end_stale(tmp_path)


def test_what_to_do_about_a_damaged_note_of_an_experiment_works(tmp_path, nothing_left, free_port):
    path = tmp_path / "nni/experiment.json"
    path.parent.mkdir()
    path.write_text("")
    options = {"tuner": "Random", "port": free_port(), "budget": 2}
    with pytest.raises(Damaged, match="delete it; the next search is a new experiment"):
        search(tmp_path, **options)
    path.unlink()
    search(tmp_path, **options)
    assert json.loads(path.read_text())["id"]


def test_two_at_once_do_not_disturb_each_other(tmp_path, nothing_left, free_port):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()
    both = [start(f, tuner="evolutionary", port=free_port(), seconds=0.2) for f in folders]
    wait_for(lambda: all(lines(folder / "record.jsonl") >= 2 for folder in folders), both[0])
    listening = [
        connection.laddr.ip
        for folder in folders
        for process in managers(folder)
        if process.info["name"] == "node"
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert len(listening) >= 2
    assert set(listening) == {"127.0.0.1"}
    for process in both:
        said, _ = process.communicate(timeout=90)
        assert process.returncode == 0, said
    assert plain(folders[0]) == plain(folders[1])
    for folder in folders:
        check_against_record(folder, read_record(folder / "record.jsonl"))


def test_a_full_disk_is_one_line_before_the_manager_starts(tmp_path, mounted, nothing_left):
    disk = mounted("size=64k")
    (disk / "other").write_bytes(bytes(64 * 1024))
    with pytest.raises(NotWritten, match=r"nni/trial\.sh cannot be written: No space left"):
        search(disk)
    assert [path for path in (disk / "nni").rglob("*") if path.is_file()] == []


def test_a_port_that_is_taken_is_one_message(tmp_path, nothing_left):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} is in use; choose another"):
            search(tmp_path, tuner="Random", port=port)


def test_an_address_beside_loopback_reaches_the_pages(tmp_path, nothing_left, free_port):
    port = free_port()
    process = start(tmp_path, tuner="Random", host="127.0.0.2", port=port, seconds=0.3)
    address, token = shown_at(process)
    assert address == f"http://127.0.0.2:{port}"
    wait_for(lambda: lines(tmp_path / "record.jsonl") >= 2, process)
    for host in ("127.0.0.1", "127.0.0.2"):
        page = f"http://{host}:{port}/api/v1/nni/check-status"
        status = requests.get(page, headers={"x-nasvid-token": token}, timeout=10).json()
        assert status["status"] == "RUNNING"
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert "WARNING" not in said


def test_an_address_that_others_reach_is_warned_of(tmp_path, nothing_left, free_port):
    said: list[str] = []
    options = {"host": "0.0.0.0", "port": free_port()}
    search(tmp_path, print_line=said.append, tuner="Random", budget=2, **options)
    assert "WARNING: the web UI listens on 0.0.0.0 without encryption" in said[0]
    warned = said[0]
    said.clear()
    section = StrategySection.model_validate({"name": "nni", **options})
    with section.page(RunContext("toy", tmp_path / "nni", said.append)):
        assert said == [warned]


def test_an_address_of_another_machine_is_one_message_at_once(tmp_path, free_port):
    with pytest.raises(UserError, match=r"host: nothing can listen on 203\.0\.113\.7: Cannot"):
        search(tmp_path, tuner="Random", host="203.0.113.7", port=free_port())


@pytest.mark.parametrize(
    ("host", "alone"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_which_addresses_only_this_machine_reaches(host, alone):
    assert config.is_loopback(host) is alone


def test_a_stranger_gets_no_trial(tmp_path):
    relay = Relay(tmp_path)
    port, secret = (tmp_path / "relay").read_text().split()
    assert (tmp_path / "relay").stat().st_mode & 0o077 == 0
    for hello in (
        b"guess trial http://x\n",
        "gu\u00e9ss trial http://x\n".encode(),
        f"{secret} too few\n".encode()[:-5] + b"\n",
        b"\n",
    ):
        with socket.create_connection(("127.0.0.1", int(port))) as stranger:
            stranger.sendall(hello)
            assert stranger.recv(10) == b""
    with socket.create_connection(("127.0.0.1", int(port))) as friend:
        friend.sendall(f"{secret} trial http://x\n".encode())
        waiting = relay.waiting.get(timeout=5)
        assert (waiting.trial, waiting.channel) == ("trial", "http://x")
        assert waiting.end(0, "fine")
        assert friend.recv(100) == b"0 fine\n"
    relay.close()


def status_of(address: str, method: str = "GET", path: str = "check-status", **headers: str) -> int:
    """Send a request past all of a client's own rules; return the status of the answer."""
    url = f"{address}/api/v1/nni/{path}"
    request = requests.Request(method, url, data='{"x": 1}' if method == "POST" else None).prepare()
    for name, value in headers.items():
        request.headers[name.replace("_", "-")] = value
    return requests.Session().send(request, timeout=10).status_code


def handshake(address: str, **headers: str) -> int:
    """The same for a websocket: what the handshake is answered with."""
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec_WebSocket_Version": "13",
        "Sec_WebSocket_Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    return status_of(address, path="../../../tuner", **upgrade, **headers)


FOREIGN = ("http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1.evil.example")


def test_only_who_has_the_token_is_answered_and_no_other_site(tmp_path, nothing_left, free_port):
    port = free_port()
    process = start(tmp_path, tuner="Random", port=port, seconds=1.0, budget=5)
    address, token = shown_at(process)
    known = {"x_nasvid_token": token}
    assert status_of(address) == 403
    assert status_of(address, x_nasvid_token=token[:-1] + "~") == 403
    assert status_of(address, **known) == 200
    assert status_of(address, Origin=address, **known) == 200
    for origin in FOREIGN:
        assert status_of(address, Origin=origin, **known) == 403
        assert handshake(address, Origin=origin, **known) == 403
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "", "192.0.2.1"):
        assert status_of(address, Host=host, **known) == 403
        assert handshake(address, Host=host, **known) == 403
    assert status_of(address, Host="localhost:9999", **known) == 200  # through a tunnel
    assert handshake(address) == 403
    for path in ("experiment", "trial-jobs"):
        assert status_of(address, "POST", path, Content_Type="text/plain") == 403
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    assert len(read_record(tmp_path / "record.jsonl")) == 5
    assert len(trials(tmp_path)) == 5


def test_the_address_gives_a_browser_its_cookie(tmp_path, nothing_left, free_port):
    port = free_port()
    process = start(tmp_path, tuner="Random", port=port, seconds=1.0, budget=3)
    address, token = shown_at(process)
    with requests.Session() as browser:
        entry = browser.get(f"{address}//evil.example/?token={token}", timeout=10)
        assert 'content="0;url=/evil.example/"' in entry.text
        (cookie,) = browser.cookies
        assert (cookie.name, cookie.value) == (f"nasvid-{port}", token)
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "Strict"
        assert browser.get(f"{address}/api/v1/nni/check-status", timeout=10).status_code == 200
    process.communicate(timeout=90)


def test_trials_that_others_make_up_do_not_end_the_search(tmp_path, nothing_left, free_port):
    process = start(tmp_path, tuner="Random", port=free_port(), seconds=1.0, budget=5)
    address, token = shown_at(process)
    wait_for(lambda: lines(tmp_path / "record.jsonl") >= 1, process)
    known = {"x_nasvid_token": token, "Content_Type": "application/json"}
    assert status_of(address, "POST", "trial-jobs", **known) == 200  # as a person can on the page
    relay, secret = (tmp_path / "nni/relay").read_text().split()
    for hello in (b"\xff\xfe a b\n", f"{secret} made-up http://x\n".encode()):
        with socket.create_connection(("127.0.0.1", int(relay))) as stranger:
            stranger.sendall(hello)
    said, _ = process.communicate(timeout=90)
    assert process.returncode == 0, said
    records = read_record(tmp_path / "record.jsonl")
    assert len(records) == 5
    check_against_record(tmp_path, records)
    assert len(trials(tmp_path)) == 6


def test_a_trial_that_does_not_begin_is_an_error(tmp_path, nothing_left, free_port, monkeypatch):
    monkeypatch.setattr(trials_module, "BEGIN_SECONDS", 5.0)
    monkeypatch.setattr(binding.Manager, "send_trial", lambda self, number, parameters: None)
    with pytest.raises(UserError, match=r"NNI has not started the trial of \w+ within 5 seconds"):
        search(tmp_path, tuner="Random", port=free_port())


def test_a_search_that_was_moved_goes_on_and_runs_only_its_own_trials(
    tmp_path, nothing_left, free_port
):
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    options = {"tuner": "Random", "port": free_port()}
    search(old, **options, budget=3)
    old.rename(new)
    section = StrategySection.model_validate({"name": "nni", **options})
    with section.page(RunContext("toy", new / "nni", print)) as address:
        assert requests.get(address, timeout=10).status_code == 200
    search(new, **options, budget=5)
    assert len(read_record(new / "record.jsonl")) == 5
    known = json.loads((new / "nni/experiment.json").read_text())["id"]
    assert binding._is_own(new / "nni", known)
    with sqlite3.connect(new / "nni" / known / "db/nni.sqlite") as database:
        database.execute(
            "update ExperimentProfile set params = replace(params, 'bash trial.sh', 'touch evil')"
        )
    assert not binding._is_own(new / "nni", known)


def test_no_request_to_this_machine_goes_through_a_proxy(
    tmp_path, nothing_left, free_port, monkeypatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    search(tmp_path, tuner="Random", port=free_port(), budget=2)
    assert len(read_record(tmp_path / "record.jsonl")) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuner": "GP"}, "fails with current scipy"),
        ({"tuner": "Anneal"}, "would hang"),
        ({"tuner": "TPES"}, "did you mean 'TPE'"),
        ({"tuner": "nni"}, "unknown tuner 'nni'"),
        ({"tuner": "Batch"}, "architectures"),
        ({"tuner": "evolutionary", "arguments": {"populaton": 3}}, "populaton"),
        ({"port": 0}, "port"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_reason(options, said):
    with pytest.raises(ValueError, match=said):
        NniConfig.model_validate(options)


def test_arguments_that_a_tuner_does_not_take(tmp_path, free_port):
    with pytest.raises(UserError, match=r"NNI's TPE tuner .*speed"):
        search(tmp_path, tuner="TPE", arguments={"speed": 3}, port=free_port())


def test_tpe_still_learns_when_it_has_found_what_is_good():
    space = {f"choice.{i}": {"_type": "choice", "_value": [0, 1]} for i in range(20)}
    tuner = binding.make_tuner("TPE", {}, space, seed=0)
    values = []
    for number in range(80):
        parameters = binding.propose(tuner, number)
        values.append(20.0 - sum(parameters.values()))
        tuner.receive_trial_result(number, parameters, {"default": values[-1]})
        tuner.trial_end(number, True)
    assert statistics.mean(values[:20]) > 8
    assert statistics.mean(values[-20:]) < 4


def test_without_nni_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(config, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'nasvid\[nni\]'"):
        NniConfig()
