import json
import subprocess
import sys

import pytest

from nasvid.architecture import Architecture, Choice

MIXED = {"width": 64, "on": True, "ratio": 0.5, "norm": "group"}


def test_a_choice_finds_its_options():
    choice = Choice("width", (32, 64, 128))
    assert [choice.index(width) for width in (32, 64, 128)] == [0, 1, 2]


def test_a_choice_names_itself_and_its_options_when_it_refuses():
    with pytest.raises(ValueError, match=r"96 is not one of 32, 64, 128 \(choice 'down.1.width'\)"):
        Choice("down.1.width", (32, 64, 128)).index(96)


@pytest.mark.parametrize(("options", "wrong"), [((0, 1), True), ((False, True), 1), ((1, 2), "1")])
def test_a_choice_does_not_take_a_truth_for_a_number(options, wrong):
    with pytest.raises(ValueError, match="is not one of"):
        Choice("c", options).index(wrong)


def test_a_choice_has_options_no_two_alike():
    with pytest.raises(ValueError, match="Choice 'c' has no options"):
        Choice("c", ())
    with pytest.raises(ValueError, match="Choice 'c' has duplicate options"):
        Choice("c", (1, 2, 1))


def test_an_architecture_is_its_options_in_any_order():
    a, b = Architecture(MIXED), Architecture(dict(reversed(MIXED.items())))
    assert a == b
    assert hash(a) == hash(b)
    assert a.id == b.id
    assert dict(a) == MIXED
    assert a != MIXED
    assert a != Architecture(MIXED | {"width": 32})
    assert Architecture({"on": 1}) != Architecture({"on": True})


def test_an_architecture_does_not_change_with_the_mapping_it_was_made_of():
    options = dict(MIXED)
    arch = Architecture(options)
    options["width"] = 1
    assert arch["width"] == 64


def test_json_gives_the_same_architecture():
    arch = Architecture(MIXED)
    assert Architecture.from_json(arch.to_json()) == arch
    assert json.loads(arch.to_json()) == MIXED


@pytest.mark.parametrize("text", ["[1]", '{"a": [1]}', '{"a": null}', "{", ""])
def test_json_of_anything_else_is_an_error(text):
    with pytest.raises(ValueError, match=r"Not an architecture|Expecting"):
        Architecture.from_json(text)


def test_ids_are_the_same_in_every_process():
    script = f"from nasvid.architecture import Architecture; print(Architecture({MIXED}).id)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == Architecture(MIXED).id
    assert len(Architecture(MIXED).id) == 12


def test_repr_says_it_all():
    arch = Architecture(MIXED)
    assert repr(arch).startswith(f"Architecture({arch.id}: ")
    assert all(f"{name}={json.dumps(option)}" in repr(arch) for name, option in MIXED.items())
