"""Hashed directories and atomic files: complete or absent, and noticed when altered."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autoprune.errors import StorageError
from autoprune.storage import (
    MANIFEST,
    dump_json,
    parse_json,
    read_manifest,
    remove_stale,
    verify_directory,
    write_directory,
    write_file,
)

FILES = {"a.json": b"{}", "b.bin": bytes(range(256))}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    assert write_directory(tmp_path / "x", FILES)
    return tmp_path / "x"


def test_a_written_directory_holds_its_files_and_verifies(directory: Path) -> None:
    assert {p.name: p.read_bytes() for p in directory.iterdir() if p.name != MANIFEST} == FILES
    assert verify_directory(directory) == []
    assert read_manifest(directory)["b.bin"].bytes == 256


def test_content_may_be_written_by_a_function(tmp_path: Path) -> None:
    write_directory(tmp_path / "x", {"f": lambda path: path.write_bytes(b"made") and None})
    assert (tmp_path / "x" / "f").read_bytes() == b"made"
    assert verify_directory(tmp_path / "x") == []


def test_an_existing_directory_stays_unless_replaced(directory: Path) -> None:
    assert not write_directory(directory, {"c": b"new"})
    assert verify_directory(directory) == []
    assert not (directory / "c").exists()
    assert write_directory(directory, {"c": b"new"}, replace=True)
    assert sorted(p.name for p in directory.iterdir()) == [MANIFEST, "c"]
    assert [p.name for p in directory.parent.iterdir()] == ["x"]


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_directory(tmp_path / "x", {"a": b"1", "b": fail})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "", ".hidden", "a\0b", "a\\b", MANIFEST, "x" * 200, ".."])
def test_an_unsafe_name_is_refused_before_anything_is_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="hashed directory"):
        write_directory(tmp_path / "x", {name: b""})
    assert list(tmp_path.iterdir()) == []


def _altered(directory: Path) -> None:
    (directory / "a.json").write_bytes(b"[]")


def _longer(directory: Path) -> None:
    (directory / "a.json").write_bytes(b"{} ")


def _missing(directory: Path) -> None:
    (directory / "b.bin").unlink()


def _foreign(directory: Path) -> None:
    (directory / "evil.py").write_text("1")


def _hidden(directory: Path) -> None:
    (directory / ".hidden").mkdir()


def _link(directory: Path) -> None:
    (directory / "b.bin").unlink()
    (directory.parent / "elsewhere").write_bytes(FILES["b.bin"])
    (directory / "b.bin").symlink_to(directory.parent / "elsewhere")


def _pipe(directory: Path) -> None:
    (directory / "b.bin").unlink()
    os.mkfifo(directory / "b.bin")


def _no_manifest(directory: Path) -> None:
    (directory / MANIFEST).unlink()


def _linked_manifest(directory: Path) -> None:
    (directory / MANIFEST).rename(directory.parent / "manifest")
    (directory / MANIFEST).symlink_to(directory.parent / "manifest")


def _huge_manifest(directory: Path) -> None:
    with (directory / MANIFEST).open("ab") as handle:
        handle.truncate(4 << 30)


def _deep_manifest(directory: Path) -> None:
    (directory / MANIFEST).write_bytes(b"[" * 200_000)


def _spaced_manifest(directory: Path) -> None:
    (directory / MANIFEST).write_bytes((directory / MANIFEST).read_bytes() + b" ")


def _traversal(directory: Path) -> None:
    (directory.parent / "outside").write_bytes(b"{}")
    text = (directory / MANIFEST).read_text().replace("a.json", "../outside")
    (directory / MANIFEST).write_text(text)


def _newer(directory: Path) -> None:
    (directory / MANIFEST).write_text((directory / MANIFEST).read_text().replace('"1.0"', '"2.0"'))


TAMPERINGS = [
    (_altered, "a.json: sha256"),
    (_longer, "a.json: 3 bytes"),
    (_missing, "b.bin: missing"),
    (_foreign, "evil.py"),
    (_hidden, ".hidden"),
    (_link, "symbolic link"),
    (_pipe, "not a regular file"),
    (_no_manifest, f"{MANIFEST}: missing"),
    (_linked_manifest, "symbolic link"),
    (_huge_manifest, "more than the limit"),
    (_deep_manifest, "nested too deeply"),
    (_spaced_manifest, "was altered"),
    (_traversal, "unsafe name '../outside'"),
    (_newer, "format version"),
]


@pytest.mark.parametrize(("tamper", "message"), TAMPERINGS, ids=[t.__name__ for t, _ in TAMPERINGS])
def test_tampering_is_found_and_named(directory: Path, tamper, message: str) -> None:
    tamper(directory)
    problems = verify_directory(directory)
    assert any(message in p for p in problems), problems


def test_only_the_asked_files_are_checked(directory: Path) -> None:
    (directory / "b.bin").write_bytes(b"")
    (directory / "notes.txt").write_text("mine")
    assert verify_directory(directory, only=["a.json"]) == []
    assert verify_directory(directory, only=["b.bin"])
    assert verify_directory(directory, only=["c"]) == [f"c: not in {MANIFEST}"]


def test_temporaries_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    dead = tmp_path / ".tmp-0123456789abcdef"
    dead.mkdir()
    (dead / "part").write_bytes(b"half")
    (dead / MANIFEST).touch()
    (tmp_path / ".tmp-00000000000000ff").write_bytes(b"half")
    (tmp_path / ".tmp-mine").touch()
    seen: list[str] = []

    def write(path: Path) -> None:
        remove_stale(tmp_path)
        seen.extend(p.name for p in tmp_path.iterdir())
        path.write_bytes(b"whole")

    write_directory(tmp_path / "x", {"f": write})
    assert len(seen) == 2
    assert verify_directory(tmp_path / "x") == []
    assert sorted(p.name for p in tmp_path.iterdir()) == [".tmp-mine", "x"]


def test_write_file_replaces_in_one_step(tmp_path: Path) -> None:
    write_file(tmp_path / "new" / "f", b"1")
    write_file(tmp_path / "new" / "f", b"2")
    assert [(p.name, p.read_bytes()) for p in (tmp_path / "new").iterdir()] == [("f", b"2")]


def test_a_path_below_a_file_is_a_storage_error_with_free_bytes(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"file/x.*\d+ bytes free"):
        write_directory(tmp_path / "file" / "x", FILES)
    with pytest.raises(StorageError, match=r"\d+ bytes free"):
        write_file(tmp_path / "file" / "x", b"")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [float("-inf")]}])
def test_no_json_is_written_with_a_number_that_is_not_finite(value: object) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        dump_json(value)


@pytest.mark.parametrize("text", [b"NaN", b"[-Infinity]", b"1e999", b"\xff", b"{", b"", b"[" * 100_000])
def test_json_that_cannot_be_trusted_is_a_value_error(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)
