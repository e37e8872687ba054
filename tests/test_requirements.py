"""Requirement expressions: parsed without evaluating anything, with the bound itself allowed."""

from __future__ import annotations

import pytest

from autoprune.errors import ConfigError, UnknownNameError
from autoprune.requirements import parse_requirement


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("accuracy>=0.93", "accuracy>=0.93"),
        (" accuracy >= .93 ", "accuracy>=0.93"),
        ("latency_ms<=1e-3", "latency_ms<=0.001"),
        ("AP50>=-5", "AP50>=-5"),
    ],
)
def test_spellings_of_one_requirement_are_one_text(text: str, canonical: str) -> None:
    assert parse_requirement(text).text == canonical
    assert parse_requirement(canonical) == parse_requirement(text)


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [("a>=1", 1.0, True), ("a>=1", 0.999, False), ("a<=1", 1.0, True), ("a<=1", 1.001, False), ("a<=1", -9.0, True)],
)
def test_the_bound_itself_is_allowed(text: str, value: float, holds: bool) -> None:
    assert (parse_requirement(text).violation({"a": value}) <= 0) is holds


def test_the_violation_is_the_distance_to_the_bound() -> None:
    assert parse_requirement("a>=1").violation({"a": 0.75}) == 0.25
    assert parse_requirement("a<=1").violation({"a": 3.0}) == 2.0


def test_an_absent_value_is_named() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'accuracy'"):
        parse_requirement("acuracy>=0.9").violation({"accuracy": 1.0, "macs": 2.0})


@pytest.mark.parametrize(
    "text", ["a>1", "a=1", "a>=1%", "a>=", "a>=inf", "__import__('os')>=1", "a>=" + "9" * 99, "é>=1"]
)
def test_another_form_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="NAME>=NUMBER"):
        parse_requirement(text)
