"""Records: what was acknowledged is there and intact, what is half or altered is never read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from record_factory import RECORD, numbered

from autoprune.errors import CandidateError, StorageError
from autoprune.policy import candidate_seed
from autoprune.records import CandidateRecord, RecordStore, Report, candidate_id, record_schema


def quarantined(store: RecordStore) -> list[str]:
    shelf = store.directory / ".quarantine"
    return sorted(p.name for p in shelf.iterdir()) if shelf.exists() else []


def test_a_record_comes_back_equal_with_its_files(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    path = store.write(RECORD, {"plan.json": b"{}"})
    assert RecordStore(tmp_path).load_all() == [RECORD]
    assert store.read_file(RECORD.id, "plan.json") == b"{}"
    assert json.loads((path / "policy.json").read_bytes()) == RECORD.policy
    assert list(RecordStore(tmp_path).load_all()[0].values) == ["accuracy", "latency_ms"]


def test_records_come_in_order_of_their_numbers(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for number in (2, 0, 11, 1):
        store.write(replace(RECORD, id=f"x{99 - number}", number=number))
    assert [r.number for r in store.load_all()] == [0, 1, 2, 11]


def test_a_run_without_candidates_has_no_records(tmp_path: Path) -> None:
    assert RecordStore(tmp_path / "none").load_all() == []


def test_an_equal_candidate_is_never_stored_twice(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    first = store.write(RECORD)
    assert store.write(replace(RECORD, number=5, seconds=9.0)) == first
    assert store.load_all() == [RECORD]


def test_a_corrupt_record_is_written_anew(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    (store.write(RECORD) / "record.json").write_text("{}")
    store.write(RECORD)
    assert store.load_all() == [RECORD]
    assert quarantined(store) == [f"{RECORD.id}.0"]


def test_a_stopped_candidate_keeps_its_reports(tmp_path: Path) -> None:
    reports = (Report(15, 0.5), Report(30, 0.25))
    record = replace(RECORD, state="stopped", values={}, evaluation={"cost": {"macs": 10}}, reports=reports)
    RecordStore(tmp_path).write(record)
    assert RecordStore(tmp_path).load_all() == [record]


def test_a_record_without_the_newer_fields_is_still_read() -> None:
    document = RECORD.to_json()
    for name in ("origin", "repeat", "reports", "cpu_seconds"):
        del document[name]
    assert CandidateRecord.from_json(document) == RECORD


def test_repeats_of_a_candidate_have_ids_and_seeds_of_their_own() -> None:
    digest = "0123456789abcdef" * 4
    ids = [candidate_id(digest, "full", repeat) for repeat in range(3)]
    assert ids == ["0123456789abcdef-full", "0123456789abcdef-full-r1", "0123456789abcdef-full-r2"]
    assert candidate_id(digest, "full") == ids[0]
    seeds = [candidate_seed(7, digest, repeat) for repeat in range(3)]
    assert seeds[0] == candidate_seed(7, digest)
    assert len(set(seeds)) == 3


def test_a_control_is_known_by_its_origin() -> None:
    assert replace(RECORD, origin="control:uniform").is_control
    assert not replace(RECORD, origin="infill").is_control


def test_a_failed_candidate_keeps_its_reason(tmp_path: Path) -> None:
    failure = {"reason": "diverged", "stage": "recover", "message": "loss is nan"}
    record = replace(RECORD, state="failed", values={}, evaluation=None, failure=failure)
    RecordStore(tmp_path).write(record)
    assert RecordStore(tmp_path).load_all() == [record]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("where", ["values", "evaluation", "seconds"])
def test_a_number_that_is_not_finite_is_never_recorded(tmp_path: Path, value: float, where: str) -> None:
    bad = value if where == "seconds" else {"accuracy": value}
    with pytest.raises(CandidateError) as caught:
        RecordStore(tmp_path).write(replace(RECORD, **{where: bad}))
    assert caught.value.reason == "nonfinite"
    assert RecordStore(tmp_path).load_all() == []


@pytest.mark.parametrize("name", ["../x", "/etc", "A", "a/b", "", ".", "a.b", "x" * 101, "a\n", "é"])
def test_an_id_that_is_no_plain_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StorageError, match="no candidate id"):
        RecordStore(tmp_path / "run").write(replace(RECORD, id=name))
    with pytest.raises(StorageError, match="no candidate id"):
        RecordStore(tmp_path / "run").read_file(name, "record.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../../secret", "record.json/../record.json", "absent", "/etc/hostname"])
def test_only_listed_files_of_a_candidate_can_be_read(tmp_path: Path, name: str) -> None:
    store = RecordStore(tmp_path)
    store.write(RECORD)
    (tmp_path / "secret").write_text("x")
    with pytest.raises(StorageError, match="Cannot read"):
        store.read_file(RECORD.id, name)


def test_a_record_under_another_name_or_behind_a_link_is_quarantined(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(numbered(0)).rename(store.directory / "other")
    (store.directory / "link").symlink_to(store.write(numbered(1)))
    assert [r.number for r in store.load_all()] == [1]
    assert quarantined(store) == ["link.0", "other.0"]


def test_a_second_corrupt_record_of_one_id_does_not_overwrite_the_first(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    for _ in range(3):
        (store.write(RECORD) / "record.json").unlink()
        assert store.load_all() == []
    assert quarantined(store) == [f"{RECORD.id}.{k}" for k in range(3)]


def test_foreign_files_are_left_alone(tmp_path: Path) -> None:
    store = RecordStore(tmp_path)
    store.write(RECORD)
    (store.directory / "Notes.txt").write_text("mine")
    assert store.load_all() == [RECORD]
    assert (store.directory / "Notes.txt").read_text() == "mine"


def test_an_intact_directory_whose_content_is_no_record_is_quarantined(tmp_path: Path) -> None:
    from autoprune.storage import dump_json, write_directory

    store = RecordStore(tmp_path)
    for name, change in [("a", {"number": -1}), ("b", {"fidelity": "huge"}), ("c", {"extra": 1}), ("d", {"seed": "x"})]:
        document = {**replace(RECORD, id=name).to_json(), **change}
        write_directory(store.directory / name, {"record.json": dump_json(document)})
    write_directory(store.directory / "e", {"record.json": b"[" * 100_000})
    write_directory(store.directory / "f", {"record.json": b'{"schema_version": "9.0"}'})
    write_directory(store.directory / "g", {"record.json": b" " * ((16 << 20) + 1)})
    assert store.load_all() == []
    assert len(quarantined(store)) == 7


def test_a_record_conforms_to_the_published_schema() -> None:
    schema = record_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(json.dumps(RECORD.to_json())), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**RECORD.to_json(), "state": "maybe"}, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**RECORD.to_json(), "reports": [{"step": -1, "value": 0.5}]}, schema)
