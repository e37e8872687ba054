"""Labels and arrays: stratified subsets, splits, and data that are refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoprune.errors import TaskError
from autoprune.tasks import LabelledArrays, class_balance, stratified_subset


def blobs(n: int = 300, classes: int = 3, features: int = 6, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return separable, class-sorted data: the worst case for whoever takes the first rows."""
    rng = np.random.default_rng(seed)
    y = np.sort(rng.integers(0, classes, n))
    centres = 4.0 * np.eye(classes, features)
    return (centres[y] + rng.normal(size=(n, features))).astype(np.float32), y


@given(
    counts=st.lists(st.integers(1, 60), min_size=1, max_size=8),
    limit=st.integers(0, 300),
    seed=st.integers(0, 2**32 - 1),
)
def test_a_subset_is_distinct_rows_with_every_class_near_its_share(counts: list[int], limit: int, seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    chosen = stratified_subset(labels, limit, np.random.default_rng(seed))
    assert len(chosen) == min(limit, len(labels))
    assert len(set(chosen.tolist())) == len(chosen)
    taken = np.bincount(labels[chosen], minlength=len(counts))
    if limit >= len(counts):
        assert taken.min() >= 1
        balanced = min(limit, len(labels)) * np.array(counts) / len(labels) >= 1
        if balanced.all():
            assert np.all(np.abs(taken - min(limit, len(labels)) * np.array(counts) / len(labels)) <= 1)


def test_a_subset_of_a_sorted_file_is_not_its_opening() -> None:
    labels = np.repeat([0, 1], [500, 500])
    chosen = stratified_subset(labels, 100, np.random.default_rng(0))
    assert np.bincount(labels[chosen]).tolist() == [50, 50]
    assert 5 < np.bincount(labels[chosen[:20]], minlength=2)[0] < 15
    assert chosen.max() > 900


def test_subsets_follow_their_generator() -> None:
    labels = np.arange(200) % 7
    draws = [stratified_subset(labels, 50, np.random.default_rng(s)).tolist() for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_class_balance_counts_every_class_largest_first() -> None:
    assert list(class_balance(np.array([2, 0, 2, 2, 1, 1])).items()) == [("2", 3), ("1", 2), ("0", 1)]


def test_splits_are_stratified_disjoint_and_whole() -> None:
    data = LabelledArrays(*blobs(1000))
    scored = [set(data.splits[s].tolist()) for s in ("train", "val", "test")]
    assert [len(s) for s in scored] == [700, 150, 150]
    assert set.union(*scored) == set(range(1000))
    share = np.bincount(data.y) / 1000
    for split in data.splits.values():
        assert np.abs(np.bincount(data.y[split]) / len(split) - share).max() < 0.02


def test_calibration_and_tune_are_disjoint_parts_of_train() -> None:
    data = LabelledArrays(*blobs())
    calibration, tune = (set(data.splits[s].tolist()) for s in ("calibration", "tune"))
    assert calibration | tune == set(data.splits["train"].tolist())
    assert not calibration & tune


def test_given_splits_are_kept() -> None:
    x, y = blobs(90)
    order = np.random.default_rng(0).permutation(90)
    given_splits = {"train": order[:50], "val": order[50:70], "test": order[70:]}
    data = LabelledArrays(x, y, given_splits)
    assert np.array_equal(data.splits["val"], order[50:70])
    assert len(data.splits["calibration"]) == 25


def test_the_fingerprint_follows_data_labels_and_splits() -> None:
    x, y = blobs()
    base = LabelledArrays(x, y).fingerprint
    other_x, other_y = x.copy(), y.copy()
    other_x[7, 2] += 1e-3
    other_y[7] = (other_y[7] + 1) % 3
    variants = [LabelledArrays(other_x, y), LabelledArrays(x, other_y), LabelledArrays(x, y, seed=1)]
    assert LabelledArrays(x.copy(), y.copy()).fingerprint == base
    assert len({base, *(v.fingerprint for v in variants)}) == 4


def spoiled(kind: str) -> tuple[Any, Any, dict[str, Any]]:
    x, y = blobs(60)
    rows = np.random.default_rng(0).permutation(60)
    cut = {"train": rows[:30], "val": rows[30:45], "test": rows[45:]}
    nan = x.copy()
    nan[41, 3] = np.nan
    return {
        "empty": (x[:0], y[:0], {}),
        "one class": (x, np.zeros(60, int), {}),
        "nan": (nan, y, {}),
        "lengths": (x, y[:-1], {}),
        "flat inputs": (x[:, 0], y, {}),
        "text": (np.full((60, 2), "a"), y, {}),
        "float labels": (x, y.astype(float), {}),
        "one-hot": (x, np.eye(3)[y], {}),
        "negative label": (x, y - 1, {}),
        "unknown split": (x, y, cut | {"dev": rows[:3]}),
        "missing split": (x, y, {"train": rows[:30], "val": rows[30:]}),
        "empty split": (x, y, cut | {"val": rows[:0]}),
        "overlap": (x, y, cut | {"test": rows[40:]}),
        "leaking calibration": (x, y, cut | {"calibration": rows[25:35]}),
        "row too large": (x, y, cut | {"test": np.array([3, 60])}),
        "repeated row": (x, y, cut | {"val": np.repeat(rows[30:38], 2)}),
        "one class in val": (x, y, {"train": np.arange(10, 50), "val": np.arange(10), "test": np.arange(50, 60)}),
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "empty"),
        ("one class", "one class"),
        ("nan", "row 41"),
        ("lengths", "59 labels"),
        ("flat inputs", "shape"),
        ("text", "numbers"),
        ("float labels", "integers"),
        ("one-hot", "integers"),
        ("negative label", ">= 0"),
        ("unknown split", "'dev'"),
        ("missing split", "'test' is missing"),
        ("empty split", "'val'"),
        ("overlap", "'val' and in 'test'"),
        ("leaking calibration", "'calibration'"),
        ("row too large", r"0\.\.59"),
        ("repeated row", "distinct"),
        ("one class in val", "'val' holds one class"),
    ],
)
def test_unusable_data_are_refused_by_name(kind: str, words: str) -> None:
    x, y, splits = spoiled(kind)
    with pytest.raises(TaskError, match=words):
        LabelledArrays(x, y, splits)
