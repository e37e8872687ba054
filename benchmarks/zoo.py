"""What can be pruned in every net of the tests' zoo, and how far that was checked: the table of architectures.

    python -m benchmarks.zoo            # all nets, about six minutes of CPU
    python -m benchmarks.zoo --nets gpt # some nets; the other rows stay

Every net is cut by random policies. A sliced net is compared with the whole one in which the removed units are zero;
where a LayerNorm, RMSNorm or GroupNorm runs over units, with a copy in which norms only scale. One policy a net is
exported to ONNX and compared with torch.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from autoprune.runtimes import emit_onnx, open_onnx, parity
from benchmarks.common import known_rows, rounded, write_result
from tests.zoo import ZOO
from tests.zoo.cases import NO_ONNX, Case, call, case, make_case, masking_error, random_policy, rebatched, substituted
from tests.zoo.facts import HUGGING_FACE, TITLES, facts

SEEDS = (0, 1, 2, 3)


ALL = {**TITLES, **HUGGING_FACE}


def row_of(name: str) -> dict[str, Any]:
    """Return everything that is told of a net."""
    of = case(name) if name in ZOO else hugging_face(name)
    return {"net": name, "title": ALL[name], **facts(of), **masking(of), **onnx(of)}


def hugging_face(name: str) -> Case:
    """Return a small model of transformers with random weights."""
    from tests.hugging_face_cases import inputs_of, made

    own = name.removeprefix("hf_")
    return make_case(name, made(own), inputs_of(own)())


def masking(of: Case) -> dict[str, float | None]:
    """Return the largest differences of sliced from zeroed nets, over the outputs' size.

    `masked` is over the groups that say that both are equal, `norms_scaled` over all, with norms that only scale; None
    where there is nothing to compare.
    """
    drawn = [of.pruner.cut(random_policy(of.groups, seed), seed=seed).alive for seed in SEEDS]
    own = scaled = None
    if of.exact.any():
        own = max(masking_error(of.model, of, alive | ~of.exact) for alive in drawn)
    if not of.exact.all():
        copy = substituted(of.model)
        scaled = max(masking_error(copy, of, alive) for alive in drawn)
    return {"masked": _short(own), "norms_scaled": _short(scaled)}


def onnx(of: Case) -> dict[str, Any]:
    """Return the largest difference of a pruned net's ONNX form from the torch model, or why there is none."""
    if of.name in NO_ONNX:
        return {"onnx": None, "onnx_reason": NO_ONNX[of.name]}
    model, example = of.pruner.cut(random_policy(of.groups, SEEDS[0]), seed=SEEDS[0]).model, rebatched(of.inputs, 2)
    outputs = call(model, example)
    session = open_onnx(emit_onnx(model, example), threads=1, outputs=outputs)
    return {"onnx": _short(parity(outputs, session.run(example)))}


def _short(value: float | None) -> float | None:
    return None if value is None else rounded(value, 2)


def summarise(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the extremes over all nets."""
    exact = [row for row in rows if row["net"] != "bfloat16"]
    return {
        "nets": len(rows),
        "least_macs_share": min(row["macs_share"] for row in rows),
        "largest_masked": max(v for row in exact for v in (row["masked"], row["norms_scaled"]) if v is not None),
        "largest_onnx": max(row["onnx"] for row in rows if row["onnx"] is not None),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=list(ALL), default=list(ALL), metavar="NET")
    chosen = parser.parse_args().nets
    torch.set_num_threads(1)
    found = {row["net"]: row for row in known_rows("zoo")}
    for name in chosen:
        found[name] = row_of(name)
        print({key: value for key, value in found[name].items() if key != "title"}, flush=True)
    rows = [found[name] for name in ALL if name in found]
    print(write_result("zoo", command="python -m benchmarks.zoo", seeds=SEEDS, rows=rows, summary=summarise(rows)).name)


if __name__ == "__main__":
    main()
