"""A rich run for tests of the report: front, controls, predictor, history, importance, seeds, and its records."""

from __future__ import annotations

import base64
import math
import random
from dataclasses import replace
from typing import Any

from front_factory import OTHER, TARGET, estimate, front_json, latency, member
from record_factory import RECORD

from autoprune.records import CandidateRecord, Report
from autoprune.report import FrontDocument
from autoprune.report.pictures import Answer, Confusions, Filters, KeptUnits, Pictures, Raster, SampleShown

GROUPS = [f"layer{stage}.{block}.conv{n}" for stage in (1, 2, 3) for block in (0, 1, 2) for n in (1, 2)]
DENSE_MS = 4.0
HOSTILE = "</script><script>alert(1)</script>]]>\"'&\u2028\u202e{a|b}" + "x" * 120 + "\u05d0\u05d1"


def rich_front(count: int = 7, **changes: Any) -> FrontDocument:
    """Return a front with every optional part."""
    dice = random.Random(0)
    members = [_member(index, count, dice) for index in range(count)]
    last = max(count - 1, 0)
    picks = {"most_accurate": 0, "balanced": count // 2, "fastest": last, "smallest": last}
    uniform = [member(f"u{i}", 0.93 + 0.012 * i, 1.1 + 0.5 * i, directory=None) for i in range(4)]
    drawn = [member(f"r{i}", 0.9 + 0.02 * i, 1.0 + 0.7 * i, directory=None) for i in range(4)]
    controls = {"uniform": [_val_only(one) for one in uniform], "random": [_val_only(one) for one in drawn]}
    rounds = [_round(n, 0.6 + 0.25 * (1 - math.exp(-n / 40))) for n in range(20, 101, 10)]
    history = [
        {"evaluation": n, "fidelity": fidelity, "hypervolume": top * (1 - math.exp(-(n - start + 5) / 30))}
        for fidelity, start, end, top in (("proxy", 1, 60, 0.46), ("short", 61, 100, 0.62), ("full", 101, 112, 0.7))
        for n in range(start, end)
    ]
    shares = [1 / (2 + i) for i in range(len(GROUPS))]
    importance = {
        "groups": {name: 0.8 * share / sum(shares) for name, share in zip(GROUPS, shares, strict=True)},
        "choices": {"criterion": 0.12, "recovery": 0.06, "learning_rate": 0.02},
        "method": "permutation of the predictor's inputs",
    }
    plain: dict[str, Any] = {
        "members": members,
        "picks": {name: members[index]["id"] for name, index in picks.items()} if members else {},
        "controls": controls,
        "gain_over_best_control": {"control": "uniform", "value": 0.041, "low": 0.012, "high": 0.066},
        "predictor": {**rounds[-1], "fallback_used": False, "weights": {"ridge": 0.4, "extra_trees": 0.6}}
        | {"rounds": rounds},
        "history": history,
        "importance": importance,
        "ended_because": "plateau",
        "baseline": {**front_json()["baseline"], **examined_parts(dense=True)},
        "examination": {"units": 500, "seconds": 12.5},
        "constraints": [{"expression": "accuracy>=0.9", "satisfied_by": [m["id"] for m in members]}],
        "evaluations": {"proxy": 60, "short": 40, "full": 12, "failed": 3, "stopped": 4, "controls": 8},
    }
    plain["predictor"] = {k: v for k, v in plain["predictor"].items() if k not in ("evaluation", "fidelity")}
    return FrontDocument.model_validate(front_json(**{**plain, **changes}))


def rich_records(front: FrontDocument) -> list[CandidateRecord]:
    """Return candidates of each fidelity with predictions, failures and stops."""
    dice = random.Random(1)
    found = [_candidate(number, dice) for number in range(1, 112)]
    causes = [("nonfinite", "recovery"), ("nonfinite", "recovery"), ("out_of_memory", "evaluation")]
    for number, (reason, stage) in enumerate(causes, start=112):
        failure = {"reason": reason, "stage": stage, "message": f"Candidate {number}: {reason}.\nmore"}
        found.append(replace(_named(number, "short"), state="failed", failure=failure, values={}, evaluation=None))
    for number in range(115, 119):
        reports = (Report(20, 0.5), Report(40, 0.4))
        found.append(replace(_named(number, "full"), state="stopped", reports=reports, values={}, evaluation=None))
    control = replace(_candidate(119, dice), origin="control:uniform")
    return [*found, control, *(replace(_named(120 + i, "full"), id=m.id) for i, m in enumerate(front.members))]


def rich_pictures(front: FrontDocument, text: str = "a plain text") -> Pictures:
    """Return pictures of the picks: `text` is every free text in them."""
    shown = tuple(dict.fromkeys(front.picks.values()))
    dice = random.Random(2)
    grey = Raster(height=8, width=8, channels=1, data=base64.b64encode(bytes(range(64))).decode())
    colour = Raster(height=4, width=6, channels=3, data=base64.b64encode(bytes(range(72))).decode())
    bits = {i: "".join(dice.choice("01") for _ in range(16)) for i in shown}
    groups = [KeptUnits(group=name, members=bits) for name in (text[:80], *GROUPS)]
    answers = [Answer(text=text[:80], share=0.9, right=True), Answer(text="7", share=0.4, right=False)]
    samples = [
        SampleShown(
            id=str(n),
            image=(grey, colour, None)[n % 3],
            text=text[:400] if n % 3 == 2 else None,
            label=text[:80],
            dense=answers[0],
            members=dict.fromkeys(shown, answers[n % 2]),
        )
        for n in range(12)
    ]
    before, after = ((20, 1, 0), (0, 19, 2), (3, 0, 17)), ((18, 3, 0), (0, 21, 0), (3, 2, 15))
    return Pictures(
        shown=shown,
        groups=tuple(groups),
        filters=Filters(group=text[:80], filters=(grey,) * 16),
        samples=tuple(samples),
        confusion=Confusions(names=(text[:80], "1", "2"), dense=before, members=dict.fromkeys(shown, after)),
    )


def examined_parts(name: str = "noise_1", text: str = "7", *, dense: bool = False) -> dict[str, Any]:
    """Return the parts of a member on robustness, stability, agreement and classes."""
    change = {"delta": -0.03, "low": -0.06, "high": 0.01, "test": "bonett-price", "noninferior": False, "margin": 0.005}
    changes = {} if dense else {"accuracy": change}
    kinds = {"clean": "clean", name: "corruption", "shift:mirrored": "shift"}
    losses = {"clean": 0.0, name: 0.3, "shift:mirrored": 0.5}
    conditions = {
        key: {"kind": kind, "quality": {"accuracy": estimate(0.97 - losses[key])}, "versus_dense": changes}
        for key, kind in kinds.items()
    }
    gap = {"train": estimate(0.999), "gap": 0.012, "low": -0.004, "high": 0.031}
    return {
        "robustness": conditions,
        "stability": {"gradient_norm": {text: 0.5, "fc": 0.02}, "training_gap": {"accuracy": gap}},
        "agreement": None if dense else {"same": estimate(0.955), "kl": 0.0123},
        "classes": [
            {"name": label, "accuracy": estimate(0.9), "change": None if dense else change} for label in (text, "8")
        ],
    }


def hostile_front() -> FrontDocument:
    """Return a front in which every free text tries to break out of the page."""
    bad = {"name": HOSTILE, "strategy": HOSTILE, "warnings": [{"code": "x", "text": HOSTILE}]}
    bad["sparsity"] = {HOSTILE: 0.5, "plain": 0.25}
    bad |= examined_parts(HOSTILE, HOSTILE)
    plain = front_json()
    targets = {name: {**info, "device": HOSTILE, "protocol": HOSTILE} for name, info in plain["targets"].items()}
    importance = {"groups": {HOSTILE: 0.7, "plain": 0.3}, "method": HOSTILE}
    return rich_front(
        run=HOSTILE,
        targets=targets,
        baseline={**plain["baseline"], **examined_parts(HOSTILE, HOSTILE, dense=True)},
        importance=importance,
        ended_because=HOSTILE,
        members=[member("a", 0.98, 3.0, **bad), member("b", 0.97, 2.0, **bad)],
        picks={"most_accurate": "a", "balanced": "b"},
        constraints=[{"expression": HOSTILE, "satisfied_by": []}],
        controls={HOSTILE: [member("u", 0.95, 2.5, name=HOSTILE)]},
        provenance={**plain["provenance"], "versions": {HOSTILE: HOSTILE}, "data_fingerprint": HOSTILE},
    )


def _member(index: int, count: int, dice: random.Random) -> dict[str, Any]:
    share = index / max(count - 1, 1)
    ms, accuracy = 3.2 * 0.18**share, 0.984 - 0.06 * share**2
    plain = member(f"m{index:03d}", accuracy, ms, name=f"{DENSE_MS / ms:.2f}x")
    for target in (TARGET, OTHER):
        change = plain["deployments"][target]["versus_dense"]["accuracy"]
        change |= {"low": change["delta"] - 0.003, "high": change["delta"] + 0.003}
        plain["deployments"][target]["latency"] = {
            **latency(ms, DENSE_MS, clean=index != 2),
            "quantiles_ms": [ms * f for f in (0.97, 0.99, 1.0, 1.02, 1.09)],
        }
    plain["sparsity"] = {group: round(min(0.9, share * dice.random() * 1.6), 2) for group in GROUPS}
    values = [accuracy + 0.005 + dice.gauss(0, 0.003) for _ in range(3)]
    plain["seed_spread"] = {"accuracy": {"values": values, "std": 0.003}}
    plain |= examined_parts()
    plain["predicted"] = {"accuracy": {"mean": accuracy, "std": 0.01, "at_evaluation": 90}}
    if index == 2:
        plain["warnings"] = [{"code": "noisy_latency", "text": "40% of the latency samples met foreign load."}]
    return plain


def _val_only(plain: dict[str, Any]) -> dict[str, Any]:
    for deployment in plain["deployments"].values():
        deployment["quality"] = {"val": deployment["quality"]["val"]}
    return plain


def _round(evaluation: int, tau: float) -> dict[str, Any]:
    return {
        "evaluation": evaluation,
        "fidelity": "proxy" if evaluation < 60 else "short",
        "n": evaluation - 10,
        "kendall_tau": tau,
        "same_cost_concordance": tau - 0.08,
        "cost_only": {"kendall_tau": 0.72, "concordance": 0.61},
        "mean_absolute_error": 0.012,
        "coverage_90": 0.91,
    }


def _named(number: int, fidelity: str) -> CandidateRecord:
    return replace(RECORD, id=f"{number:016x}-{fidelity}", number=number, fidelity=fidelity)


def _candidate(number: int, dice: random.Random) -> CandidateRecord:
    fidelity = "proxy" if number <= 60 else "short" if number <= 100 else "full"
    loss = {"proxy": 0.25, "short": 0.05, "full": 0.01}[fidelity]
    ms = 3.6 * 0.2 ** dice.random()
    accuracy = max(0.1, 0.985 - 0.02 * (DENSE_MS / ms - 1) - loss * dice.random())
    predicted = {"accuracy": {"mean": accuracy + dice.gauss(0, 0.012), "std": 0.012, "at_evaluation": number}}
    values = {"accuracy": accuracy, "latency_ms": ms}
    return replace(_named(number, fidelity), values=values, predicted=predicted if number > 20 else {}, origin="infill")
