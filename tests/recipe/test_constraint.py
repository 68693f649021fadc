import numpy as np
import pytest

from nasvid.recipe.constraint import Constraint


@pytest.mark.parametrize(
    ("text", "metric", "relation", "bound"),
    [
        ("params <= 900e6", "params", "<=", 900e6),
        ("loss@64<0.2", "loss@64", "<", 0.2),
        ("  accuracy >= .5 ", "accuracy", ">=", 0.5),
        ("shift > -1.5e-3", "shift", ">", -1.5e-3),
    ],
)
def test_reads_what_people_write(text: str, metric: str, relation: str, bound: float) -> None:
    assert Constraint.parse(text) == Constraint(metric, relation, bound)
    assert Constraint.parse(str(Constraint.parse(text))) == Constraint.parse(text)


@pytest.mark.parametrize(
    "text",
    ["params", "params = 3", "params <= lots", "3 <= params", "a<b<3", "a < 3%%", "a < 1e999"],
)
def test_anything_else_is_an_error_that_shows_the_form(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a constraint; .*'params <= 900e6'"):
        Constraint.parse(text)


def test_a_percentage_is_of_a_reference() -> None:
    constraint = Constraint.parse("params<=62.5 %")
    assert str(constraint) == "params <= 62.5%"
    assert Constraint.parse(str(constraint)).percent == 62.5
    bound = constraint.relative_to(800.0)
    assert str(bound) == "params <= 62.5%"
    assert bound.violation(500) == 0
    assert bound.violation(600) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"'x <= 60%': x has no reference .* write a number"):
        Constraint.parse("x <= 60%").relative_to(None)


def test_violation_is_relative_to_the_bound() -> None:
    assert Constraint.parse("params <= 200").violation(300) == pytest.approx(0.5)
    assert Constraint.parse("score >= 0.8").violation(0.6) == pytest.approx(0.25)


def test_a_bound_itself_holds_unless_strict() -> None:
    assert Constraint.parse("x <= 2").violation(2) == 0
    assert Constraint.parse("x >= 2").violation(2) == 0
    assert Constraint.parse("x < 2").violation(2) > 0
    assert Constraint.parse("x > 2").violation(2) > 0


def test_many_values_are_each_evaluated_as_one() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0, np.nan, np.inf, -np.inf])
    for text in ("x <= 2", "x < 2", "x >= 2", "x > 2", "x < 0", "x <= -1"):
        constraint = Constraint.parse(text)
        assert constraint.violation(values).tolist() == [constraint.violation(v) for v in values]


def test_what_is_not_a_number_satisfies_nothing() -> None:
    for relation in ("<", "<=", ">", ">="):
        assert Constraint("x", relation, 1.0).violation(np.nan) == np.inf
