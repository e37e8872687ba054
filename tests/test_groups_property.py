"""Random nets, random subsets of units: cutting equals zeroing, and every tensor has the shape that was predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from units import run

from autoprune.groups import ModelGroups, find_groups, mask_model, slice_model
from autoprune.groups.assembly import assemble
from autoprune.groups.comparison import mismatch
from autoprune.groups.tracing import export_program, partition, trace_model
from autoprune.tasks.protocol import Inputs

KINDS = ("plain", "residual", "concat", "depthwise", "grouped", "bottleneck", "gate", "pointwise", "parallel")
KINDS += ("transposed", "recurrent", "pieces", "shuffle", "attention")
Block = tuple[str, int]


def normalised(inputs: int, outputs: int, kernel: int = 3, groups: int = 1) -> nn.Sequential:
    """Convolution and BatchNorm whose statistics are not the initial ones."""
    norm = nn.BatchNorm2d(outputs)
    for tensor in (norm.weight.data, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    for tensor in (norm.bias.data, norm.running_mean):
        nn.init.normal_(tensor, std=0.3)
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, groups=groups, bias=False), norm)


class RandomBlock(nn.Module):
    """One block of a kind; `width` is a multiple of 4."""

    def __init__(self, kind: str, inputs: int, width: int) -> None:
        super().__init__()
        self.kind = kind
        self.outputs = {"plain": width, "pointwise": width, "shuffle": width, "concat": inputs + width}.get(
            kind, inputs
        )
        grouped = 2 if kind == "grouped" else 1
        self.first = normalised(inputs, self.outputs if kind == "parallel" else width)
        self.second = normalised(inputs if kind == "parallel" else width, inputs, 1, grouped)
        self.depthwise = normalised(inputs, inputs, groups=inputs)
        self.linear = nn.Linear(inputs, width)
        self.back = nn.Linear(width, inputs)
        self.transposed = nn.ConvTranspose2d(inputs, inputs, 3, padding=1, groups=2)
        self.recurrent = nn.GRU(inputs, width, batch_first=True)
        self.sizes = (width // 4, width - width // 4)
        self.small, self.large = (nn.Conv2d(n, inputs, 1) for n in self.sizes)
        self.key, self.value = (nn.Linear(inputs, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "plain":
                return F.relu(self.first(x))
            case "concat":
                return torch.cat([x, F.gelu(self.first(x))], 1)
            case "depthwise":
                return F.silu(self.depthwise(x))
            case "gate":
                return x * torch.sigmoid(self.back(F.silu(self.linear(x.mean((2, 3))))))[:, :, None, None]
            case "pointwise":
                return F.relu(self.linear(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
            case "parallel":
                return self.first(x) + F.avg_pool2d(self.second(x), 3, 1, 1)
            case "transposed" | "recurrent" | "pieces" | "shuffle" | "attention":
                return self.other(x)
            case "bottleneck":
                return self.second(F.relu(self.first(x)))
            case _:
                return x + self.second(F.relu(self.first(x)))

    def other(self, x: Tensor) -> Tensor:
        """Do what is neither a plain convolution nor a linear layer."""
        match self.kind:
            case "transposed":
                return F.gelu(self.transposed(x))
            case "recurrent":
                return x + self.back(self.recurrent(x.flatten(2).mT)[0]).mT.reshape(x.shape)
            case "pieces":
                small, large = self.first(x).split(self.sizes, 1)
                return x + self.small(F.relu(small)) * self.large(F.relu(large))
            case "shuffle":
                return F.channel_shuffle(F.relu(self.first(x)), 2)
            case _:
                return x + self.attend(x.flatten(2).mT).mT.reshape(x.shape)

    def attend(self, x: Tensor) -> Tensor:
        """Attend with query heads of 2 over a single key head."""
        query = self.linear(x).unflatten(-1, (-1, 2)).transpose(1, 2)
        y = F.scaled_dot_product_attention(query, self.key(x)[:, None], self.value(x)[:, None])
        return self.back(y.transpose(1, 2).flatten(2))


class RandomNet(nn.Module):
    """stem -> blocks -> linear over flattened or averaged space."""

    def __init__(self, blocks: list[Block], *, flatten: bool) -> None:
        super().__init__()
        self.stem = normalised(3, 8)
        channels = 8
        self.blocks = nn.Sequential()
        for kind, width in blocks:
            block = RandomBlock(kind, channels, width)
            self.blocks.append(block)
            channels = block.outputs
        self.flatten = flatten
        self.fc = nn.Linear(channels * (16 if flatten else 1), 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.stem(x)))
        return self.fc(x.flatten(1) if self.flatten else x.mean((2, 3)))


def protected(groups: ModelGroups) -> set[str]:
    """Return the layers in use that are protected, without the single key head of an attention."""
    names = {layer.name for layer in groups.protected if "not used" not in layer.reason}
    return {name for name in names if not name.endswith((".key", ".value"))}


def subset(groups: ModelGroups, rng: np.random.Generator) -> np.ndarray:
    """Remove a random share of every group, but never all that a layer makes."""
    alive = rng.random(groups.plan.unit_count) < rng.uniform(0.2, 1.0)
    for group in groups.groups:
        alive[group.start + rng.integers(group.width)] = True
    for dimension in groups.plan.dimensions:
        if not np.append(alive, True)[dimension.units].any():
            alive[rng.choice(dimension.units)] = True
    return alive


@settings(max_examples=10, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    blocks=st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([4, 8, 12])), min_size=1, max_size=4),
    flatten=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_cut_model_equals_zeroed_model_with_the_predicted_shapes(blocks: list[Block], flatten: bool, seed: int) -> None:
    torch.manual_seed(seed)
    model = RandomNet(blocks, flatten=flatten).eval()
    inputs = Inputs((torch.randn(2, 3, 4, 4),), {})
    found = find_groups(model, inputs)
    assert all(group.exact_masking for group in found.groups)
    assert protected(found) == {"fc"}

    trace = trace_model(model, inputs)
    assembly = assemble(trace, partition(trace.evidence))
    assert assembly.groups.groups == tuple(replace(group, feed_forward=False) for group in found.groups)
    for number in range(2):
        alive = subset(found, np.random.default_rng([seed, number]))
        sliced = slice_model(model, found.plan, alive)
        zeroed = run(mask_model(model, found.plan, alive), inputs)[0]
        torch.testing.assert_close(run(sliced, inputs)[0], zeroed, rtol=1e-5, atol=1e-5)
        assert mismatch(trace, export_program(sliced, inputs), assembly.alive_atoms(alive)) is None
