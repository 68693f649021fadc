import pytest

from nasvid.errors import UserError
from nasvid.host.cards import CARDS, Devices, known_card
from nasvid.planning.devices import NETWORK, parse_devices


@pytest.mark.parametrize(
    ("text", "count", "memory"),
    [
        ("8", 8, None),
        ("80GB", 1, 80 * 10**9),
        ("8x80GB", 8, 80 * 10**9),
        ("2x1.5GiB", 2, 3 * 2**29),
        ("A100", 1, 80 * 10**9),
        ("4xA100-40GB", 4, 40 * 10**9),
        ("8xh200", 8, 141 * 10**9),
    ],
)
def test_devices_are_a_number_a_memory_or_a_card(text: str, count: int, memory: int | None) -> None:
    devices = parse_devices(text)
    assert (devices.count, devices.memory) == (count, memory)


def test_a_card_brings_its_peaks_and_bandwidth() -> None:
    devices = parse_devices("8xH100")
    assert devices.name == "H100"
    assert (devices.peak("bf16"), devices.peak("fp16")) == (989e12, 989e12)
    assert devices.peak("fp32") == 67e12
    assert devices.bandwidth == CARDS["H100"].bandwidth


def test_several_nodes_send_over_the_network() -> None:
    assert parse_devices("16xH100").bandwidth == NETWORK
    assert parse_devices("16xH100", bandwidth="50GB/s").bandwidth == 50e9


@pytest.mark.parametrize(
    ("flops", "bandwidth", "peak", "sent"),
    [
        ("990TFLOPS", "450GB/s", 990e12, 450e9),
        ("990TFLOP/s", "450GB/s", 990e12, 450e9),
        ("990e12", "400Gb/s", 990e12, 50e9),
        ("1.5 PFLOP/s", "25e9", 1.5e15, 25e9),
    ],
)
def test_others_are_described(flops: str, bandwidth: str, peak: float, sent: float) -> None:
    devices = parse_devices("8x80GB", flops=flops, bandwidth=bandwidth)
    assert devices == Devices(8, 80 * 10**9, peak, peak, sent)


@pytest.mark.parametrize(
    "text",
    [
        "0",
        "0x80GB",
        "8x0GB",
        "H100-0.0GiB",
        "8x",
        "x8",
        "-1",
        "80TB",
        "H1000",
        "",
        "²",
        "1e9",
        "9" * 5000,
        "9" * 20 + "xH100",
        "8x" + "9" * 400 + "GB",
    ],
)
def test_what_is_no_device_is_said(text: str) -> None:
    with pytest.raises(UserError, match="--devices"):
        parse_devices(text)


@pytest.mark.parametrize("text", ["fast", "0", "1e12x", "-5GB/s", "450GB/h", "1e999", "9" * 400])
def test_what_is_no_quantity_is_said(text: str) -> None:
    with pytest.raises(UserError, match="--flops"):
        parse_devices("8", flops=text)
    with pytest.raises(UserError, match="--bandwidth"):
        parse_devices("8", bandwidth=text)


def test_cards_are_known_by_what_their_driver_calls_them() -> None:
    for name, card in (
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA GeForce RTX 4090", "RTX4090"),
    ):
        found = known_card(name)
        assert found is not None
        assert found.name == card
    assert known_card("Tesla T4") is None
