"""The search benchmarks count rightly: hypervolume, cache, ledger, curves, and what is made of them."""

from __future__ import annotations

import gzip
import math
import runpy
import tracemalloc
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from autoprune.errors import TaskError
from autoprune.tasks import load_idx, load_task, read_idx
from benchmarks.search_baselines import Ledger, Point
from benchmarks.search_quality import COMPARISONS, Comparison, row_of, spread_of, summary_of
from benchmarks.search_runs import Curve
from benchmarks.search_tasks import Outcome, OutcomeStore, hypervolume, scaled

FASHION = Path(__file__).parent.parent / "examples" / "fashion.py"


def outcome(error: float, share: float, seconds: float = 1.0) -> Outcome:
    return Outcome(error, 1.0, share, seconds)


def curve(*points: tuple[float, float], overhead: float = 0.0) -> Curve:
    return Curve.of([Point({}, outcome(e, s), overhead) for e, s in points])


def test_the_corners_of_the_hypervolume_are_half_wrong_and_two_decades() -> None:
    assert scaled([0.0, 0.5], [0.01, 1.0]).tolist() == [[0.0, 0.0], [1.0, 1.0]]
    assert scaled(0.25, 0.1).tolist() == [[0.5, 0.5]]
    assert scaled(0.0, 1e-5)[0, 1] == 0.0


def test_hypervolume_counts_what_is_better_than_the_corner() -> None:
    assert hypervolume([]) == 0.0
    assert hypervolume([outcome(0.5, 0.1), outcome(0.1, 1.0), outcome(0.9, 0.01)]) == 0.0
    assert hypervolume([outcome(0.25, 0.1)]) == pytest.approx(0.25)
    both = [outcome(0.25, 0.1), outcome(0.0, 0.1**0.5)]
    assert hypervolume(both) == pytest.approx(0.25 + 0.5 * 0.25)
    assert hypervolume([*both, outcome(0.3, 0.5)]) == hypervolume(both)


def test_a_curve_tells_when_it_reached_what() -> None:
    found = curve((0.6, 1.0), (0.25, 0.1), (0.3, 0.5), (0.0, 0.01), overhead=0.5)
    assert found.hypervolumes == pytest.approx([0.0, 0.25, 0.25, 1.0])
    assert found.evaluations_to(0.2) == 2
    assert found.evaluations_to(0.25) == 2
    assert found.evaluations_to(0.26) == 4
    assert found.evaluations_to(1.01) is None
    assert found.clock == [1.5, 3.0, 4.5, 6.0]
    assert found.at(3) == pytest.approx(0.25)
    assert found.at(5) is None
    assert found.at_seconds(1.0) == 0.0
    assert found.at_seconds(3.0) == pytest.approx(0.25)
    assert found.at_seconds(99.0) == pytest.approx(1.0)


def test_hypervolumes_equal_those_of_every_prefix() -> None:
    rng = np.random.default_rng(0)
    points = [(float(e), float(10.0**-c)) for e, c in zip(rng.uniform(0, 1, 60), rng.uniform(0, 2, 60), strict=True)]
    found = curve(*points)
    assert found.hypervolumes == pytest.approx(
        [hypervolume([outcome(*p) for p in points[: n + 1]]) for n in range(len(points))]
    )


def test_a_seed_that_never_arrives_counts_as_infinite() -> None:
    assert spread_of([60, 50, 70]) == {"median": 60.0, "max": 70.0, "per_seed": [60, 50, 70]}
    assert spread_of([60, None, 70]) == {"median": 70.0, "max": None, "per_seed": [60, None, 70]}
    assert spread_of([None, None, 70])["median"] is None


def test_the_target_is_the_rivals_mean_and_ours_is_measured_against_it() -> None:
    comparison = Comparison("t", budgets={"ours": 3, "nsga2": 4}, checkpoints=(2, 4), target_at=4)
    slow = curve((0.6, 1.0), (0.6, 1.0), (0.5, 0.2), (0.25, 0.1))
    curves = {"nsga2": {0: slow, 1: slow}, "ours": {0: curve((0.25, 0.1)), 1: curve((0.4, 0.5), (0.2, 0.1))}}
    target = 0.25
    summary = summary_of(comparison, target, curves)
    assert summary["evaluations_to_nsga2_4"]["ours"] == {"median": 1.5, "max": 2.0, "per_seed": [1, 2]}
    assert summary["evaluations_to_nsga2_4"]["nsga2"]["median"] == 4.0
    assert summary["rival_over_ours"] == pytest.approx(4 / 1.5, rel=1e-3)
    assert set(summary["hypervolume"]["nsga2"]) == {"2", "4", "final"}
    assert set(summary["hypervolume"]["ours"]) == {"final"}
    assert summary["equal_cpu_seconds"]["hypervolume"]["nsga2"] == 0.0
    row = row_of("t", comparison, "nsga2", 0, target, slow)
    assert row["hypervolume"] == {"2": 0.0, "4": pytest.approx(0.25)}
    assert (row["evaluations_to_nsga2_4"], row["cpu_seconds_to_target"]) == (4, 4.0)


@pytest.mark.parametrize("comparison", COMPARISONS.values(), ids=lambda c: f"{c.task}-{c.fidelity}")
def test_every_comparison_has_ours_and_a_rival_that_sets_the_target(comparison: Comparison) -> None:
    assert "ours" in comparison.budgets
    assert comparison.budgets["nsga2"] == comparison.target_at
    assert comparison.key == f"evaluations_to_nsga2_{comparison.target_at}"


def test_the_ledger_counts_a_point_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def evaluate(params: Any) -> Outcome:
        asked.append(params)
        return outcome(0.1, 0.5)

    space = SimpleNamespace(policy_of=lambda params: SimpleNamespace(digest=str(sorted(params.items()))))
    task: Any = SimpleNamespace(space=space, evaluate=evaluate)
    ledger = Ledger(task, budget=2)
    ledger.evaluate({"a": 1}, overhead_s=0.25)
    ledger.evaluate({"a": 1}, overhead_s=0.5)
    assert not ledger.full
    ledger.evaluate({"a": 2}, overhead_s=1.0, origin="infill")
    assert ledger.full
    assert [p.params for p in ledger.points] == asked == [{"a": 1}, {"a": 2}]
    assert [p.overhead_s for p in ledger.points] == [0.25, 1.5]
    assert ledger.points[1].origin == "infill"
    assert len(Ledger(task, budget=3).evaluate_all({"a": i % 2} for i in range(9))) == 2


def test_outcomes_survive_and_the_first_writer_wins(tmp_path: Path) -> None:
    path = tmp_path / "new" / "outcomes.sqlite"
    store, other = OutcomeStore(path), OutcomeStore(path)
    assert store.read("a") is None
    store.write("a", outcome(0.1, 0.5))
    assert other.read("a") == outcome(0.1, 0.5)
    late = OutcomeStore(path)
    late.write("a", outcome(0.9, 0.9))
    assert OutcomeStore(path).read("a") == outcome(0.1, 0.5)
    with pytest.raises(ValueError, match="finite"):
        store.write("b", outcome(math.nan, 0.5))


def write_many(path: Path, writer: int) -> int:
    store = OutcomeStore(path)
    for number in range(40):
        store.write(f"{number}", outcome(writer / 10, 0.5))
        store.write(f"{writer}-{number}", outcome(0.5, 0.5))
    return writer


def test_several_processes_may_write_at_the_same_time(tmp_path: Path) -> None:
    path = tmp_path / "outcomes.sqlite"
    with ProcessPoolExecutor(3, mp_context=get_context("fork")) as pool:
        assert sorted(pool.map(write_many, [path] * 3, range(3))) == [0, 1, 2]
    store = OutcomeStore(path)
    assert all(store.read(f"{writer}-{number}") for writer in range(3) for number in range(40))


def write_idx(path: Path, array: np.ndarray) -> None:
    head = bytes([0, 0, 8, array.ndim]) + b"".join(int(n).to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(head + array.astype(np.uint8).tobytes()))


@pytest.fixture
def clothes(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind, count in (("train", 60), ("t10k", 20)):
        write_idx(tmp_path / f"{kind}-images-idx3-ubyte.gz", rng.integers(0, 256, (count, 28, 28)))
        write_idx(tmp_path / f"{kind}-labels-idx1-ubyte.gz", np.arange(count) % 10)
    return tmp_path


def test_fashion_reads_the_idx_files(clothes: Path) -> None:
    data = load_idx(clothes, (40, 20, 20), mean=0.286, spread=0.353)
    assert [len(data.splits[s]) for s in ("train", "val", "test")] == [40, 20, 20]
    assert data.x.shape == (80, 1, 28, 28)
    assert data.y[60:].tolist() == [n % 10 for n in range(20)]
    raw = read_idx(clothes / "t10k-images-idx3-ubyte.gz")
    expected = (raw[0] / 255.0 - 0.286) / 0.353
    assert np.allclose(data.x[60, 0].numpy(), expected, atol=1e-6)
    with pytest.raises(TaskError, match="at most 60"):
        load_idx(clothes, (60, 1, 20), mean=0.0, spread=1.0)
    with pytest.raises(TaskError, match="at most 20"):
        load_idx(clothes, (40, 20, 21), mean=0.0, spread=1.0)


@pytest.mark.parametrize("damage", ["missing", "cut", "other format", "not gzip"])
def test_fashion_names_the_remedy_for_data_that_it_cannot_read(clothes: Path, damage: str) -> None:
    path = clothes / "train-images-idx3-ubyte.gz"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "other format":
        path.write_bytes(gzip.compress(b"\x00\x00\x0d\x01\x00\x00\x00\x02ab"))
    else:
        path.write_bytes(b"hello")
    with pytest.raises(TaskError) as raised:
        load_task("fashion.py:make_task", {"data_dir": str(clothes)}, base=FASHION.parent)
    assert "dataset-fashion-mnist" in raised.value.hint


def test_no_damage_of_an_idx_file_is_more_than_a_one_line_error(clothes: Path) -> None:
    path = clothes / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x41]) + whole[place + 1 :])
        with suppress(TaskError):
            assert read_idx(path).dtype == np.uint8
    for sizes in (b"\xff\xff\xff\xff" * 2, b"\x00\x00\x00\x02" * 2):
        path.write_bytes(gzip.compress(b"\x00\x00\x08\x02" + sizes + b"abc"))
        with pytest.raises(TaskError):
            read_idx(path)


def test_no_more_of_an_idx_file_is_unpacked_than_its_header_says(clothes: Path) -> None:
    path = clothes / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(b"\x00\x00\x08\x01\x00\x00\x00\x04" + bytes(300_000_000), compresslevel=1))
    tracemalloc.start()
    with pytest.raises(TaskError, match="header"):
        read_idx(path)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


def test_the_fashion_network_has_twenty_layers() -> None:
    import torch
    from torch import nn

    network = runpy.run_path(str(FASHION))["ResNet"]()
    layers = [m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and "shortcut" not in n]
    assert len(layers) == 20
    assert network(torch.zeros(2, 1, 28, 28)).shape == (2, 10)
