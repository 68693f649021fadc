"""Who is let in to an experiment of NNI: whoever has the token, and nothing of other sites."""

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from nasvid.errors import UserError
from nasvid.search.record import read_record
from nasvid_strategies.nni import config
from nasvid_strategies.nni.relay import Relay
from tests.processes import Started
from tests.strategies.nni.experiments import (
    check_against_record,
    finish,
    lines,
    managers,
    shown_at,
    start,
    trials,
)
from tests.strategies.nni.searching import search

pytestmark = pytest.mark.slow

HOST = "127.0.0.2"
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "ws_proxy", "HTTP_PROXY")


@dataclass(frozen=True)
class Running:
    """A search whose first evaluation waits for the file `hold`."""

    folder: Path
    address: str
    token: str
    process: Started

    @property
    def hold(self) -> Path:
        return self.folder / "hold"


@pytest.fixture(scope="module")
def running(free_port, tmp_path_factory) -> Iterator[Running]:
    """A search at an address beside loopback; a proxy would lead what it sends to nowhere."""
    folder, port = tmp_path_factory.mktemp("running"), free_port()
    env = dict.fromkeys(PROXIES, "http://127.0.0.1:9")
    options = {"tuner": "Random", "host": HOST, "port": port, "budget": 3}
    process = start(folder, env, **options, hold=str(folder / "hold"))
    address, token = shown_at(process)
    assert address == f"http://{HOST}:{port}"
    yield Running(folder, address, token, process)
    if process.poll() is None:
        process.kill()


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


def test_only_who_has_the_token_is_answered_and_no_other_site(running: Running):
    address, known = running.address, {"x_nasvid_token": running.token}
    port = address.rpartition(":")[2]
    assert status_of(address) == 403
    assert status_of(address, x_nasvid_token=running.token[:-1] + "~") == 403
    assert status_of(address, **known) == 200
    assert status_of(address, Origin=address, **known) == 200
    for origin in FOREIGN:
        assert status_of(address, Origin=origin, **known) == 403
        assert handshake(address, Origin=origin, **known) == 403
    for host in ("evil.example", f"evil.example:{port}", f"{HOST}.evil.example", "", "192.0.2.1"):
        assert status_of(address, Host=host, **known) == 403
        assert handshake(address, Host=host, **known) == 403
    assert status_of(address, Host="localhost:9999", **known) == 200  # through a tunnel
    assert handshake(address) == 403
    for path in ("experiment", "trial-jobs"):
        assert status_of(address, "POST", path, Content_Type="text/plain") == 403


def test_the_pages_are_at_the_address_and_at_loopback(running: Running):
    for address in (running.address, running.address.replace(HOST, "127.0.0.1")):
        page = f"{address}/api/v1/nni/check-status"
        status = requests.get(page, headers={"x-nasvid-token": running.token}, timeout=10).json()
        assert status["status"] == "RUNNING"


def test_the_address_gives_a_browser_its_cookie(running: Running):
    address, token = running.address, running.token
    with requests.Session() as browser:
        entry = browser.get(f"{address}//evil.example/?token={token}", timeout=10)
        assert 'content="0;url=/evil.example/"' in entry.text
        (cookie,) = browser.cookies
        assert (cookie.name, cookie.value) == (f"nasvid-{address.rpartition(':')[2]}", token)
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "Strict"
        assert browser.get(f"{address}/api/v1/nni/check-status", timeout=10).status_code == 200


def test_trials_that_others_make_up_do_not_end_the_search(running: Running):
    folder = running.folder
    known = {"x_nasvid_token": running.token, "Content_Type": "application/json"}
    assert lines(folder / "record.jsonl") == 0
    # As a person can on the page:
    assert status_of(running.address, "POST", "trial-jobs", **known) == 200
    relay, secret = (folder / "nni/relay").read_text().split()
    for hello in (b"\xff\xfe a b\n", f"{secret} made-up http://x\n".encode()):
        with socket.create_connection(("127.0.0.1", int(relay))) as stranger:
            stranger.sendall(hello)
    running.hold.touch()
    assert "WARNING" not in finish(running.process)
    records = read_record(folder / "record.jsonl")
    assert len(records) == 3
    check_against_record(folder, records)
    assert len(trials(folder)) == 4
    assert managers(folder) == []


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


def test_a_port_that_is_taken_is_one_message(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} is in use; choose another"):
            search(tmp_path, tuner="Random", port=port)
    assert managers(tmp_path) == []


def test_an_address_of_another_machine_is_one_message_at_once(tmp_path, free_port):
    with pytest.raises(UserError, match=r"host: nothing can listen on 203\.0\.113\.7: Cannot"):
        search(tmp_path, tuner="Random", host="203.0.113.7", port=free_port())


@pytest.mark.parametrize(
    ("host", "alone"),
    [("localhost", True), ("127.0.0.2", True), ("::1", True), ("0.0.0.0", False), ("box", False)],
)
def test_which_addresses_only_this_machine_reaches(host, alone):
    assert config.is_loopback(host) is alone
