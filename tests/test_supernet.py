import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from nasvid import supernet as module_under_test
from nasvid.architecture import Choice
from nasvid.plugins.config import Config
from nasvid.shapes import Domain
from nasvid.slices import Segments
from nasvid.space import SearchSpace
from nasvid.supernet import Supernet
from nasvid.testing.steps import gradients, noisy_clips, step
from nasvid.testing.toy import SHAPES, SMALL, ToySpace


@pytest.fixture
def space() -> ToySpace:
    return ToySpace.of()


@pytest.fixture
def supernet(space) -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Supernet(space)


@pytest.fixture
def inputs(space):
    return noisy_clips(space, SHAPES[SMALL])


@pytest.fixture
def arch(space):
    options = {choice.name: choice.options[-1] for choice in space.choices}
    return space.architecture(options | {"width": 4, "block.0": False, "block.1.hidden": 2})


class Line(nn.Module):
    """Layers of any width with a fused pair and a buffer: what the toy does not have."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pair = nn.Linear(7, 2 * width)
        self.out = nn.Linear(width, width)
        self.register_buffer("gain", torch.linspace(1, 2, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.pair(x).chunk(2, dim=-1)
        return self.out(a * b.tanh()) * self.gain


class LineSpace(SearchSpace):
    WIDTHS = tuple(range(1, 65))

    def make_choices(self):
        return [Choice("width", self.WIDTHS)]

    def build(self, arch):
        return Line(arch["width"])

    def slice_rules(self, arch):
        width, full = arch["width"], self.WIDTHS[-1]
        halves = Segments((0, width), (full, full + width))
        return {"pair.weight": {0: halves}, "pair.bias": {0: halves}}


@pytest.fixture
def lines() -> Supernet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Supernet(LineSpace(Config(), Domain()))


def test_it_is_exact_at_every_width(lines):
    """Also where a view would be exact but for how kernels round strided matrices."""
    x = torch.randn(33, 7, generator=torch.Generator().manual_seed(0))
    for width in LineSpace.WIDTHS:
        arch = lines.space.architecture({"width": width})
        subnet, extracted = lines.subnet(arch), lines.extract(arch)
        lines.net.zero_grad()
        for model in (subnet, extracted):
            model(x).square().sum().backward()
        where = lines.slices(arch)
        for name, grad in gradients(extracted).items():
            shared = lines.net.get_parameter(name).grad
            assert torch.equal(where[name].gather(shared), grad), f"{name} at width {width}"
        assert torch.equal(subnet(x), extracted(x))


def test_buffers_are_sliced_too(lines):
    arch = lines.space.architecture({"width": 5})
    for model in (lines.subnet(arch), lines.extract(arch)):
        assert torch.equal(model.gain, lines.net.gain[:5])
    lines.net.gain.mul_(2)
    assert torch.equal(lines.subnet(arch).gain, lines.net.gain[:5])


def test_gradients_are_autograds_own(supernet, space, inputs, arch):
    """Against indexing the shared parameters inside the graph, in double precision."""
    supernet.net.double()
    inputs = type(inputs)(
        inputs.sample.double(),
        inputs.timestep,
        inputs.context.double(),
        inputs.context_mask,
        inputs.fps.double(),
    )
    where = supernet.slices(arch)
    shared = {name: supernet.net.get_parameter(name).detach().requires_grad_() for name in where}
    index = {name: slices.blocks()[0][0] for name, slices in where.items()}
    skeleton = space.build(arch).double()
    prediction = functional_call(
        skeleton,
        {name: tensor[index[name]] for name, tensor in shared.items()},
        (inputs.sample, inputs.timestep, inputs.context, inputs.context_mask, inputs.fps),
    )
    (prediction * inputs.sample).mean().backward()
    assert torch.allclose(step(space, supernet.subnet(arch), inputs), prediction)
    for name, tensor in shared.items():
        assert torch.allclose(supernet.net.get_parameter(name).grad, tensor.grad), name


def test_a_subnet_has_no_weights_of_its_own(supernet, arch):
    """But copies of matrices; and the shared parameter itself where all of it is used."""
    net, subnet = supernet.net, supernet.subnet(arch)
    assert subnet.time.bias.data_ptr() == net.time.bias.data_ptr()
    assert subnet.stem.weight.data_ptr() == net.stem.weight.data_ptr()
    assert subnet.head.bias is net.head.bias
    assert supernet.subnet(supernet.space.largest).stem.weight is net.stem.weight


def test_frozen_weights_stay_frozen(supernet, space, inputs, arch):
    before = supernet.subnet(arch)
    supernet.net.stem.requires_grad_(False)
    subnet = supernet.subnet(arch)
    assert subnet is not before
    step(space, subnet, inputs)
    assert supernet.net.stem.weight.grad is None
    assert supernet.net.head.weight.grad is not None


def test_a_subnet_is_in_the_mode_of_the_net(supernet, arch):
    for mode in (True, False, True):
        supernet.net.train(mode)
        assert supernet.subnet(arch).training == supernet.extract(arch).training == mode


def test_a_subnet_first_taken_for_inference_can_be_trained(lines):
    arch, x = lines.space.architecture({"width": 5}), torch.ones(1, 7)
    with torch.inference_mode():
        subnet = lines.subnet(arch)
        expected = subnet(x)
    assert lines.subnet(arch) is subnet
    assert torch.equal(subnet(x), expected)
    subnet(x).sum().backward()
    assert gradients(lines.net)


def test_a_subnet_is_kept(supernet, arch):
    assert supernet.subnet(arch) is supernet.subnet(arch)


def test_what_was_asked_for_last_is_kept(supernet, space, monkeypatch):
    monkeypatch.setattr(module_under_test, "KEPT_SUBNETS", 3)
    rng = np.random.default_rng(0)
    a, b, c, d = sorted({space.sample(rng) for _ in range(20)}, key=lambda arch: arch.id)[:4]
    first = {arch: supernet.subnet(arch) for arch in (a, b, c)}
    assert supernet.subnet(a) is first[a]
    supernet.subnet(d)
    assert supernet.subnet(a) is first[a]
    assert supernet.subnet(b) is not first[b]


def test_copies_are_not_kept_without_bound(lines):
    """All 64 widths would take twenty times the memory of the net."""
    for width in LineSpace.WIDTHS[:-1]:
        lines.subnet(lines.space.architecture({"width": width}))
    kept = lines._local.cached.values()
    assert 1 <= len(kept) < 20
    net = sum(parameter.nbytes for parameter in lines.net.parameters())
    assert sum(subnet.copied for subnet in kept) <= 2 * net


@pytest.mark.parametrize("change", [lambda net: net.double(), lambda net: net.to(torch.bfloat16)])
def test_a_conversion_makes_old_subnets_say_so(supernet, space, inputs, arch, change):
    old = supernet.subnet(arch)
    change(supernet.net)
    with pytest.raises(RuntimeError, match=r"was replaced after subnet .* was made"):
        space.denoise(old, inputs)
    new = supernet.subnet(arch)
    assert new is not old
    assert {p.dtype for p in new.parameters()} == {p.dtype for p in supernet.net.parameters()}


def test_new_storage_makes_old_subnets_say_so(supernet, space, inputs, arch):
    """As when an engine moves the weights into a flat buffer."""
    old = supernet.subnet(arch)
    for parameter in supernet.net.parameters():
        parameter.data = parameter.data.clone()
    with pytest.raises(RuntimeError, match="get the subnet again"):
        space.denoise(old, inputs)
    expected = space.denoise(supernet.extract(arch), inputs)
    assert torch.equal(space.denoise(supernet.subnet(arch), inputs), expected)


def test_threads_do_not_meet(supernet, space, inputs):
    """Each has modules of its own, whose predictions are those of one thread alone."""
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(8)]
    expected = [space.denoise(supernet.extract(arch), inputs) for arch in archs]
    found: dict[int, list[tuple[nn.Module, bool]]] = {}

    def work(thread: int) -> None:
        rows = []
        for _ in range(5):
            for arch, wanted in zip(archs, expected, strict=True):
                subnet = supernet.subnet(arch)
                rows.append((subnet, torch.equal(space.denoise(subnet, inputs), wanted)))
        found[thread] = rows

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(equal for rows in found.values() for _, equal in rows)
    modules = [{id(subnet) for subnet, _ in rows} for rows in found.values()]
    assert len(modules) == 3
    assert not set.intersection(*modules)


def test_names_that_the_supernet_lacks_are_errors(space, arch):
    other = Supernet(space, nn.Sequential(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"no tensor 'stem\.weight'"):
        other.subnet(arch)
    net = space.build(space.largest)
    del net.stem.bias
    with pytest.raises(ValueError, match=r"no tensor 'stem\.bias'"):
        Supernet(space, net).extract(arch)


def test_a_rule_for_what_is_not_there_is_an_error(supernet, space, arch):
    space.slice_rules = lambda arch: {"blocks.0.0.weight": {0: Segments((0, 1))}}
    with pytest.raises(ValueError, match=r"slice rule for 'blocks\.0\.0\.weight', but no such"):
        supernet.slices(arch)


def test_a_largest_that_does_not_hold_a_subnet_is_an_error(space, arch):
    small = Supernet(space, space.build(space.smallest))
    with pytest.raises(ValueError, match=r"dimension \d keeps \d of 2|has no tensor"):
        small.subnet(arch)


def test_tied_weights_are_refused_with_both_names() -> None:
    net = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    net["b"].weight = net["a"].weight
    with pytest.raises(ValueError, match=r"'a\.weight' and 'b\.weight' are the same parameter"):
        Supernet(ToySpace.of(), net)


class Placed(nn.Module):
    """A table of positions that depends on the width, which no checkpoint holds."""

    def __init__(self, width: int, table=torch.linspace) -> None:
        super().__init__()
        self.out = nn.Linear(width, 3)
        self.register_buffer("positions", table(0, 1, width), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x[..., None] * self.positions)


class PlacedSpace(SearchSpace):
    table = staticmethod(torch.linspace)

    def make_choices(self):
        return [Choice("width", (2, 3, 5))]

    def build(self, arch):
        return Placed(arch["width"], self.table)


def test_buffers_that_no_checkpoint_holds_are_each_networks_own():
    supernet = Supernet(PlacedSpace(Config(), Domain()))
    before = torch.get_rng_state()
    for width in (2, 3, 5):
        arch = supernet.space.architecture({"width": width})
        assert supernet.subnet(arch).positions.tolist() == torch.linspace(0, 1, width).tolist()
        assert set(supernet.slices(arch)) == {"out.weight", "out.bias"}
        x = torch.randn(4)
        assert torch.equal(supernet.subnet(arch)(x), supernet.extract(arch)(x))
        fresh = supernet.space.build(arch)
        fresh.load_state_dict(supernet.extract(arch).state_dict())
        assert torch.equal(fresh(x), supernet.extract(arch)(x))
    torch.set_rng_state(before)
    supernet.subnet(supernet.space.smallest)
    assert torch.equal(torch.get_rng_state(), before)


def test_own_buffers_follow_the_weights():
    supernet = Supernet(PlacedSpace(Config(), Domain()))
    assert supernet.subnet(supernet.space.largest).positions.dtype == torch.float32
    supernet.net.double()
    for arch in (supernet.space.largest, supernet.space.smallest):
        assert supernet.subnet(arch).positions.dtype == torch.float64


def test_own_buffers_without_values_are_an_error():
    class EmptySpace(PlacedSpace):
        table = staticmethod(lambda start, stop, count: torch.empty(count).fill_(1))

    supernet = Supernet(EmptySpace(Config(), Domain()))
    with pytest.raises(ValueError, match=r"Buffer 'positions' of \w+ has no values"):
        supernet.subnet(supernet.space.smallest)
