"""The table of supported architectures says what the tests find."""

from __future__ import annotations

import pytest
from zoo import ZOO
from zoo.cases import case, make_case
from zoo.facts import HUGGING_FACE, TITLES, facts

from autoprune.runtimes import PARITY_TOLERANCE
from benchmarks.common import known_rows

ROWS = {row["net"]: row for row in known_rows("zoo")}
TOLERANCE = 1e-5


def test_table_has_every_net_under_its_title() -> None:
    assert set(TITLES) == set(ZOO)
    assert {name: row["title"] for name, row in ROWS.items()} == {**TITLES, **HUGGING_FACE}


@pytest.mark.parametrize("name", ZOO)
def test_table_says_what_is_found_now(name: str) -> None:
    found = facts(case(name))
    assert {key: ROWS[name][key] for key in found} == found, f"run: python -m benchmarks.zoo --nets {name}"


@pytest.mark.parametrize("name", HUGGING_FACE)
def test_table_says_what_is_found_now_in_models_of_hugging_face(name: str) -> None:
    pytest.importorskip("transformers", reason="needs the extra [hf]")
    from hugging_face_cases import DEFINITIONS, inputs_of, made

    own = name.removeprefix("hf_")
    found = facts(make_case(name, made(own), inputs_of(own)()))
    assert own in DEFINITIONS
    assert {key: ROWS[name][key] for key in found} == found, f"run: python -m benchmarks.zoo --nets {name}"


@pytest.mark.parametrize("name", [name for name in ROWS if name != "bfloat16"])
def test_what_was_measured_lies_within_the_tolerance_of_the_tests(name: str) -> None:
    row = ROWS[name]
    errors = [row[key] for key in ("masked", "norms_scaled") if row[key] is not None]
    assert errors
    assert max(errors) <= TOLERANCE
    assert row["onnx"] is None or row["onnx"] <= PARITY_TOLERANCE
