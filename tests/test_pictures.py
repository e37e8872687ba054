"""pictures.json: what the run draws is what its models are, bounded, checked on reading, and harmless as pixels."""

from __future__ import annotations

import base64
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from front_factory import front
from pydantic import ValidationError
from report_factory import rich_front, rich_pictures
from test_examination import QUICK
from test_search import load, run_dir
from torch import nn

import autoprune
from autoprune.evaluation import confusion
from autoprune.groups import find_groups
from autoprune.groups.types import ArchitecturePlan, Edit
from autoprune.report import FrontDocument, read_front, write_front
from autoprune.report.examined import Examination
from autoprune.report.html import html_report, write_report
from autoprune.report.html.images import png_of
from autoprune.report.pictures import (
    LONGEST_NAME,
    LONGEST_SIDE,
    LONGEST_TEXT,
    MOST_GROUPS,
    MOST_SAMPLES,
    PICTURES_FILE,
    Pictures,
    Raster,
    digest_of,
    read_pictures,
)
from autoprune.search.pictures import Shown, kept_units, names_apart, pictures_of
from autoprune.search.run import run
from autoprune.tasks import ClassificationTask, Evaluated, LabelledArrays, Sample
from autoprune.tasks.protocol import Inputs, Split


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FrontDocument, Path]:
    """The front of a small run and its directory."""
    folder = tmp_path_factory.mktemp("pictured")
    return run(load(folder, *QUICK, sampler="random")).front, run_dir(folder)


Finished = tuple[FrontDocument, Path]


def pictures_in(finished: Finished) -> Pictures:
    found = read_pictures(finished[1], finished[0])
    assert found is not None
    return found


def test_the_units_drawn_are_those_of_the_plan_and_the_filters_those_of_the_dense_model(finished: Finished) -> None:
    front, directory = finished
    pictures = pictures_in(finished)
    assert set(pictures.shown) == set(front.picks.values())
    dense = tiny.make_task().build_model()
    for member in (m for m in front.members if m.id in pictures.shown):
        model = autoprune.load(directory / str(member.directory), dense)
        bits = {g.group: g.members[member.id] for g in pictures.groups}
        assert bits["wide"].count("1") == model.get_parameter("wide.weight").shape[0]
        plan = json.loads((directory / str(member.directory) / "plan.json").read_text())
        kept = plan["kept"].get("stem.weight", {}).get("0", list(range(16)))
        assert [i for i, bit in enumerate(bits["stem"]) if bit == "1"] == kept
    assert pictures.filters is not None
    assert pictures.filters.group == "stem"
    weight = dense.get_parameter("stem.weight").detach().numpy()
    darkest = np.unravel_index(int(weight.argmin()), weight.shape)
    assert pictures.filters.filters[int(darkest[0])].pixels()[3 * int(darkest[2]) + int(darkest[3])] == 0


def test_samples_tell_what_the_models_answer(finished: Finished) -> None:
    front, directory = finished
    pictures, task = pictures_in(finished), tiny.make_task()
    assert len(pictures.samples) == MOST_SAMPLES
    models = {m.id: autoprune.load(directory / str(m.directory), task.build_model()).eval() for m in front.members}
    for sample in pictures.samples:
        x, label = task.data.x[[int(sample.id)]], int(task.data.y[int(sample.id)])
        assert int(sample.id) in task.data.splits["val"]
        assert sample.label == str(label)
        for identity, answer in (("", sample.dense), *sample.members.items()):
            model = models[identity] if identity else task.build_model()
            with torch.no_grad():
                shares = model(x).softmax(dim=1)[0]
            assert answer.text == str(int(shares.argmax()))
            assert answer.right is (answer.text == sample.label)
            assert answer.share == pytest.approx(float(shares.max()), abs=1e-4)


def test_confusions_are_those_of_the_scores_on_test(finished: Finished) -> None:
    pictures, task = pictures_in(finished), tiny.make_task()
    model = task.build_model()
    with torch.no_grad():
        scored = task.evaluate(lambda inputs: model(*inputs.args), "test")
    counts = confusion(scored)
    assert counts is not None
    assert pictures.confusion is not None
    assert [list(row) for row in pictures.confusion.dense] == counts.tolist()
    assert set(pictures.confusion.members) == set(pictures.shown)


def test_the_report_is_rebuilt_with_its_pictures_and_without_them_where_they_were_altered(finished: Finished) -> None:
    front, directory = finished
    before = (directory / "report.html").read_text()
    assert before.count("data:image/png") == MOST_SAMPLES + 16 * len(set(front.picks.values()))
    write_report(directory)
    assert (directory / "report.html").read_text() == before
    content = (directory / PICTURES_FILE).read_bytes()
    try:
        (directory / PICTURES_FILE).write_bytes(content.replace(b"true", b"false", 1))
        assert read_pictures(directory, read_front(directory)) is None
        write_report(directory)
        assert "missing or was altered" in (directory / "report.html").read_text()
        (directory / PICTURES_FILE).unlink()
        assert read_pictures(directory, read_front(directory)) is None
    finally:
        (directory / PICTURES_FILE).write_bytes(content)


def test_pictures_that_are_no_pictures_are_not_drawn(tmp_path: Path) -> None:
    for content in (b"[", b"{}x", b'{"shown": 3}', b'{"schema_version": "9"}'):
        document = front(examination=Examination(units=1, seconds=0.0, pictures_sha256=digest_of(content)))
        (tmp_path / PICTURES_FILE).write_bytes(content)
        assert read_pictures(tmp_path, document) is None
    assert read_pictures(tmp_path, front()) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": [{"group": "a", "members": {"x": "01", "y": "011"}}]},
        {"groups": [{"group": "a", "members": {"x": "<b>"}}]},
        {"samples": [{"id": "1", "dense": {"text": "7"}, "members": {}, "image": {"height": 2, "width": 2}}]},
        {"filters": {"group": "a", "filters": [{"height": 2, "width": 2, "channels": 1, "data": "AAAA"}]}},
        {"filters": {"group": "a", "filters": [{"height": 1, "width": 1, "channels": 1, "data": '">'}]}},
        {"confusion": {"names": ["a", "b"], "dense": [[1, 2]], "members": {}}},
        {"confusion": {"names": ["a"], "dense": [[10**400]], "members": {}}},
        {"confusion": {"names": ["a"], "dense": [[-1]], "members": {}}},
        {"groups": [{"group": "a", "members": {"x": "01"}}] * 2},
        {"shown": ["a"] * 5},
        {"extra": 1},
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Pictures.model_validate(changes)


@pytest.mark.parametrize(("channels", "colour"), [(1, 0), (3, 2)])
def test_an_image_becomes_a_png_of_the_same_pixels(channels: int, colour: int) -> None:
    pixels = bytes(range(2 * 5 * channels))
    raster = Raster(height=2, width=5, channels=channels, data=base64.b64encode(pixels).decode())
    png = png_of(raster)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    parts, rest = {}, png[8:]
    while rest:
        size, kind = struct.unpack(">I", rest[:4])[0], rest[4:8]
        assert struct.unpack(">I", rest[8 + size : 12 + size])[0] == zlib.crc32(rest[4 : 8 + size])
        parts[kind], rest = rest[8 : 8 + size], rest[12 + size :]
    assert list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    assert struct.unpack(">IIBBBBB", parts[b"IHDR"]) == (5, 2, 8, colour, 0, 0, 0)
    rows = zlib.decompress(parts[b"IDAT"])
    stride = 5 * channels
    assert rows == b"\0" + pixels[:stride] + b"\0" + pixels[stride:]


def test_a_group_inside_a_block_that_was_taken_out_keeps_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    groups = find_groups(model, Inputs((torch.zeros(2, 4),), {}))
    (group,) = groups.groups
    whole = ArchitecturePlan({}, {}, {}, {}, ())
    assert kept_units(groups, group, whole).all()
    removed = ArchitecturePlan({}, {}, {}, {}, (), (Edit("remove", "0"),))
    assert not kept_units(groups, group, removed).any()
    some = ArchitecturePlan({"0.weight": {0: (1, 4)}}, {}, {}, {"0.weight": (2, 4)}, ())
    assert np.flatnonzero(kept_units(groups, group, some)).tolist() == [1, 4]


def test_groups_whose_names_are_long_and_alike_stay_apart() -> None:
    names = [f"{'block.' * 20}{n}" for n in range(12)]
    told = names_apart(["stem", *names])
    assert told[0] == "stem"
    assert len(set(told)) == 13
    assert max(map(len, told)) == LONGEST_NAME
    assert names_apart(["a", "b"]) == ["a", "b"]


def test_groups_that_are_not_drawn_are_counted() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(MOST_GROUPS + 4)))
    groups = find_groups(model, Inputs((torch.zeros(2, 4),), {}))
    assert len(groups.groups) == MOST_GROUPS + 3
    scored = Evaluated({}, "row", ("0",), {})
    task = ClassificationTask(nn.Linear(4, 2), LabelledArrays(np.zeros((60, 4)), np.arange(60) % 2))
    shown = {"m": Shown(ArchitecturePlan({}, {}, {}, {}, ()), scored, scored)}
    found = pictures_of(task, groups, model, Shown(None, scored, scored), shown, seed=0)
    assert (len(found.groups), found.groups_left_out) == (MOST_GROUPS, 3)


class Texts(ClassificationTask):
    """Shows long texts and wide images."""

    def samples(self, split: Split, count: int, seed: int) -> list[Sample]:
        wide = np.random.default_rng(0).random((3 * LONGEST_SIDE, 300, 3)).astype(np.float32)
        return [
            Sample("0", text="word " * 1000, label="x" * 500),
            Sample("1", image=wide, label=None),
            Sample("2", image=wide[:2, :, 0]),
            Sample("nobody", text="no model has answered it"),
        ]


def test_texts_and_images_of_any_size_stay_small() -> None:
    data = LabelledArrays(np.zeros((60, 4)), np.arange(60) % 2)
    model = nn.Linear(4, 2)
    task = Texts(model, data)
    groups = find_groups(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), Inputs((torch.zeros(2, 4),), {}))
    scored = Evaluated({}, "row", ("0", "1", "2"), {}, np.eye(3, 2, dtype=np.float32), np.array([0, 0, 1]))
    shown = {"m": Shown(ArchitecturePlan({}, {}, {}, {}, ()), scored, scored)}
    inner = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    found = pictures_of(task, groups, inner, Shown(None, scored, scored), shown, seed=0)
    assert {s.id for s in found.samples} == {"0", "1", "2"}
    for sample in found.samples:
        assert sample.text is None or len(sample.text) == LONGEST_TEXT
        assert sample.image is None or max(sample.image.height, sample.image.width) <= LONGEST_SIDE
    assert found.filters is None
    assert Pictures.model_validate(json.loads(found.to_bytes())) == found


def test_a_regression_answers_numbers_and_has_no_confusion() -> None:
    outputs = np.array([[1.25], [2.0]], dtype=np.float32)
    scored = Evaluated({}, "row", ("0", "1"), {}, outputs)
    data = LabelledArrays(np.zeros((60, 4)), np.arange(60) % 2)
    groups = find_groups(nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2)), Inputs((torch.zeros(2, 4),), {}))
    inner = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))
    shown = {"m": Shown(ArchitecturePlan({}, {}, {}, {}, ()), scored, scored)}
    found = pictures_of(Texts(nn.Linear(4, 2), data), groups, inner, Shown(None, scored, scored), shown, seed=0)
    assert [(s.dense.text, s.dense.share, s.dense.right) for s in found.samples] == [
        ("1.25", None, None),
        ("2", None, None),
    ]
    assert found.confusion is None


def test_members_that_the_front_does_not_know_are_not_drawn(tmp_path: Path) -> None:
    document = rich_front()
    strange = rich_pictures(document).model_copy(update={"shown": ("nobody",)})
    assert "No pictures were kept" in html_report(document, [], strange)
    write_front(document, tmp_path)
    assert read_pictures(tmp_path, document) is None
