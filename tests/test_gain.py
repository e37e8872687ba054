"""Gain over the best control, hypervolume history: what they count and what they leave out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from search_records import ACCURACY, OBJECTIVES, dense_record, record

from autoprune.records import CandidateRecord
from autoprune.search.gain import GainScale, gain_over
from autoprune.search.summary import history_of, hypervolume_of

DENSE = dense_record()
SCALE = GainScale(OBJECTIVES, [ACCURACY], DENSE)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def volume(*records: CandidateRecord) -> float:
    return hypervolume_of(OBJECTIVES, [ACCURACY], [r.values for r in records], DENSE.values).value


def test_gain_is_over_the_best_control() -> None:
    ours = [record(1, 0.97, 2.0), record(2, 0.90, 1.0)]
    weak, strong = record(3, 0.60, 5.0), record(4, 0.95, 2.5)
    gain = gain_over(SCALE, ours, {"weak": [weak], "strong": [strong]}, rng())
    assert gain is not None
    assert gain.control == "strong"
    assert gain.value == pytest.approx(volume(*ours) - volume(strong))
    assert gain.low <= gain.value <= gain.high
    assert gain.low > 0.0


def test_the_same_candidates_gain_nothing_for_certain() -> None:
    ours = [record(1, 0.97, 2.0), record(2, 0.90, 1.0)]
    gain = gain_over(SCALE, ours, {"uniform": ours}, rng())
    assert gain is not None
    assert (gain.value, gain.low, gain.high) == (0.0, 0.0, 0.0)


def test_a_control_that_is_better_is_told_as_a_loss() -> None:
    gain = gain_over(SCALE, [record(1, 0.90, 4.0)], {"uniform": [record(2, 0.97, 2.0)]}, rng())
    assert gain is not None
    assert gain.high < 0.0


def test_wider_intervals_make_a_less_certain_gain() -> None:
    def width(wide: float) -> float:
        pair = (
            [record(1, 0.97, 2.0, wide=wide, paired=wide)],
            {"uniform": [record(2, 0.95, 2.5, wide=wide, paired=wide)]},
        )
        gain = gain_over(GainScale(OBJECTIVES, [ACCURACY], dense_record(wide=wide)), *pair, rng())
        assert gain is not None
        return gain.high - gain.low

    assert width(0.05) > 2.0 * width(0.01)


def test_candidates_that_follow_the_dense_model_are_told_apart_better() -> None:
    def width(paired: float) -> float:
        ours, theirs = record(1, 0.97, 2.0, wide=0.05, paired=paired), record(2, 0.95, 2.5, wide=0.05, paired=paired)
        gain = gain_over(
            GainScale(OBJECTIVES, [ACCURACY], dense_record(wide=0.05)), [ours], {"uniform": [theirs]}, rng()
        )
        assert gain is not None
        return gain.high - gain.low

    assert width(0.01) < 0.5 * width(0.07)


def test_a_control_is_compared_at_its_own_fidelity() -> None:
    short, full = record(1, 0.80, 2.0), record(1, 0.97, 2.0, fidelity="full")
    trained = record(5, 0.90, 2.5, fidelity="full")
    gain = gain_over(SCALE, [short, full], {"from_scratch": [trained]}, rng())
    assert gain is not None
    assert gain.value == pytest.approx(volume(full) - volume(trained))
    assert gain_over(SCALE, [short], {"from_scratch": [trained]}, rng()) is None


def test_no_control_no_gain() -> None:
    assert gain_over(SCALE, [record(1, 0.97, 2.0)], {}, rng()) is None
    assert gain_over(SCALE, [record(1, 0.97, 2.0)], {"uniform": []}, rng()) is None


def test_history_grows_a_fidelity_at_a_time_and_leaves_out_what_is_no_candidate() -> None:
    records = [
        DENSE,
        record(3, 0.95, 2.0),
        record(1, 0.50, 2.0, fidelity="proxy"),
        replace(record(2, 0.99, 1.0, fidelity="proxy"), state="failed", values={}),
        record(4, 0.90, 8.0),
        record(5, 0.99, 0.5, origin="control:uniform"),
        record(3, 0.97, 2.0, fidelity="full"),
        record(3, 0.99, 2.0, fidelity="full", repeat=1),
    ]
    points = history_of(records, OBJECTIVES, [ACCURACY], DENSE.values)
    assert [(p.evaluation, p.fidelity) for p in points] == [
        (1, "proxy"),
        (2, "proxy"),
        (3, "short"),
        (4, "short"),
        (5, "full"),
    ]
    assert points[0].hypervolume == points[1].hypervolume
    assert points[2].hypervolume == pytest.approx(volume(records[1]))
    assert points[3].hypervolume == points[2].hypervolume
    assert points[4].hypervolume == pytest.approx(volume(records[6]))
