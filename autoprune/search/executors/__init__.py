"""Engines that evaluate candidates: one contract, `local` in this process or in a pool of processes."""

from autoprune.search.executors.base import Executor, Job

__all__ = ["Executor", "Job"]
