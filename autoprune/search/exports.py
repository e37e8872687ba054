"""One model of the front -> the contents of its files; a format or a card that fails costs only itself."""

from __future__ import annotations

from functools import cached_property

from autoprune.artifacts import FORMATS, CardFacts, export_bytes, render_card
from autoprune.errors import AutopruneError, CandidateError
from autoprune.markup import escape_markdown
from autoprune.report.document import Warned
from autoprune.search.losses import Losses, emission_step
from autoprune.search.measured import Measured
from autoprune.search.workbench import Workbench
from autoprune.tasks.protocol import Inputs

PROBE_BATCH = 2


class Exporter:
    """Exports the members of one front.

    A format that the dense model cannot be exported to either is a limit of the model and a warning; a format that
    fails for a member alone, or an exporter that breaks, is a loss.

    Args:
        bench: The driver's workbench.
        losses: Takes what fails.
    """

    def __init__(self, bench: Workbench, losses: Losses) -> None:
        self._bench = bench
        self._losses = losses
        self._exports_dense: dict[str, bool] = {}

    @cached_property
    def example(self) -> Inputs:
        """Inputs on which every form of a model has to agree."""
        return self._bench.task.example_inputs(batch_size=PROBE_BATCH)

    def exports(self, chosen: Measured) -> tuple[dict[str, bytes], list[Warned]]:
        """Return format -> file content, and a warning for each format that the model is not in."""
        exported = {} if chosen.deployed.onnx is None else {"onnx": chosen.deployed.onnx}
        missing = []
        for name in FORMATS:
            if name in exported:
                continue
            try:
                with emission_step():
                    exported[name] = export_bytes(name, chosen.deployed.model, self.example)
            except AutopruneError as error:
                missing.append(Warned(code=f"no_{name}", text=f"There is no {FORMATS[name].file}: {error}"))
                if not isinstance(error, CandidateError) or self._takes_dense(name):
                    self._losses.add(f"{chosen.record.id}, {FORMATS[name].file}", error)
        return exported, missing

    def card(self, facts: CardFacts) -> str:
        """Return the model card; one that cannot be drawn says so and where the figures are."""
        name = escape_markdown(str(facts.member["name"]))
        cards = [f"# {name}\n\nThis model's card could not be drawn; its figures are in `metrics.json`.\n"]
        with self._losses.noting(f"{facts.member['id']}, model card"):
            cards.append(render_card(facts))
        return cards[-1]

    def _takes_dense(self, name: str) -> bool:
        """Tell whether the dense model can be exported to a format."""
        if name not in self._exports_dense:
            try:
                with emission_step():
                    export_bytes(name, self._bench.model, self.example)
            except AutopruneError:
                self._exports_dense[name] = False
            else:
                self._exports_dense[name] = True
        return self._exports_dense[name]
