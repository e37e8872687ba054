"""Front documents for tests."""

from __future__ import annotations

from typing import Any

from autoprune.report import FrontDocument

TARGET = "onnxruntime-fp32-b32-t1"
OTHER = "torch-eager-fp32-b1-t1"


def estimate(value: float) -> dict[str, Any]:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 450, "unit": "image", "method": "wilson"}


def latency(ms: float, dense_ms: float, *, clean: bool = True) -> dict[str, Any]:
    speedup = dense_ms / ms
    return {
        "ms": ms,
        "low": 0.98 * ms,
        "high": 1.02 * ms,
        "samples": 100,
        "speedup": speedup,
        "speedup_low": 0.95 * speedup,
        "speedup_high": 1.05 * speedup,
        "clean": clean,
        "polluted_share": 0.0 if clean else 0.4,
    }


def member(identity: str, accuracy: float, ms: float, **changes: Any) -> dict[str, Any]:
    deployments = {
        target: {
            "artifact": "model.onnx",
            "sha256": 64 * "a",
            "quality": {"val": {"accuracy": estimate(accuracy + 0.005)}, "test": {"accuracy": estimate(accuracy)}},
            "versus_dense": {
                "accuracy": {
                    "delta": accuracy - 0.985,
                    "low": accuracy - 0.995,
                    "high": accuracy - 0.975,
                    "test": "bootstrap",
                    "noninferior": accuracy > 0.98,
                    "margin": 0.005,
                }
            },
            "latency": latency(ms, 4.0),
        }
        for target in (TARGET, OTHER)
    }
    plain: dict[str, Any] = {
        "id": identity,
        "name": f"model-{identity}",
        "directory": f"front/{identity}",
        "policy_digest": 64 * "b",
        "strategy": "l1 + fine_tune",
        "recovery_seed": 7,
        "fidelity": "full",
        "feasible": True,
        "parameters": int(ms * 10_000),
        "nonzero": int(ms * 10_000),
        "macs": int(ms * 1_000_000),
        "bytes": int(ms * 40_000),
        "compressed_bytes": int(ms * 36_000),
        "deployments": deployments,
    }
    return {**plain, **changes}


def front_json(**changes: Any) -> dict[str, Any]:
    """Return a front of three members beside a dense model of 98.5% and 4 ms."""
    target = {
        "runtime": "onnxruntime",
        "runtime_version": "1.22",
        "precision": "fp32",
        "batch": 32,
        "threads": 1,
        "shape": "default",
        "device": "cpu",
        "host": "here",
        "protocol": "interleaved, minimum",
    }
    plain: dict[str, Any] = {
        "schema_version": "1.0",
        "run": "digits",
        "objectives": [
            {"name": "accuracy", "direction": "max", "unit": "fraction", "scale": "linear"},
            {"name": "latency_ms", "direction": "min", "unit": "ms", "target": TARGET, "scale": "log"},
        ],
        "constraints": [{"expression": "accuracy>=0.9", "satisfied_by": ["a", "b", "c"]}],
        "targets": {TARGET: target, OTHER: {**target, "runtime": "torch-eager", "batch": 1}},
        "provenance": {
            "autoprune": "0.1.0",
            "commit": None,
            "versions": {"torch": "2.13"},
            "seed": 0,
            "task_sha256": 64 * "c",
            "data_fingerprint": "f",
            "config_sha256": 64 * "d",
            "test_reads": 4,
        },
        "predictor": None,
        "evaluations": {"proxy": 0, "short": 60, "full": 10, "failed": 2},
        "wall_seconds": 120.5,
        "cpu_seconds": 200.0,
        "hypervolume": {
            "value": 0.7,
            "reference": [1.0, 1.0],
            "normalisation": {"accuracy": [1.0, 0.9], "latency_ms": [0.5, 4.0]},
        },
        "picks": {"most_accurate": "a", "balanced": "b", "fastest": "c", "smallest": "c"},
        "baseline": member("dense", 0.985, 4.0, directory=None, policy_digest=None, strategy="none"),
        "controls": {},
        "gain_over_best_control": None,
        "members": [member("a", 0.98, 3.0), member("b", 0.97, 2.0), member("c", 0.94, 1.0)],
    }
    return {**plain, **changes}


def front(**changes: Any) -> FrontDocument:
    return FrontDocument.model_validate(front_json(**changes))
