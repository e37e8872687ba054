"""The whole configuration of a run, as frozen pydantic models; an unknown key is an error."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveFloat, PositiveInt, field_validator

from autoprune.errors import ConfigError
from autoprune.requirements import parse_requirement

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
TARGET_PATTERN = (
    r"^(?:(?:torch-eager|onnxruntime)-fp32-b[1-9][0-9]{0,4}-t[1-9][0-9]{0,2}|torch-eager-fp32-b[1-9][0-9]{0,4}-cuda)$"
)


class Section(BaseModel):
    """Base of all sections: frozen, strict about keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class BudgetConfig(Section):
    """When the search stops; the first limit reached counts."""

    evaluations: PositiveInt = Field(60, description="Briefly recovered candidates of the search, failures included.")
    proxy_evaluations: NonNegativeInt | None = Field(
        None, description="Untrained candidates before them; null = by the space's size, 0 = none. Sampler autoprune."
    )
    minutes: PositiveFloat | None = Field(
        None, description="Wall-clock minutes of the whole run, finalists and earlier calls included."
    )
    cpu_seconds: PositiveFloat | None = Field(
        None, description="Processor seconds of the whole run, all processes and earlier calls included."
    )


class SearchConfig(Section):
    """Who proposes candidates, and how many."""

    sampler: Literal["autoprune", "random", "uniform", "nsga2", "tpe", "gp"] = Field(
        "autoprune", description="Proposal engine: the learned search, or one of Optuna's or a sweep."
    )
    seed: NonNegativeInt = Field(0, lt=2**32, description="Seed of every random choice of the run.")
    budget: BudgetConfig = BudgetConfig()
    workers: PositiveInt = Field(1, le=4096, description="Candidates evaluated at the same time.")
    warm_start: NonNegativeInt = Field(
        6, description="First candidates taken from the uniform sweep; the sampler autoprune seeds itself."
    )
    plateau: bool = Field(True, description="Whether the sampler autoprune may end the search when gains run out.")
    controls: NonNegativeInt = Field(4, description="Candidates of each control, beside the budget; 0 = no controls.")


class RecoveryConfig(Section):
    """How much training candidates get."""

    proxy_images: PositiveInt = Field(256, description="Units used to recalibrate BatchNorm.")
    val_images: PositiveInt | None = Field(None, description="Validation units that score a candidate; null = all.")
    short_steps: NonNegativeInt = Field(60, description="Optimizer steps of each candidate of the search.")
    full_steps: NonNegativeInt = Field(600, description="Optimizer steps of each finalist.")
    finalists: PositiveInt = Field(10, description="Candidates recovered in full for the front.")
    seeds: PositiveInt = Field(3, le=100, description="Recoveries of each finalist; the one of median quality counts.")
    rungs: tuple[float, ...] = Field(
        (0.25,), description="Shares of short_steps at which poor candidates are stopped. Sampler autoprune."
    )
    reduction: int = Field(2, ge=2, le=100, description="A rung lets one candidate in this many pass for sure.")
    batch_size: PositiveInt = Field(64, description="Examples a step.")
    distillation: float = Field(0.0, ge=0.0, le=1.0, description="Weight of the teacher's loss.")

    @field_validator("rungs")
    @classmethod
    def _rising_shares(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if any(not 0.0 < share < 1.0 for share in value) or list(value) != sorted(set(value)):
            raise ValueError("rungs must rise and lie between 0 and 1")
        return value


class LatencyConfig(Section):
    """Where and how latency is measured."""

    targets: tuple[str, ...] = Field(("onnxruntime-fp32-b32-t1",), min_length=1, description="First = objective.")
    rounds: int = Field(30, ge=5, le=10_000, description="Interleaved rounds of one measurement of a candidate.")
    final_rounds: int = Field(
        100, ge=5, le=10_000, description="Rounds of the last, in-turn measurement of all finalists."
    )

    @field_validator("targets")
    @classmethod
    def _known_targets(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for target in value:
            if not re.fullmatch(TARGET_PATTERN, target):
                raise ValueError(f"{target!r} is no target; e.g. onnxruntime-fp32-b32-t1 or torch-eager-fp32-b1-t1")
        if len(set(value)) != len(value):
            raise ValueError("targets must differ")
        return value


class ConstraintsConfig(Section):
    """What a model must satisfy to be feasible."""

    max_latency_ms: PositiveFloat | None = Field(None, description="Highest latency on the first target; null = any.")
    require: tuple[str, ...] = Field((), description="Expressions such as accuracy>=0.96, on val.")
    max_drop: float | None = Field(None, ge=0.0, description="Largest tolerated loss of the first metric.")
    max_parameters: PositiveInt | None = Field(None, description="Most parameters of the model; null = any.")
    max_bytes: PositiveInt | None = Field(None, description="Most bytes of its weights; null = any.")

    @field_validator("require")
    @classmethod
    def _readable_requirements(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for text in value:
            try:
                parse_requirement(text)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return value


class GroupsConfig(Section):
    """Which groups may be pruned, by glob over module paths."""

    protect: tuple[str, ...] = Field((), description="Modules that stay whole.")
    only: tuple[str, ...] = Field(("*",), description="Modules that may be pruned.")
    query_heads: bool = Field(
        False, description="Grouped-query attention: cut query heads of every key head, not key heads with theirs."
    )


class RobustnessConfig(Section):
    """How far the front's models are looked into beyond quality and latency, the dense model beside them."""

    units: NonNegativeInt = Field(
        500,
        lt=2**63,
        description="Units of each corruption, shifted domain, training subset and gradient; 0 = none of these.",
    )
    pictures: bool = Field(
        True, description="Whether pictures.json and the report show units of val, kept units and confusions."
    )


class ExecutorConfig(Section):
    """What runs the candidates."""

    kind: Literal["local", "ray", "tune"] = Field(
        "local", description="Processes of this machine, actors of a Ray cluster, or trials of Ray Tune."
    )
    address: str | None = Field(
        None, min_length=1, description="Ray cluster: HOST:PORT, auto = the one found, null = one of this machine."
    )
    cpus_per_worker: PositiveFloat = Field(1.0, le=1024, description="Cores that a worker reserves of a cluster.")
    gpus_per_worker: float = Field(0.0, ge=0.0, le=64, description="GPUs that a worker reserves; shares are allowed.")
    timeout_s: PositiveFloat | None = Field(
        None, description="Seconds after which a candidate is ended and counts as failed; null = never."
    )
    memory_mb: PositiveInt | None = Field(
        None, description="Resident memory of a worker, MiB, above which its candidate is ended; null = any."
    )
    store: str | None = Field(
        None, min_length=1, description="Where workers leave results when they share no file system, such as s3://b/p."
    )
    latency_resource: str | None = Field(
        None, min_length=1, description="Ray resource of the hosts that measure latency; null = where it was trained."
    )
    threads: PositiveInt | None = Field(
        None,
        le=1024,
        description="Threads that train a candidate; null = cores / workers; on a cluster cpus_per_worker.",
    )


class RunConfig(Section):
    """A run: `autoprune search` reads exactly this."""

    name: str = Field("run", pattern=NAME_PATTERN, description="Run name; results/<name> holds the run.")
    task: str = Field(description="file.py:factory (relative to the config) or package.module:factory.")
    task_args: dict[str, Any] = Field(default_factory=dict, description="Keyword arguments of the factory.")
    space: str = Field("channels", min_length=1, description="A name from search_spaces/ or a path to a YAML file.")
    groups: GroupsConfig = GroupsConfig()
    search: SearchConfig = SearchConfig()
    recovery: RecoveryConfig = RecoveryConfig()
    latency: LatencyConfig = LatencyConfig()
    objectives: tuple[str, ...] = Field(("accuracy", "latency_ms"), min_length=2, description="First a task metric.")
    constraints: ConstraintsConfig = ConstraintsConfig()
    robustness: RobustnessConfig = RobustnessConfig()
    executor: ExecutorConfig = ExecutorConfig()
    output: str = Field(
        "results", min_length=1, description="Directory of all runs, relative to the working directory."
    )

    @field_validator("task")
    @classmethod
    def _names_a_factory(cls, value: str) -> str:
        source, _, factory = value.rpartition(":")
        if not source.strip() or not factory.isidentifier():
            raise ValueError(f"{value!r} names no factory; allowed: file.py:factory or package.module:factory")
        return value

    @field_validator("objectives")
    @classmethod
    def _different_objectives(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(value)) != len(value):
            raise ValueError("objectives must differ")
        return value
