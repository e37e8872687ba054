"""Declarations of every value of every axis: what it is called, needs, excludes and where it comes from. No torch here.

The functions themselves register in `autoprune.pruning`; a test holds both lists equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

Axis = Literal["criterion", "granularity", "scope", "selection", "schedule", "regularizer", "recovery"]
Capability = Literal["batch_norm"]


@dataclass(frozen=True)
class AxisValue:
    """One named value of one axis.

    Args:
        name: Its name in configs, spaces and policies.
        axis: The axis it belongs to.
        summary: What it does, one sentence.
        source: The paper or work that it comes from.
        requires: What a group must have for it.
        excludes: Values of other axes (`axis=name`) that make no sense together with it.
        stochastic: Whether it draws anew for every candidate.
    """

    name: str
    axis: Axis
    summary: str
    source: str
    requires: tuple[Capability, ...] = ()
    excludes: tuple[str, ...] = ()
    stochastic: bool = False


@dataclass(frozen=True)
class Preset:
    """A named pruning system: a point in the product of the axes."""

    name: str
    summary: str
    source: str
    axes: Mapping[str, Any] = field(default_factory=dict)


_LI = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
_HAN = "Han et al., Learning both Weights and Connections, NeurIPS 2015"

_VALUES = (
    AxisValue(
        "l1",
        "criterion",
        "Mean absolute weight of a unit.",
        "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017",
    ),
    AxisValue(
        "l2",
        "criterion",
        "Root of the mean squared weight of a unit.",
        "Han et al., Learning both Weights and Connections, NeurIPS 2015",
    ),
    AxisValue(
        "bn_scale",
        "criterion",
        "Absolute BatchNorm scale of a unit.",
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
        requires=("batch_norm",),
    ),
    AxisValue(
        "taylor",
        "criterion",
        "First-order change of the loss when a unit is removed: |sum of weight times gradient|.",
        "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019",
    ),
    AxisValue(
        "gradient",
        "criterion",
        "Mean absolute gradient of the loss by a unit's weights.",
        "Lee et al., SNIP, ICLR 2019",
    ),
    AxisValue(
        "hessian",
        "criterion",
        "Second-order change of the loss when a unit is removed: half the sum of curvature times squared weight.",
        "LeCun et al., Optimal Brain Damage, NIPS 1989",
    ),
    AxisValue(
        "activation",
        "criterion",
        "What arrives of a unit: share of non-zero activations; before linear layers their norm times the weights.",
        "Hu et al., Network Trimming (APoZ), 2016; Sun et al., Wanda, ICLR 2024",
    ),
    AxisValue(
        "angle",
        "criterion",
        "1 - the largest cosine between a unit's weights and those of a longer unit: duplicates go first.",
        "Wang et al., COP, IJCAI 2019",
    ),
    AxisValue(
        "geometric_median",
        "criterion",
        "Mean distance of a unit's weights from those of the group's other units.",
        "He et al., FPGM, CVPR 2019",
    ),
    AxisValue(
        "contribution",
        "criterion",
        "Measured rise of the loss when a unit alone is cut out.",
        "Mozer and Smolensky, Skeletonization, NIPS 1988",
    ),
    AxisValue(
        "noise",
        "criterion",
        "Expected squared change of the outputs under noise of the unit's own scale.",
        "Mozer and Smolensky, Skeletonization, NIPS 1988",
    ),
    AxisValue("random", "criterion", "A uniform draw: the control.", "control", stochastic=True),
    AxisValue(
        "channel",
        "granularity",
        "Whole channels, filters, neurons or heads, cut out of every tensor.",
        _LI,
    ),
    AxisValue("local", "scope", "Each group keeps its own best units; the policy sets how many.", _LI),
    AxisValue("top_k", "selection", "The k most important units stay.", _LI),
    AxisValue("one_shot", "schedule", "Everything is cut at once, before recovery.", _LI),
    AxisValue("none", "regularizer", "No penalty while training.", "-"),
    AxisValue(
        "recalibrate",
        "recovery",
        "BatchNorm statistics are estimated anew; no weight is trained.",
        "Li et al., EagleEye, ECCV 2020",
    ),
    AxisValue("fine_tune", "recovery", "Training on the task's loss, then recalibration.", _HAN),
    AxisValue(
        "distillation",
        "recovery",
        "Training on the task's loss and on the dense model's outputs, then recalibration.",
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
    ),
)

AXES: Mapping[str, Mapping[str, AxisValue]] = MappingProxyType(
    {
        axis: MappingProxyType({v.name: v for v in _VALUES if v.axis == axis})
        for axis in dict.fromkeys(v.axis for v in _VALUES)
    }
)


def _preset(name: str, summary: str, criterion: str, recovery: str = "fine_tune") -> Preset:
    axes = {
        "criterion": criterion,
        "granularity": "channel",
        "scope": "local",
        "selection": "top_k",
        "schedule": "one_shot",
        "regularizer": "none",
        "recovery": recovery,
    }
    return Preset(name, summary, AXES["criterion"][criterion].source, MappingProxyType(axes))


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        p.name: p
        for p in (
            _preset("magnitude_l1", "Removes the units with the smallest mean absolute weight.", "l1"),
            _preset("magnitude_l2", "Removes the units with the smallest root mean square weight.", "l2"),
            _preset("bn_scale", "Removes the units with the smallest BatchNorm scale.", "bn_scale"),
            _preset("taylor", "Removes the units whose removal changes the loss least, to first order.", "taylor"),
            _preset("gradient", "Removes the units whose weights the loss depends on least steeply.", "gradient"),
            _preset("hessian", "Removes the units whose removal changes the loss least, to second order.", "hessian"),
            _preset("activation", "Removes the units of which least arrives at the layers behind.", "activation"),
            _preset("angle", "Removes the units that point in the direction of a longer one.", "angle"),
            _preset("fpgm", "Removes the units nearest to the geometric median of their group.", "geometric_median"),
            _preset("noise", "Removes the units whose noise the outputs feel least.", "noise"),
            _preset("random_local", "Removes units at random in every group: the control.", "random"),
        )
    }
)
