"""The tiny task, except that it lingers at the step named in a file, so that a signal finds it there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny import TinyTask
from tiny import make_task as make_tiny
from torch import nn

from autoprune.tasks.protocol import Evaluated, RecoverContext

SHORT_STEPS, FULL_STEPS = 2, 3
STEPS_OF = {SHORT_STEPS: "short", FULL_STEPS: "full"}
TEST_READS = 2


class SlowTask(TinyTask):
    """Lingers at `short` or `full` recovery, or at the second read of `test`: the word in `folder/linger`.

    It touches `folder/lingers` first. With `stubborn` in the file as well, nothing that is raised ends a recovery; with
    `swallow`, it goes on as if nothing had been raised.
    """

    folder = Path()
    reads = 0

    def recover(self, model: nn.Module, ctx: RecoverContext) -> None:
        lingering = True
        while lingering:
            try:
                while self.lingers(STEPS_OF[ctx.steps]):
                    super().recover(model, ctx)
                lingering = False
            except BaseException:
                lingering = "stubborn" in self.asked()
                if not lingering and "swallow" not in self.asked():
                    raise
        super().recover(model, ctx)

    def evaluate(self, predict: Any, split: Any, **settings: Any) -> Evaluated:
        self.reads += split == "test"
        while split == "test" and self.reads >= TEST_READS and self.lingers("test"):
            super().evaluate(predict, split, **settings)
        return super().evaluate(predict, split, **settings)

    def asked(self) -> str:
        path = self.folder / "linger"
        return path.read_text() if path.exists() else ""

    def lingers(self, step: str) -> bool:
        if step not in self.asked():
            return False
        (self.folder / "lingers").touch()
        return True


def make_task(folder: str) -> SlowTask:
    task = make_tiny()
    task.__class__ = SlowTask
    assert isinstance(task, SlowTask)
    task.folder = Path(folder)
    return task
