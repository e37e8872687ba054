"""The hardened reader: YAML 1.2 values, refused constructs, places of problems, limits, mutated files."""

from __future__ import annotations

import random
import string
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from autoprune.config import RunConfig, dump_config, parse_yaml, read_yaml, validate
from autoprune.config.load import check_config_text
from autoprune.config.reader import MAX_BYTES, MAX_LEVELS, MAX_NODES, scan_yaml
from autoprune.config.template import config_template
from autoprune.errors import ConfigError

TEMPLATE = config_template(RunConfig(task="task.py:make_task"))
WORST_SECONDS = 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E+5", 1e5),
        (".5", 0.5),
        ("1.", 1.0),
        ("017", 17),
        ("-0", 0),
        ("+3", 3),
        ("0o17", 15),
        ("0x1F", 31),
        ("NO", "NO"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("12:30", "12:30"),
        ("1_000", "1_000"),
        ("2001-01-01", "2001-01-01"),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ('"true"', "true"),
        ("'~'", "~"),
        ("<<", "<<"),
        ("=", "="),
        ("nan", "nan"),
        ("inf", "inf"),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    read = parse_yaml(f"key: {text}\n", source="x")
    assert read.data == {"key": value}
    assert type(read.data["key"]) is type(value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "'a' is given twice; first in line 1"),
        ("a:\n  b: 1\n  b: 1\n", 3, "a.b: key 'b' is given twice"),
        ("a: &x 1\n", 1, "anchor &x"),
        ("a: 1\nb: *x\n", 2, "alias *x"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "tag"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: !local 1\n", 1, "tag"),
        ("a: .nan\n", 1, "not a finite number"),
        ("a: 1\nb: -.inf\n", 2, "not a finite number"),
        ("a: 1e999\n", 1, "not a finite number"),
        ("a: " + "9" * 5000, 1, "digits"),
        ("? [1, 2]\n: 3\n", 1, "a key must be plain text"),
        ("a: 1\n--- \nb: 2\n", 2, "second document"),
        ("a: [1, 2\n", 2, "not valid YAML"),
        ("a: 1\n\tb: 2\n", 2, "not valid YAML"),
        ("a: b: c\n", 1, "not valid YAML"),
        ('a: "\\0"\n', 1, "NUL"),
        ("a: 1\nb: \x07\n", 2, "U+0007"),
        ("a: \ufeff\n", 1, "U+FEFF"),
        ("a: 1 # x\u2028b: 2\n", 1, "U+2028"),
    ],
)
def test_refused_constructs_name_line_and_reason(text: str, line: int, says: str) -> None:
    with pytest.raises(ConfigError, match=r"^f\.yaml:\d+: ") as caught:
        parse_yaml(text, source="f.yaml")
    assert caught.value.problems[0].startswith(f"f.yaml:{line}: ")
    assert says in caught.value.problems[0]


def test_all_problems_of_a_file_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("a: &x 1\nb: .nan\nb: 2\nc: !t 3\nd: [1, *x]\n", source="f")
    assert [p.split(": ")[0] for p in caught.value.problems] == ["f:1", "f:2", "f:3", "f:4", "f:5"]


def test_a_million_problems_are_cut_short() -> None:
    _, problems = scan_yaml("[" + "&a 1," * 10_000 + "]", source="f")
    assert len(problems) < 100


@pytest.mark.parametrize(
    "raw",
    [
        "a: 1".encode("utf-16"),
        "a: 1".encode("utf-16-le"),
        "a: 1".encode("utf-32"),
        b"\xef\xbb\xbfa: 1",
        b"a: \xff\xfe\n",
        b"a: \x00\n",
        b"a: 1\n" * (MAX_BYTES // 5 + 1),
    ],
)
def test_files_that_are_no_short_utf_8_text_are_refused(tmp_path: Path, raw: bytes) -> None:
    path = tmp_path / "f.yaml"
    path.write_bytes(raw)
    with pytest.raises(ConfigError, match=r"f\.yaml:1: "):
        read_yaml(path)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        read_yaml(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="not a file"):
        read_yaml(tmp_path)


def test_lines_are_known_by_dotted_path() -> None:
    read = parse_yaml("a: 1\nb:\n  c: [x,\n      y]\n  d:\n    - e: 1\n", source="f")
    assert {k: read.lines[k] for k in ("a", "b.c", "b.c.1", "b.d.0.e")} == {"a": 1, "b.c": 3, "b.c.1": 4, "b.d.0.e": 6}
    assert read.where("b.c.1") == "f:4"
    assert read.where("b.nothing.below") == "f:2"
    assert read.where("nothing") == "f:1"


def test_levels_up_to_the_limit_are_read_and_one_more_is_refused() -> None:
    parse_yaml("[" * MAX_LEVELS + "]" * MAX_LEVELS, source="f")
    with pytest.raises(ConfigError, match="nested deeper"):
        parse_yaml("[" * MAX_LEVELS + "1" + "]" * MAX_LEVELS, source="f")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        "{a: " * 100_000,
        "- " * 100_000,
        "? " * 100_000,
        "[" + "1," * (MAX_NODES + 1) + "]",
        "a: &a [x]\n" + "".join(f"b{i}: [*a,*a,*a]\n" for i in range(1000)),
        "".join(f"k{i}: 1\n" for i in range(90_000)),
        "a: '" + "x\n" * 400_000,
        "a: " + "x \n " * 200_000,
        "#" * 1_000_000,
        "!" * 500_000,
        "%" * 500_000,
        "\n" * 1_000_000,
    ],
)
def test_bombs_end_fast_without_a_crash(text: str) -> None:
    started = time.process_time()
    scan_yaml(text, source="f")
    assert time.process_time() - started < WORST_SECONDS


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
    | st.sampled_from(
        ["1e-3", "NO", "~", "", "null", "017", ".nan", "a: b", "- x", "#", "\u2028", "\x85", "a\nb", "0o7"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcd1~é ", max_size=3), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "1", "null", "NO"]), PLAIN, max_size=3))
def test_a_dumped_configuration_reads_back_equal(args: dict[str, Any]) -> None:
    config = RunConfig(task="task.py:make_task", task_args=args)
    assert check_config_text(dump_config(config), source="f") == config


def mutated(text: str, rng: random.Random) -> bytes:
    """Return the text with a few random edits of bytes or of whole pieces."""
    raw = bytearray(text.encode())
    pieces = [
        b"&a ",
        b"*a",
        b"!!x ",
        b"{",
        b"[",
        b"]",
        b"}",
        b": ",
        b"- ",
        b"? ",
        b"\n",
        b"\t",
        b"'",
        b'"',
        b"1e999",
        b"%",
        b"|",
    ]
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(raw))
        match rng.randrange(5):
            case 0:
                raw[at] = rng.randrange(256)
            case 1:
                del raw[at : at + rng.randint(1, 40)]
            case 2:
                raw[at:at] = rng.choice(pieces) * rng.randint(1, 3)
            case 3:
                raw[at:at] = raw[at : at + rng.randint(1, 200)]
            case _:
                raw[at:at] = "".join(rng.choices(string.printable, k=rng.randint(1, 10))).encode()
        if not raw:
            raw = bytearray(b"a")
    return bytes(raw)


def check_fuzzed(tmp_path: Path, seeds: range) -> None:
    path = tmp_path / "f.yaml"
    read = 0
    for seed in seeds:
        path.write_bytes(mutated(TEMPLATE, random.Random(seed)))
        started = time.process_time()
        problems = [f"{path}:"]
        try:
            validate(RunConfig, read_yaml(path))
            read += 1
        except ConfigError as error:
            problems = list(error.problems)
        assert problems
        assert all(p.startswith(f"{path}:") for p in problems)
        assert time.process_time() - started < WORST_SECONDS, seed
    assert 0 < read < len(seeds)


def test_mutated_files_are_read_or_refused_but_never_crash(tmp_path: Path) -> None:
    check_fuzzed(tmp_path, range(300))


@pytest.mark.slow
def test_many_mutated_files_are_read_or_refused_but_never_crash(tmp_path: Path) -> None:
    check_fuzzed(tmp_path, range(1_000, 14_000))


@pytest.mark.slow
def test_the_pure_python_parser_of_pyyaml_reads_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [mutated(TEMPLATE, random.Random(seed)).decode(errors="ignore") for seed in range(500)]
    fast = [scan_yaml(text, source="f") for text in texts]
    monkeypatch.setattr("autoprune.config.reader._LOADER", yaml.SafeLoader)
    both = 0
    for text, (document, problems) in zip(texts, fast, strict=True):
        slow_document, slow_problems = scan_yaml(text, source="f")
        if not problems and not slow_problems:
            both += 1
            assert slow_document == document
    assert both > 50
