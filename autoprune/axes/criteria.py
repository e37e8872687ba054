"""Values of the axes criterion and normalization."""

from __future__ import annotations

from autoprune.axes.types import AxisValue, Level

HAN = "Han et al., Learning both Weights and Connections, NeurIPS 2015"
LI = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
_BOTH: tuple[Level, ...] = ("unit", "weight")

CRITERIA = (
    AxisValue("l1", "criterion", "Mean absolute weight of a unit.", LI, levels=_BOTH),
    AxisValue("l2", "criterion", "Root of the mean squared weight of a unit.", HAN, levels=_BOTH),
    AxisValue(
        "bn_scale",
        "criterion",
        "Absolute BatchNorm scale of a unit.",
        "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017",
        requires=("batch_norm",),
    ),
    AxisValue(
        "lamp",
        "criterion",
        "Squared size over the squared sizes of all that are no smaller in its group: layers compare globally.",
        "Lee et al., Layer-adaptive Sparsity for the Magnitude-based Pruning, ICLR 2021",
        excludes={"normalization=mean": "LAMP scores are normalised already"},
        levels=_BOTH,
    ),
    AxisValue(
        "taylor",
        "criterion",
        "First-order change of the loss when a unit is removed: |sum of weight times gradient|.",
        "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019",
        levels=_BOTH,
    ),
    AxisValue(
        "gradient",
        "criterion",
        "Mean absolute gradient of the loss by a unit's weights.",
        "Lee et al., SNIP, ICLR 2019",
        levels=_BOTH,
    ),
    AxisValue(
        "hessian",
        "criterion",
        "Second-order change of the loss when a unit is removed: half the sum of curvature times squared weight.",
        "LeCun et al., Optimal Brain Damage, NIPS 1989",
        levels=_BOTH,
    ),
    AxisValue(
        "activation",
        "criterion",
        "What arrives of a unit: share of non-zero activations; before linear layers their norm times the weights.",
        "Hu et al., Network Trimming (APoZ), 2016; Sun et al., Wanda, ICLR 2024",
        levels=_BOTH,
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
    AxisValue("random", "criterion", "A uniform draw: the control.", "control", stochastic=True, levels=_BOTH),
)

NORMALIZATIONS = (
    AxisValue("none", "normalization", "Scores as the criterion gives them.", "-"),
    AxisValue(
        "mean",
        "normalization",
        "Scores over their group's mean, so that groups of different size of weights compare.",
        "Fang et al., DepGraph, CVPR 2023 (normalised group importance)",
    ),
)
