"""A6: a candidate that hangs, in whatever way, is ended with all its processes; the search goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from executor_cases import ALSO_POOL, ENGINES, faulty_setup, gather, job, living_in, mark
from faulty_task import HANGS, Call, calls_in

from autoprune.records import CandidateRecord, RecordStore
from autoprune.search.setup import Setup

TIMEOUT_S = 3.0
GRACE_S = 5.0
NEIGHBOUR = 9
STEPS = {way.__name__: 10 + index for index, way in enumerate(HANGS)}


@dataclass
class Outcome:
    """What became of one candidate for each kind of hang and a healthy one, all begun at once.

    Those that hang keep the host's gate, for which the healthy one waits.
    """

    setup: Setup
    records: dict[int, CandidateRecord] = field(default_factory=dict)
    finished: dict[int, float] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    living: dict[int, list[int]] = field(default_factory=dict)


@pytest.fixture(scope="module", params=ALSO_POOL)
def outcome(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    setup = faulty_setup(tmp_path_factory.mktemp("run"), workers=len(HANGS) + 1, timeout_s=TIMEOUT_S)
    found = Outcome(setup)
    for way, steps in STEPS.items():
        mark(setup, "recover", way, steps=steps)
    mark(setup, "recover", "nap", steps=NEIGHBOUR)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(tmp_path_factory.mktemp("gate")))
        engine = ENGINES[request.param](setup)
        try:
            gather(engine, [job(n) for n in range(len(HANGS) + 1)])
            for steps in (*STEPS.values(), NEIGHBOUR):
                engine.submit(job(steps, steps=steps))
            while records := engine.collect():
                for record in records:
                    found.records[record.number] = record
                    found.finished[record.number] = time.monotonic()
            found.calls = calls_in(setup.directory)
            found.living = {c.steps: living_in(c.session) for c in found.calls}
        finally:
            engine.close()
        yield found


@pytest.mark.parametrize("way", STEPS)
def test_a6_a_hang_fails_within_the_time_out_and_five_seconds(outcome: Outcome, way: str) -> None:
    record, calls = outcome.records[STEPS[way]], [c for c in outcome.calls if c.steps == STEPS[way]]
    assert (record.failure or {})["reason"] == "timeout"
    assert record.state == "failed"
    assert TIMEOUT_S <= record.seconds <= TIMEOUT_S + GRACE_S
    assert len(calls) == 1
    assert outcome.finished[STEPS[way]] - calls[0].started <= TIMEOUT_S + GRACE_S
    stored = RecordStore(outcome.setup.directory).load(record.id)
    assert stored is not None
    assert stored.failure == record.failure


@pytest.mark.parametrize("way", STEPS)
def test_a6_nothing_of_a_hang_is_left(outcome: Outcome, way: str) -> None:
    assert outcome.living[STEPS[way]] == []


def test_a6_a_hang_takes_no_neighbour_along_that_waits_to_be_timed(outcome: Outcome) -> None:
    assert outcome.records[NEIGHBOUR].state == "complete"
    assert outcome.records[NEIGHBOUR].seconds > TIMEOUT_S / 2
