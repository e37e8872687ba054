"""Exported programs open anywhere: no class of the package that the model came from is needed."""

from __future__ import annotations

import subprocess
import sys
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from autoprune.artifacts.formats import export_bytes, run_pt2
from autoprune.runtimes import parity
from autoprune.tasks import Inputs


class Pair(NamedTuple):
    logits: Tensor
    extra: Any


OPEN = """
import sys
from pathlib import Path
import torch
from autoprune.artifacts.formats import run_pt2
from autoprune.tasks import Inputs
ids = torch.ones(3, 5, dtype=torch.long)
found = run_pt2(Path(sys.argv[1]), Inputs((), {"input_ids": ids, "attention_mask": ids}))
assert "transformers" not in sys.modules
print(type(found).__name__, list(found), tuple(found["logits"].shape))
"""


class Answering(nn.Module):
    """Returns its logits in a structure."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        logits = self.linear(x)
        return self.form(logits)


FORMS = {
    "tensor": (lambda y: y, lambda y: y),
    "ordered": (lambda y: OrderedDict(logits=y, rest=[y + 1, None]), lambda y: {"logits": y, "rest": [y + 1, None]}),
    "named": (lambda y: Pair(y, {"deep": Pair(y, y * 2)}), lambda y: (y, {"deep": (y, y * 2)})),
}


@pytest.mark.parametrize("name", list(FORMS))
def test_a_program_returns_plain_containers_and_leaves_the_model_as_it_was(name: str, tmp_path: Path) -> None:
    form, plain = FORMS[name]
    model, x = Answering(form).eval(), torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    (tmp_path / "model.pt2").write_bytes(export_bytes("pt2", model, Inputs((x,), {})))
    found, wanted = run_pt2(tmp_path / "model.pt2", Inputs((x,), {})), plain(model.linear(x).detach())
    assert torch.utils._pytree.tree_structure(found) == torch.utils._pytree.tree_structure(wanted)
    assert parity(wanted, found) < 1e-6
    assert type(model(x)) is type(form(model.linear(x)))


def test_the_program_of_a_hugging_face_model_opens_where_its_package_is_not_imported(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    model = transformers.BertForSequenceClassification(config).eval()
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = Inputs((), {"input_ids": ids, "attention_mask": ids})
    (tmp_path / "model.pt2").write_bytes(export_bytes("pt2", model, inputs))
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(tmp_path / "model.pt2")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "dict ['logits'] (3, 2)"
