"""report.html: complete without scripts, harmless with any name, small, and the same for the same run."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from front_factory import OTHER, TARGET, estimate, front, front_json, member
from page_reader import Page, picked_by
from report_factory import GROUPS, HOSTILE, examined_parts, hostile_front, rich_front, rich_pictures, rich_records
from typer.testing import CliRunner

from autoprune.cli.app import app
from autoprune.errors import StorageError
from autoprune.records import CandidateRecord, RecordStore
from autoprune.report import FrontDocument, read_front, write_front
from autoprune.report.endings import ENDINGS, why_ended
from autoprune.report.html import assets, html_report, write_report
from autoprune.report.html.figures import Limits
from autoprune.report.html.page import write_html
from autoprune.report.pictures import PICTURES_FILE, digest_of
from autoprune.search.loop import EVALUATIONS, EXHAUSTED, PLATEAU

REFERENCE = Path(__file__).resolve().parent.parent / "results" / "reference" / "digits"
LIMIT = 1_500_000
PARAMETERS = {"name": "parameters", "direction": "min", "unit": "count", "scale": "log"}


def three_objectives(count: int = 7) -> FrontDocument:
    return rich_front(count, objectives=[*front_json()["objectives"], PARAMETERS])


def without_latency() -> FrontDocument:
    plain = front_json(objectives=front_json()["objectives"][:1])
    for one in (plain["baseline"], *plain["members"]):
        for deployment in one["deployments"].values():
            deployment["latency"] = None
    return FrontDocument.model_validate(plain)


def on_val_alone() -> FrontDocument:
    plain = front_json()
    for one in (plain["baseline"], *plain["members"]):
        for deployment in one["deployments"].values():
            deployment["quality"].pop("test")
    return FrontDocument.model_validate(plain)


def minimised() -> FrontDocument:
    text = FrontDocument.model_validate(front_json()).model_dump_json().replace('"accuracy"', '"perplexity"')
    plain = FrontDocument.model_validate_json(text).to_json()
    plain["objectives"][0] |= {"direction": "min", "unit": "value"}
    return FrontDocument.model_validate(plain)


FRONTS: dict[str, Callable[[], FrontDocument]] = {
    "reference": lambda: read_front(REFERENCE),
    "plain": front,
    "rich": rich_front,
    "hostile": hostile_front,
    "three objectives": three_objectives,
    "one member": lambda: rich_front(1),
    "empty": lambda: front(members=[], picks={}, constraints=[]),
    "no picks": lambda: front(picks={}),
    "no latency": without_latency,
    "val alone": on_val_alone,
    "minimised metric": minimised,
}


@cache
def page_text(name: str) -> str:
    document = FRONTS[name]()
    if name not in ("rich", "hostile"):
        return html_report(document, [])
    pictures = rich_pictures(document, HOSTILE if name == "hostile" else "a plain text")
    return html_report(document, rich_records(document), pictures)


@cache
def page(name: str) -> Page:
    return Page(page_text(name))


@pytest.mark.parametrize("name", FRONTS)
def test_every_front_gives_a_page_that_allows_its_own_inline_parts_alone(name: str) -> None:
    shown = page(name)
    policy = dict(part.strip().split(" ", 1) for part in shown.meta("Content-Security-Policy").split(";"))
    data, *scripts = shown.scripts
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"].split() == [hash_source(text) for text in scripts]
    assert policy["style-src"].split() == [hash_source(text) for text in shown.styles]
    assert data
    assert (len(scripts), len(shown.styles)) == (2, 1)
    attributes = {key for _, found in shown.elements for key in found}
    assert "style" not in attributes
    assert not [key for key in attributes if key.startswith("on")]


def hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@pytest.mark.parametrize("name", FRONTS)
def test_a_page_names_nothing_outside_itself(name: str) -> None:
    links = [
        a.get(key) or "" for _, a in page(name).elements for key in ("href", "src", "action", "srcset") if key in a
    ]
    own = [link for link in links if re.fullmatch(r"data:image/png;base64,[A-Za-z0-9+/]+={0,2}", link)]
    assert all(link.startswith("#") for link in links if link not in own)
    assert len(own) == len(page(name).all("img"))
    assert not {t for t, _ in page(name).elements} & {"link", "iframe", "object", "embed", "base", "video"}
    own = page_text(name).replace(assets.echarts(), "")
    assert not re.findall(r"https?://[^\s\"'<]+|url\(|@import", own)


@pytest.mark.parametrize("name", FRONTS)
def test_links_and_labels_inside_a_page_lead_somewhere(name: str) -> None:
    ids = [a["id"] for _, a in page(name).elements if "id" in a]
    assert len(ids) == len(set(ids))
    aims = [(a["href"] or "")[1:] for a in page(name).all("a")] + [
        a["for"] for a in page(name).all("label") if "for" in a
    ]
    assert set(aims) <= set(ids)


@pytest.mark.parametrize("name", FRONTS)
def test_no_number_is_shown_raw_or_missing(name: str) -> None:
    assert not re.findall(r"\bnan\b|\binf\b|\bNone\b|\bundefined\b|\d\.\d{7,}", page(name).text)


def test_the_verdict_names_model_gains_change_and_evidence() -> None:
    reference, text = read_front(REFERENCE), page("reference").text
    taken = next(m for m in reference.members if m.id == reference.picks["balanced"])
    form = reference.deployment(taken)
    latency, change = form.latency, form.versus_dense["accuracy"]
    assert latency is not None
    smaller = reference.baseline.bytes / taken.bytes
    lost, low, high = (f"{100 * v:+.1f}".replace("-", "−") for v in (change.delta, change.low, change.high))
    gains = f"{smaller:.1f}x smaller and {latency.speedup:.1f}x faster"
    assert f"Take model {taken.name} : {gains}, {lost} points of accuracy [{low}, {high}]." in text
    assert "n = 270 images" in text
    assert ("Non-inferiority is not shown" in text) is not change.noninferior
    speedup = f"{latency.speedup:.2f}x [{latency.speedup_low:.2f}, {latency.speedup_high:.2f}]"
    assert f"The speed-up is {speedup}, timed side by side with the dense model" in text


def test_a_model_within_the_margin_is_called_non_inferior() -> None:
    text = Page(html_report(rich_front(picks={"balanced": "m000"}), [])).text
    assert (
        "It is non-inferior: the whole 95% interval of the paired change lies within the margin of 0.5 points." in text
    )


def test_without_scripts_the_page_holds_every_figure_and_table() -> None:
    shown = page("rich")
    text = shown.text
    for id_ in ("front-test-latency_ms", "front-val-latency_ms", "parallel", "heat", "predicted", "trust", "history"):
        assert [a for a in shown.all("figure") if a["id"] == f"chart-{id_}"], id_
    drawn = [a for a in shown.all("svg") if a.get("role") == "img"]
    filters = [a for a in shown.all("div") if a.get("class") == "filters"]
    assert len(drawn) == len(shown.all("figure")) - len(filters) == 12 + 2 + 1 + 3 * 3
    assert len(filters) == 3
    assert all(a["aria-label"] for a in drawn)
    for told in (
        *("most accurate", "balanced", "fastest, smallest", "dense model", "control: uniform", "candidate, proxy"),
        *("Rank correlation 0.83 0.72", "Same-cost concordance 0.75 0.61", "interval 91%", "error 1.2 points"),
        *("no fall-back was used", "clearly better", "the front had stopped growing", "out_of_memory evaluation 1"),
        *("4 after step 40", "± 0.30", "40% of the latency samples", "criterion", "permutation of the predictor"),
        *("Reads of the test split 4", "torch 2.13", "autoprune search config.yaml", "interleaved, minimum"),
        *("Robustness and stability", "67.0% [66.0, 68.0]", "−3.0 [−6.0, +1.0]", "shift:mirrored", "0.0123"),
        *("+1.2 [−0.4, +3.1]", "7: −3.0", "500 units a measurement", "a plain text", "✓ right:", "✗ wrong:"),
        *("filters kept; removed:", "units kept", "− dense"),
        *GROUPS,
    ):
        assert told in text, told


def test_sections_without_data_say_so_in_a_sentence() -> None:
    text = page("plain").text
    for told in (
        "The sparsity of single groups is not known for this front.",
        "This search used no learned predictor.",
        "no controls to compare with",
        "The growth of the hypervolume was not recorded",
        "The importance of groups and choices was not estimated.",
        "No candidate was stopped early.",
        "recovered with one seed",
        "Robustness, stability and agreement with the dense model were not measured for this front.",
        "No pictures were kept of this run.",
    ):
        assert told in text, told
    assert "No model to take." in page("empty").text
    assert "No latency was measured." in page("no latency").text


def examined(**changes: Any) -> str:
    """Return the words of a page whose dense model and one member have the parts of `examined_parts`, changed."""
    plain = front_json()
    dense = {**plain["baseline"], **examined_parts(dense=True)} | changes.pop("dense", {})
    one = member("a", 0.98, 3.0, **(examined_parts() | changes.pop("member", {})))
    found = {"members": [one], "baseline": dense, "picks": {"balanced": "a"}, "constraints": []}
    return Page(html_report(front(**(found | changes)), [])).text


def warned(text: str) -> dict[str, Any]:
    return {"warnings": [{"code": "robustness", "text": text}]}


def test_the_gap_of_training_data_is_explained_by_the_direction_of_the_metric() -> None:
    assert "the further above 0, the more was learnt by heart" in page("rich").text
    stability = json.loads(json.dumps(examined_parts()["stability"]).replace("accuracy", "perplexity"))
    plain = minimised().to_json()
    plain["members"][0]["stability"] = stability
    shown = Page(html_report(FrontDocument.model_validate(plain), [])).text
    assert "the further below 0, the more was learnt by heart" in shown
    assert "the further above 0" not in shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"examination": {"units": 0, "seconds": 0.1}}, "were switched off for this run: robustness.units is 0."),
        ({"examination": {"units": 9, "seconds": 0.1}}, "knows no corruption and no shifted domain."),
        ({}, "knows no corruption and no shifted domain, or they were not measured."),
        ({"dense": warned("no lens")}, "Robustness could not be measured."),
    ],
)
def test_why_there_are_no_conditions_is_told(changes: dict[str, Any], told: str) -> None:
    nothing: dict[str, Any] = {"robustness": {}}
    dense = nothing | changes.pop("dense", {})
    text = examined(dense=dense, member=nothing, **changes)
    assert told in text
    assert ("dense : no lens" in text) is ("warnings" in dense)


def test_conditions_that_the_dense_model_fails_at_are_shown_of_the_members_with_the_reason() -> None:
    known = examined_parts(dense=True)["robustness"]
    changes = {"robustness": {"clean": known["clean"]}, **warned("It could not be scored under noise_1: no lens")}
    text = examined(dense=changes)
    assert "dense : It could not be scored under noise_1: no lens" in text
    assert "noise 1 – 67.0% [66.0, 68.0] −3.0 [−6.0, +1.0]" in text


def test_classes_of_one_name_keep_their_own_figures() -> None:
    values = (0.91, 0.52)
    classes = [{"number": n, "name": "cat", "accuracy": estimate(value)} for n, value in enumerate(values)]
    text = examined(dense={"classes": classes}, member={"classes": classes})
    for told in ("91.0% [90.0, 92.0]", "52.0% [51.0, 53.0]"):
        assert text.count(f"{told} {told}") == 1, told


def test_the_class_with_the_greatest_loss_is_left_empty_where_none_lost() -> None:
    change = examined_parts()["classes"][0]["change"]
    better = {"name": "7", "accuracy": estimate(0.9), "change": change | {"delta": 0.02, "low": 0.0, "high": 0.04}}
    same = better | {"change": better["change"] | {"delta": 0.0}}
    worse = better | {"name": "3", "change": change}
    assert "3: −3.0" in examined(member={"classes": [better, worse]})
    assert not re.search(r"7: [+−0]", examined(member={"classes": [better, same]}))
    assert "the extreme of several, in part by chance" in examined()


def test_units_kept_of_some_groups_alone_are_told_as_such() -> None:
    document = rich_front()
    pictures = rich_pictures(document)
    assert not re.search(r"units kept in \d", Page(html_report(document, [], pictures)).text)
    text = Page(html_report(document, [], pictures.model_copy(update={"groups_left_out": 5}))).text
    drawn = len(pictures.groups)
    assert f"units kept in {drawn} of {drawn + 5} groups" in text
    assert "Left out are groups after the first 64, and those of more than 4,096 units." in text


@pytest.mark.parametrize(
    ("pictured", "told"),
    [
        (0, "The pictures of this run were left out for the size of this page"),
        (2, "The pictures of 1 further pick were left out for the size of this page."),
        (3, ""),
    ],
)
def test_pictures_that_a_page_has_no_room_for_are_told(
    monkeypatch: pytest.MonkeyPatch, pictured: int, told: str
) -> None:
    document = rich_front()
    assert len(set(document.picks.values())) == 3
    monkeypatch.setattr("autoprune.report.html.page.Limits", partial(Limits, pictured=pictured))
    text = Page(html_report(document, [], rich_pictures(document))).text
    assert told in text
    assert ("were left out for the size" in text) is bool(told)
    assert "No pictures were kept" not in text


def test_figures_of_any_size_give_a_page() -> None:
    norms = {"stem": 1.7e308, "fc": 1e-320}
    stability = examined_parts()["stability"] | {"gradient_norm": norms}
    huge = {"value": 1.7e308, "low": -1.7e308, "high": 1.7e308, "n": 2**62, "unit": "image", "method": "wilson"}
    known = {"clean": {"kind": "clean", "quality": {"accuracy": huge}}}
    parts = {"stability": stability, "robustness": known}
    assert "Gradient of the loss by layer" in examined(dense=parts, member=parts)


def test_a_crafted_directory_ends_with_a_report_or_in_one_line(tmp_path: Path) -> None:
    document = rich_front()
    pictures = json.loads(rich_pictures(document).to_bytes())
    pictures["confusion"]["dense"][0][0] = 10**400
    content = json.dumps(pictures).encode()
    plain = document.to_json()
    plain["examination"]["pictures_sha256"] = digest_of(content)
    plain["baseline"]["stability"]["gradient_norm"] |= {"fc": 1.7e308, "stem": 1e-320}
    write_front(FrontDocument.model_validate(plain), tmp_path)
    (tmp_path / PICTURES_FILE).write_bytes(content)
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert (done.exit_code, done.exception) == (0, None)
    assert "pictures.json is missing or was altered" in Page((tmp_path / "report.html").read_text()).text
    plain["members"][0]["macs"] = 10**400
    (tmp_path / "front.json").write_text(json.dumps(plain))
    done = CliRunner().invoke(app, ["report", str(tmp_path)])
    assert done.exit_code == StorageError.exit_code
    assert "members.0.macs: Input should be less than" in " ".join(done.output.split())


def test_figures_that_no_page_can_be_drawn_of_are_an_error_of_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def divide(*_: Any) -> str:
        return str(1 / 0)

    monkeypatch.setattr("autoprune.report.html.page.html_report", divide)
    with pytest.raises(StorageError, match=r"report\.html cannot be drawn: division by zero\."):
        write_html(front(), [], tmp_path / "report.html")


def test_a_fall_back_of_the_predictor_is_told_with_its_reason() -> None:
    info = {"n": 30, "fallback_used": True, "fallback_reason": "no better than cost"}
    assert (
        "The search fell back on its prior: no better than cost." in Page(html_report(front(predictor=info), [])).text
    )


@pytest.mark.parametrize("name", FRONTS)
def test_the_command_of_every_member_picks_that_member(name: str) -> None:
    document = FRONTS[name]()
    commands = re.findall(r'<td class="words"><code class="command">(.*?)</code>', page_text(name))
    assert len(commands) == len(document.members)
    for shown, one in zip(commands, document.members, strict=True):
        assert picked_by(document, shown.replace("&gt;", ">").replace("&lt;", "<").replace("&#39;", "'")) == one.id


def test_a_member_that_pick_refuses_is_copied_by_its_directory() -> None:
    document = front(members=[member("a", 0.98, 3.0, feasible=False, directory="front/a b")], picks={}, constraints=[])
    assert "cp -r &#39;front/a b&#39; DIR" in html_report(document, [])


def test_hostile_names_stay_text() -> None:
    shown, text = page("hostile"), page_text("hostile")
    assert [a.get("type") for a in shown.all("script")] == ["application/json", None, None]
    assert "alert(1)" in shown.text
    assert "<script>alert" not in text
    assert "alert(1)</script>" not in text
    assert not set("\u2028\u202e") & set(text)
    assert not re.search(r"[<>&]", shown.scripts[0])
    assert HOSTILE.startswith(shown.data["models"][0]["name"][:30])


def test_the_page_is_the_same_each_time() -> None:
    document = rich_front()
    records = rich_records(document)
    assert html_report(document, records) == html_report(document, records)


def test_two_hundred_models_three_objectives_and_ten_thousand_records_stay_small() -> None:
    document = three_objectives(200)
    some = rich_records(document)[:111]
    records = [replace(some[n % 111], id=f"{n:016x}-short", number=n) for n in range(1, 10_001)]
    text = html_report(document, records, rich_pictures(document))
    assert len(text.encode()) < LIMIT
    assert len([a for a in Page(text).all("tr") if "data-model" in a]) == 200


def test_candidates_are_drawn_but_controls_and_repeats_are_no_candidates() -> None:
    document = front()
    base = rich_records(rich_front())[105]
    near = {"values": {"accuracy": 0.95, "latency_ms": 2.5}}
    records = [
        replace(base, id="1-full", **near),
        replace(base, id="2-full-r1", repeat=1, **near),
        replace(base, id="3-full", origin="control:uniform", **near),
        replace(base, id="a", **near),
        replace(base, id="0-full", number=0, **near),
    ]
    drawn = Page(html_report(document, records)).data["charts"]["front-val-latency_ms"]["series"]
    points = [point for series in drawn if series["group"] == "candidates" for point in series["points"]]
    assert points == [[2.5, 95.0]]


def test_predictions_stand_beside_what_was_measured() -> None:
    record = replace(
        rich_records(rich_front())[30],
        values={"accuracy": 0.9, "latency_ms": 1.0},
        predicted={"accuracy": {"mean": 0.92, "std": 0.01, "at_evaluation": 3}},
    )
    (series,) = Page(html_report(front(), [record])).data["charts"]["predicted"]["series"]
    ((measured, predicted, _, interval, *_),) = series["points"]
    assert (measured, predicted) == (90.0, 92.0)
    assert interval == pytest.approx([90.355, 93.645])


@pytest.mark.parametrize("told", [None, "x", {"mean": "high"}, {"mean": True}, {"std": 1.0}])
def test_records_that_predict_nothing_readable_are_passed_over(told: Any) -> None:
    record = replace(rich_records(rich_front())[30], predicted={"accuracy": told})
    assert "predicted" not in Page(html_report(front(), [record])).data["charts"]


def test_sparsity_comes_from_the_records_where_the_front_has_none() -> None:
    record = replace(rich_records(rich_front())[0], id="a", policy={"sparsity": {"l10": 0.5, "l2": 0.25}})
    heat = Page(html_report(front(), [record])).data["charts"]["heat"]
    assert heat["columns"] == ["l2", "l10"]
    assert heat["values"] == [[25, 50], [0, 0], [0, 0]]


def test_a_run_directory_gets_its_report_by_function_and_by_command(tmp_path: Path) -> None:
    document = rich_front()
    run = tmp_path / "digits"
    write_front(document, run)
    records: list[CandidateRecord] = rich_records(document)[:5]
    for record in records:
        RecordStore(run).write(record)
    write_report(run)
    assert (run / "report.html").read_text(encoding="utf-8") == html_report(document, records)
    (run / "report.html").unlink()
    assert CliRunner().invoke(app, ["report", str(run)]).exit_code == 0
    assert (run / "report.html").read_text(encoding="utf-8") == html_report(document, records)


def test_the_chart_library_is_the_pinned_one_with_its_licence(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = files("autoprune.report.html") / "vendor"
    pinned = "b66b25aeb4df84e33199dc21694014d336d222cbd9deb0e5a7c14bd6aa0d0fd0"
    assert assets.ECHARTS_SHA256 == pinned == hashlib.sha256((folder / "echarts.min.js").read_bytes()).hexdigest()
    assert "Apache License" in (folder / "LICENSE").read_text()
    assert "Apache ECharts" in (folder / "NOTICE").read_text()
    assets.echarts.cache_clear()
    monkeypatch.setattr(assets, "ECHARTS_SHA256", 64 * "0")
    with pytest.raises(StorageError, match="altered"):
        assets.echarts()


def test_the_report_is_imported_without_what_only_rendering_needs() -> None:
    heavy = ["jinja2", "torch", "optuna", "ray"]
    code = f"import sys, autoprune.report.html; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_target_has_its_latency_and_hardware() -> None:
    shown = page("rich")
    assert {TARGET, OTHER} <= {shown.data["charts"][f"latency-{n}"]["description"].split()[2] for n in (0, 1)}
    five = shown.data["charts"]["latency-0"]["rows"][1]["quantiles"]
    assert len(five) == 5
    assert five == sorted(five)


@pytest.mark.parametrize("reason", [EVALUATIONS, PLATEAU, EXHAUSTED, "minutes", "cpu_seconds"])
def test_every_way_in_which_a_search_ends_has_its_words(reason: str) -> None:
    told = html_report(rich_front().model_copy(update={"ended_because": reason}), [])
    assert f"The search ended: {ENDINGS[reason]}." in told
    assert why_ended(front().model_copy(update={"ended_because": None})) == ""
