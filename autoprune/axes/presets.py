"""The named pruning systems: each a point on the axes."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from autoprune.axes.criteria import CRITERIA, HAN
from autoprune.axes.types import Preset

USUAL: Mapping[str, str] = MappingProxyType(
    {
        "criterion": "l1",
        "normalization": "none",
        "granularity": "channel",
        "scope": "local",
        "selection": "top_k",
        "schedule": "one_shot",
        "regularizer": "none",
        "regrowth": "none",
        "recovery": "fine_tune",
        "optimizer": "sgd",
    }
)
"""What a preset takes where it says nothing else."""

_SOURCES = {value.name: value.source for value in CRITERIA}


def _preset(name: str, summary: str, source: str = "", *, same_as: str | None = None, **chosen: Any) -> Preset:
    axes = {**USUAL, **{k: v for k, v in chosen.items() if k in USUAL}}
    settings = {k: v for k, v in chosen.items() if k not in USUAL}
    return Preset(
        name,
        summary,
        source or _SOURCES[axes["criterion"]],
        MappingProxyType(axes),
        MappingProxyType(settings),
        same_as,
    )


_SIZES = (
    _preset("magnitude_l1", "Removes the units with the smallest mean absolute weight."),
    _preset("magnitude_l2", "Removes the units with the smallest root mean square weight.", criterion="l2"),
    _preset(
        "normalized",
        "Removes the smallest of all units, sizes taken relative to their group's mean.",
        "Fang et al., DepGraph, CVPR 2023",
        criterion="l2",
        normalization="mean",
        scope="global",
    ),
    _preset("lamp", "Removes by layer-adaptive size, compared over all layers.", criterion="lamp", scope="global"),
    _preset("bn_scale", "Removes the units with the smallest BatchNorm scale.", criterion="bn_scale"),
    _preset("angle", "Removes the units that point in the direction of a longer one.", criterion="angle"),
    _preset("fpgm", "Removes the units nearest to the geometric median of their group.", criterion="geometric_median"),
)
_DATA = (
    _preset("gradient", "Removes the units whose weights the loss depends on least steeply.", criterion="gradient"),
    _preset("taylor", "Removes the units whose removal changes the loss least, to first order.", criterion="taylor"),
    _preset("hessian", "Removes the units whose removal changes the loss least, to second order.", criterion="hessian"),
    _preset("activation", "Removes the units of which least arrives at the layers behind.", criterion="activation"),
    _preset("noise", "Removes the units whose noise the outputs feel least.", criterion="noise"),
    _preset(
        "sparsenet",
        "Removes the units that contribute least to the loss, measured, a few at a time over all groups.",
        criterion="contribution",
        scope="global",
        selection="greedy",
    ),
)
_TRAINED = (
    _preset(
        "l1_regularized",
        "Trains under an L1 penalty, then removes the smallest.",
        regularizer="l1",
        source="Tibshirani, Lasso, 1996; Li et al., ICLR 2017",
    ),
    _preset(
        "l2_regularized",
        "Trains under an L2 penalty, then removes the smallest.",
        regularizer="l2",
        criterion="l2",
        source=HAN,
    ),
    _preset(
        "group_lasso",
        "Trains under a penalty on whole units' norms, then removes the smallest.",
        regularizer="group_lasso",
        criterion="l2",
        source="Wen et al., Learning Structured Sparsity, NeurIPS 2016",
    ),
    _preset(
        "growing_l2",
        "Trains under an L2 penalty that grows on the units that will go.",
        regularizer="growing_l2",
        same_as="magnitude_l1",
        source="Wang et al., Neural Pruning via Growing Regularization, ICLR 2021",
    ),
    _preset(
        "slimming",
        "Trains under an L1 penalty on BatchNorm scales, then cuts below one threshold for all.",
        regularizer="bn_l1",
        criterion="bn_scale",
        scope="global",
    ),
    _preset(
        "slimming_weights",
        "Trains under an L1 penalty on weights, then cuts below one threshold for all, relative to each group's mean.",
        regularizer="l1",
        normalization="mean",
        scope="global",
        source="Liu et al., Network Slimming, ICCV 2017 (on weights)",
    ),
    _preset(
        "bn_scale_l1",
        "Trains under an L1 penalty on BatchNorm scales, then removes the smallest of each group.",
        regularizer="bn_l1",
        criterion="bn_scale",
    ),
    _preset(
        "l0_greedy",
        "Removes the smallest a few at a time over all groups until the L0 budget holds.",
        criterion="l2",
        normalization="mean",
        scope="global",
        selection="greedy",
        source="Ye et al., Good Subnetworks Provably Exist: Pruning via Greedy Forward Selection, ICML 2020",
    ),
    _preset(
        "l0_stochastic",
        "Draws what stays under the L0 budget, with chances that grow with size.",
        criterion="l2",
        normalization="mean",
        scope="global",
        selection="stochastic",
        source="Kool et al., ICML 2019 (Gumbel top-k)",
    ),
    _preset(
        "l0_gates",
        "Learns a random gate on every unit under an L0 budget, and removes those that close.",
        regularizer="hard_concrete",
        scope="global",
        source="Louizos et al., Learning Sparse Neural Networks through L0 Regularization, ICLR 2018",
    ),
    _preset(
        "iterative", "Cuts the smallest in equal turns with training in between.", schedule="iterative", source=HAN
    ),
    _preset(
        "agp",
        "Cuts the smallest while training, fast first and slowly in the end.",
        schedule="cubic",
        source="Zhu and Gupta, To Prune, or Not to Prune, 2017",
    ),
    _preset(
        "dynamic",
        "Cuts while training, and takes back what lost more than the threshold.",
        schedule="dynamic",
        criterion="l2",
        source="Guo et al., Dynamic Network Surgery, NeurIPS 2016",
    ),
    _preset(
        "angle_regrow",
        "Cuts redundant directions in turns; what was cut wrongly comes back.",
        criterion="angle",
        schedule="iterative",
        regrowth="gradient",
        source="Wang et al., COP, IJCAI 2019; Evci et al., Rigging the Lottery, ICML 2020",
    ),
)
_SHAPES = (
    _preset(
        "heads",
        "Removes the smallest attention heads.",
        granularity="head",
        criterion="l2",
        source="Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019",
    ),
    _preset(
        "ffn",
        "Removes the smallest hidden units of feed-forward layers.",
        granularity="ffn",
        criterion="l2",
        source="McCarley et al., Structured Pruning of BERT, 2019",
    ),
    _preset(
        "depth",
        "Removes the residual blocks whose absence the loss feels least.",
        granularity="depth",
        criterion="contribution",
        source="Men et al., ShortGPT, 2024",
    ),
    _preset(
        "unstructured",
        "Keeps single weights at zero, by one threshold, growing while training.",
        granularity="weight",
        scope="global",
        schedule="cubic",
        source="Han et al., NeurIPS 2015; Zhu and Gupta, 2017",
    ),
    _preset(
        "nm_2_4",
        "Keeps two of every four weights at zero.",
        granularity="n_m",
        source="Mishra et al., Accelerating Sparse Deep Neural Networks, 2021",
    ),
    _preset(
        "block_sparse",
        "Keeps blocks of weights at zero.",
        granularity="block",
        criterion="l2",
        source="Gray et al., GPU Kernels for Block-Sparse Weights, 2017",
    ),
    _preset(
        "weight_scale",
        "Scales the smallest units down and lets them grow again: no shape changes.",
        granularity="scale",
        same_as="magnitude_l1",
        source="He et al., Soft Filter Pruning, IJCAI 2018",
    ),
    _preset(
        "low_rank",
        "Puts low-rank factors in the place of weights.",
        granularity="rank",
        criterion="l2",
        source="Denton et al., NeurIPS 2014",
    ),
    _preset(
        "no_activation",
        "Replaces the activation functions that the loss feels least by the identity.",
        granularity="activation",
        criterion="contribution",
        source="Dror et al., Layer Folding, 2021",
    ),
    _preset(
        "no_norm",
        "Folds BatchNorms into the convolutions before them.",
        granularity="norm",
        criterion="contribution",
        source="Jacob et al., CVPR 2018",
    ),
    _preset(
        "no_pooling",
        "Replaces max poolings by average poolings.",
        granularity="pooling",
        criterion="contribution",
        source="Boureau et al., ICML 2010",
    ),
    _preset(
        "no_bias",
        "Takes out the biases that the loss feels least.",
        granularity="bias",
        criterion="contribution",
        source="Raffel et al., T5, JMLR 2020",
    ),
    _preset(
        "distilled",
        "Removes the smallest units and recovers with the dense model as teacher.",
        recovery="distillation",
        same_as="magnitude_l1",
        source="Li et al., ICLR 2017; Hinton et al., 2015",
    ),
    _preset(
        "reconstructed",
        "Removes the smallest units and solves the kept weights by least squares.",
        recovery="reconstruct",
        same_as="magnitude_l1",
        source="He et al., Channel Pruning, ICCV 2017",
    ),
)
_CONTROLS = (
    _preset("random_local", "Removes units at random, equally many of every group: the control.", criterion="random"),
    _preset("random_global", "Removes units at random over all groups.", criterion="random", scope="global"),
    _preset(
        "random_iterative",
        "Removes units at random, trains, evaluates, and goes on or rolls back.",
        criterion="random",
        schedule="dynamic",
        scope="global",
        source="control",
    ),
)

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {p.name: p for p in (*_SIZES, *_DATA, *_TRAINED, *_SHAPES, *_CONTROLS)}
)
