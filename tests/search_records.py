"""Candidate records with whole evaluations, for tests of what is made of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from autoprune.evaluation.types import Cost, Evaluation, Interval, Latency, PairedChange
from autoprune.policy import Policy
from autoprune.records import CandidateRecord, Fidelity, candidate_id
from autoprune.search.objectives import Objective
from autoprune.tasks.protocol import MetricSpec

TARGET = "onnxruntime-fp32-b1-t1"
ACCURACY = MetricSpec("accuracy", "max", (0.0, 1.0))
OBJECTIVES = (
    Objective("accuracy", "max", "fraction"),
    Objective("latency_ms", "min", "ms", "log", TARGET),
)
DENSE_MS = 10.0


def evaluation(accuracy: float, ms: float, *, wide: float = 0.01, paired: float = 0.01, macs: int = 100) -> Evaluation:
    speedup = DENSE_MS / ms
    return Evaluation(
        quality={"val": {"accuracy": Interval(accuracy, accuracy - wide, accuracy + wide, 400, "image", "wilson")}},
        latency={
            TARGET: Latency(
                ms=ms,
                low=ms * 0.99,
                high=ms * 1.01,
                samples=30,
                speedup=speedup,
                speedup_low=speedup * 0.99,
                speedup_high=speedup * 1.01,
                clean=True,
                polluted_share=0.0,
                dense_ms=DENSE_MS,
                quantiles_ms=(ms, ms * 1.1, ms * 1.2, ms * 1.3, ms * 1.4),
            )
        },
        cost=Cost(1000, 1000, macs, 4000, 3600),
        versus_dense={"accuracy": PairedChange(0.0, -paired, paired, "bonett-price", noninferior=True, margin=0.005)},
    )


def record(number: int, accuracy: float, ms: float, **changes: Any) -> CandidateRecord:
    """Return a complete short record; `sparsity`, `strategy` and evaluation settings may be given too."""
    sparsity = changes.pop("sparsity", {"conv": min(0.9, number / 1000)})
    strategy = changes.pop("strategy", {"criterion": "l1"})
    settings = {key: changes.pop(key) for key in ("wide", "paired", "macs") if key in changes}
    policy = Policy.from_json({"sparsity": sparsity, "strategy": strategy})
    fidelity: Fidelity = changes.get("fidelity", "short")
    plain: dict[str, Any] = {
        "id": candidate_id(policy.digest, fidelity, changes.get("repeat", 0)),
        "number": number,
        "state": "complete",
        "policy": policy.to_json(),
        "digest": policy.digest,
        "fidelity": fidelity,
        "seed": 0,
        "values": {"accuracy": accuracy, "latency_ms": ms},
        "evaluation": asdict(evaluation(accuracy, ms, **settings)),
    }
    return CandidateRecord(**{**plain, **changes})


def dense_record(accuracy: float = 0.98, **settings: Any) -> CandidateRecord:
    return record(0, accuracy, DENSE_MS, sparsity={}, fidelity="full", **settings)
