"""What the user brings: a trained model, its data and its metric."""

from autoprune.tasks.access import GuardedTask, TestAccess, signal_of
from autoprune.tasks.arrays import LabelledArrays
from autoprune.tasks.base import BaseTask
from autoprune.tasks.cache import trained_once
from autoprune.tasks.classification import ClassificationTask
from autoprune.tasks.contract import check_task
from autoprune.tasks.protocol import SPLITS, Evaluated, Inputs, MetricSpec, Predict, RecoverContext, Split, Task
from autoprune.tasks.reference import TaskRef, load_task
from autoprune.tasks.subsets import class_balance, stratified_subset

__all__ = [
    "SPLITS",
    "BaseTask",
    "ClassificationTask",
    "Evaluated",
    "GuardedTask",
    "Inputs",
    "LabelledArrays",
    "MetricSpec",
    "Predict",
    "RecoverContext",
    "Split",
    "Task",
    "TaskRef",
    "TestAccess",
    "check_task",
    "class_balance",
    "load_task",
    "signal_of",
    "stratified_subset",
    "trained_once",
]
