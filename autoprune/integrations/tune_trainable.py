"""A policy as the configuration of a Tune trial -> what it reports at each fidelity, from a reused worker process."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ray import tune

from autoprune.errors import CandidateError, ConfigError
from autoprune.integrations.problem import PruningProblem
from autoprune.records import CandidateRecord, Fidelity, RecordStore
from autoprune.search.executors.base import Job
from autoprune.search.executors.retry import Retries
from autoprune.search.executors.shipping import Parcel
from autoprune.search.executors.tune import WorkerTrainable
from autoprune.search.executors.worker import Lost
from autoprune.search.objectives import Objective
from autoprune.space import BoundSpace

FIDELITIES: tuple[Fidelity, ...] = ("proxy", "short", "full")
PROPOSAL = "autoprune"
FINAL = "final"


@dataclass(frozen=True)
class Evaluator:
    """What a trainable's actors get.

    Args:
        parcel: The run.
        space: What a configuration chooses from.
        objectives: What is reported, in order.
        fidelities: How much training a policy gets at each iteration of a trial, ascending.
        raises: Whether a candidate that fails fails its trial, instead of reporting NaN.
    """

    parcel: Parcel
    space: BoundSpace
    objectives: tuple[Objective, ...]
    fidelities: tuple[Fidelity, ...]
    raises: bool


@dataclass(frozen=True, repr=False)
class Proposal:
    """What goes with a policy in a trial's configuration; Tune shows it as one short value.

    Args:
        number: Order of proposal within the run.
        origin: Who proposed it.
        predicted: Objective -> what was expected of it.
        trial: The sampler's parameters, distributions and system attributes, as JSON.
    """

    number: int = 1
    origin: str = "tune"
    predicted: Mapping[str, Any] = field(default_factory=dict)
    trial: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.origin} {self.number}"


class PruningTrainable(WorkerTrainable):
    """Evaluates one policy a trial, at rising fidelity: iteration 1 is the first, 2 the second.

    A result holds the objectives, metrics and costs by name, the `candidate`'s id in the run's directory, its
    `fidelity`, and whether it is `final`. What the directory already holds is not evaluated again.
    """

    def setup(self, config: dict[str, Any], **given: Any) -> None:
        """Take the first policy; `evaluator` is given."""
        self._evaluator: Evaluator = given["evaluator"]
        self._parcel = self._evaluator.parcel
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next policy; the worker process stays."""
        known = self._evaluator.space.distributions()
        self._params = {name: value for name, value in flat(new_config) if name in known}
        self._proposal: Proposal = new_config.get(PROPOSAL, Proposal())
        return True

    def step(self) -> dict[str, Any]:
        """Evaluate the policy at the next fidelity.

        Raises:
            AutopruneError: This node lacks what the run needs, or the candidate failed and that is to fail the trial.
        """
        fidelities = self._evaluator.fidelities
        index = min(self.iteration, len(fidelities) - 1)
        record = self._evaluated(self._job(fidelities[index]))
        failure = record.failure
        if failure is not None and self._evaluator.raises:
            raise CandidateError(failure["message"], reason=failure["reason"], stage=failure["stage"])
        final = failure is not None or index == len(fidelities) - 1
        nothing = {o.name: math.nan for o in self._evaluator.objectives}
        return {
            **(nothing if failure is not None else _figures(record)),
            "candidate": record.id,
            "fidelity": record.fidelity,
            "failure": "" if failure is None else f"{failure['reason']}: {failure['message']}",
            FINAL: final,
            "done": final,
        }

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """Save nothing: what was evaluated is on disk."""
        del checkpoint_dir
        return {}

    def load_checkpoint(self, checkpoint: dict[Any, Any] | None) -> None:
        """Load nothing."""

    def _job(self, fidelity: Fidelity) -> Job:
        policy, proposal = self._evaluator.space.policy_of(self._params), self._proposal
        return Job(
            proposal.number,
            policy,
            fidelity,
            proposal.trial,
            origin=proposal.origin,
            predicted=proposal.predicted,
        )

    def _evaluated(self, job: Job) -> CandidateRecord:
        setup = self._parcel.setup
        known = RecordStore(setup.directory).load(job.id)
        if known is not None and known.state != "stopped":
            return known
        retries = Retries(setup)
        while True:
            answer = self.worker.evaluate(job)
            record = retries.settle(job, answer) if isinstance(answer, Lost) else answer
            if record is not None:
                return record


def pruning_trainable(
    problem: PruningProblem, fidelities: Sequence[Fidelity] = ("short",), *, raises: bool = False
) -> type[tune.Trainable]:
    """Return the trainable of a problem, with the resources of `executor`, for any searcher over its space.

    Args:
        problem: The problem.
        fidelities: Of `proxy`, `short` and `full` those that each trial goes through, ascending.
        raises: Whether a candidate that fails fails its trial, which costs its actor, instead of reporting NaN.
    """
    context, executor = problem.phase.context, problem.setup.config.executor
    evaluator = Evaluator(problem.parcel, context.space, context.objectives, checked_fidelities(fidelities), raises)
    trainable: type[tune.Trainable] = tune.with_resources(
        tune.with_parameters(PruningTrainable, evaluator=evaluator),
        {"cpu": executor.cpus_per_worker, "gpu": executor.gpus_per_worker},
    )
    return trainable


def checked_fidelities(fidelities: Sequence[Fidelity]) -> tuple[Fidelity, ...]:
    """Return fidelities that rise and end with a trained one.

    Raises:
        ConfigError: They do not.
    """
    wanted = tuple(f for f in FIDELITIES if f in fidelities)
    if wanted != tuple(fidelities) or not set(wanted) & {"short", "full"}:
        raise ConfigError(
            f"fidelities must rise and end with short or full. Got {', '.join(fidelities) or 'none'}.",
            hint='Such as ("short",), or ("proxy", "short", "full") for a scheduler that stops trials.',
        )
    return wanted


def nested(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameters by name as Tune nests them: what stands before a slash holds what stands after it."""
    out: dict[str, Any] = {}
    for name, value in params.items():
        node, (*outer, last) = out, name.split("/")
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    return out


def flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the parameters of a nested configuration by name."""
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{name}/")
        else:
            yield prefix + name, value


def _figures(record: CandidateRecord) -> dict[str, float]:
    """Return metrics, costs and objectives of a complete record by name."""
    evaluation = record.evaluation or {}
    quality = {name: interval["value"] for name, interval in evaluation["quality"]["val"].items()}
    latency = next(iter(evaluation["latency"].values()))
    return {**evaluation["cost"], **quality, "latency_ms": latency["ms"], **record.values}
