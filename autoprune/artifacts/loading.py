"""Directory + the user's own model definition -> pruned model, without pickle."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from autoprune.artifacts.files import PLAN, PROBES, WEIGHTS, read_plan, require_intact
from autoprune.artifacts.probes import read_probes
from autoprune.errors import ArtifactError
from autoprune.groups import prepare_model, rebuild
from autoprune.groups.cloning import sharing_clone
from autoprune.groups.pretrained import describe_pretrained, pretrained_modules
from autoprune.groups.zeros import check_zeros


def load(directory: str | Path, model: nn.Module) -> nn.Module:
    """Return the pruned model that a directory holds, in eval mode.

    The configuration of a Hugging Face model gets the pruned sizes where it can hold them, with a warning where not.

    Args:
        directory: A member of a front, as a search emitted it.
        model: The unpruned model, trained or not; it is left as it is.

    Raises:
        ArtifactError: A file is missing or altered, `model` is not the one that was pruned, or a tensor that the plan
            says to be 2 of 4 is not.
    """
    folder = Path(directory)
    require_intact(folder, [PLAN, WEIGHTS])
    plan = read_plan(folder)
    prepared, _ = prepare_model(sharing_clone(model), plan.prepared)
    pruned = rebuild(prepared, plan)
    try:
        weights = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{folder / WEIGHTS} is no safetensors file: {error}") from error
    _check_fits(pruned, weights)
    pruned.load_state_dict(weights, strict=True)
    check_zeros(pruned, plan.masks)
    pruned.eval()
    if pretrained_modules(pruned):
        require_intact(folder, [PROBES])
        describe_pretrained(pruned, read_probes(folder / PROBES).inputs)
    return pruned


def _check_fits(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Refuse weights that are not exactly the model's, naming the first parameter that differs."""
    state = model.state_dict()
    for name in sorted(state.keys() | weights.keys()):
        if name not in weights:
            problem = f"the given model has {name!r}, the stored weights have not"
        elif name not in state:
            problem = f"the stored weights have {name!r}, the given model has not"
        elif state[name].shape != weights[name].shape:
            stored, made = tuple(weights[name].shape), tuple(state[name].shape)
            problem = f"{name!r} has shape {stored}, the given model makes {made}"
        elif state[name].dtype != weights[name].dtype:
            problem = f"{name!r} is {weights[name].dtype}, the given model makes {state[name].dtype}"
        else:
            continue
        raise ArtifactError(
            f"The stored model does not fit the given one: {problem}.",
            hint="Build the model exactly as the task's build_model did: same class, arguments and precision.",
        )
