"""Values of the axes that say what is cut, how much of each group, when, and how the network recovers."""

from __future__ import annotations

from autoprune.axes.criteria import HAN, LI
from autoprune.axes.types import AxisValue

_NO_SHAPE = "its units are not cut out"
_ONCE = "it is done once, not in steps"
_EDIT = {
    "schedule=iterative": _ONCE,
    "schedule=cubic": _ONCE,
    "schedule=dynamic": _ONCE,
    "regrowth=gradient": "what is taken out of the module tree cannot come back",
    "scope=global": "its kinds are not ranked against each other",
    "regularizer=hard_concrete": "gates stand on channels",
    "regularizer=growing_l2": "the penalty grows on channels that will go",
}
_WEIGHTS = {
    "regularizer=hard_concrete": "gates stand on channels, not on single weights",
    "regularizer=bn_l1": "BatchNorm scales stand for channels, not for single weights",
    "regularizer=growing_l2": "the penalty grows on channels that will go",
}
_UNTRAINED = {
    "schedule=iterative": "nothing is trained between the cuts",
    "schedule=cubic": "nothing is trained between the cuts",
    "schedule=dynamic": "nothing is trained between the cuts",
    "regularizer=l1": "a penalty works while training",
    "regularizer=l2": "a penalty works while training",
    "regularizer=group_lasso": "a penalty works while training",
    "regularizer=bn_l1": "a penalty works while training",
    "regularizer=growing_l2": "a penalty works while training",
    "regularizer=hard_concrete": "gates are learned while training",
    "regularizer=max_norm": "the constraint holds while training",
    "regrowth=gradient": "nothing is trained between the cuts",
    "optimizer=adamw": "nothing is trained",
}

GRANULARITIES = (
    AxisValue("channel", "granularity", "Whole channels, filters, neurons or heads, cut out of every tensor.", LI),
    AxisValue(
        "head",
        "granularity",
        "Attention heads alone, cut out of every tensor.",
        "Michel et al., Are Sixteen Heads Really Better than One?, NeurIPS 2019",
    ),
    AxisValue(
        "ffn",
        "granularity",
        "Hidden units of the feed-forward layers alone, cut out of every tensor.",
        "McCarley et al., Structured Pruning of a BERT-based Question Answering Model, 2019",
    ),
    AxisValue(
        "depth",
        "granularity",
        "Whole residual blocks or layers, replaced by their shortcut.",
        "Veit et al., Residual Networks Behave Like Ensembles, NeurIPS 2016; Men et al., ShortGPT, 2024",
        excludes=_EDIT,
    ),
    AxisValue("weight", "granularity", "Single weights, kept at zero: no speed-up here.", HAN, excludes=_WEIGHTS),
    AxisValue(
        "n_m",
        "granularity",
        "N of M neighbouring weights of a row (2 of 4), kept at zero: faster on sparse tensor cores alone.",
        "Mishra et al., Accelerating Sparse Deep Neural Networks, 2021",
        excludes={**_WEIGHTS, "scope=global": "every four weights keep the same number"},
    ),
    AxisValue(
        "block",
        "granularity",
        "Blocks of 4 outputs by 4 inputs of a weight, kept at zero: faster with block-sparse kernels alone.",
        "Gray et al., GPU Kernels for Block-Sparse Weights, 2017",
        excludes=_WEIGHTS,
    ),
    AxisValue(
        "scale",
        "granularity",
        "The units that would go are scaled down instead and may grow again: no shape changes.",
        "He et al., Soft Filter Pruning, IJCAI 2018",
        excludes={"regularizer=hard_concrete": _NO_SHAPE, "regrowth=gradient": _NO_SHAPE},
    ),
    AxisValue(
        "rank",
        "granularity",
        "Low-rank factors in place of linear and convolution weights, by singular values.",
        "Denton et al., Exploiting Linear Structure Within Convolutional Networks, NeurIPS 2014",
        excludes={**_EDIT, **_WEIGHTS},
    ),
    AxisValue(
        "activation",
        "granularity",
        "Activation functions, replaced by the identity.",
        "Dror et al., Layer Folding, 2021",
        excludes=_EDIT,
    ),
    AxisValue(
        "norm",
        "granularity",
        "BatchNorms, folded into the convolution before them.",
        "Jacob et al., Quantization and Training of Neural Networks, CVPR 2018",
        excludes=_EDIT,
    ),
    AxisValue(
        "pooling",
        "granularity",
        "Max poolings, replaced by average poolings of the same window.",
        "Boureau et al., A Theoretical Analysis of Feature Pooling, ICML 2010",
        excludes=_EDIT,
    ),
    AxisValue(
        "bias",
        "granularity",
        "Biases of linear and convolution layers, taken out.",
        "Raffel et al., T5, JMLR 2020 (layers without biases)",
        excludes=_EDIT,
    ),
)

SCOPES = (
    AxisValue("per_group", "scope", "Every group has a sparsity of its own.", "He et al., AMC, ECCV 2018"),
    AxisValue("local", "scope", "One sparsity, or one threshold, holds in every group.", LI),
    AxisValue("global", "scope", "All units are ranked together under one threshold.", HAN),
)

SELECTIONS = (
    AxisValue("top_k", "selection", "The most important stay.", LI),
    AxisValue(
        "greedy",
        "selection",
        "The least important go a few at a time, and the rest is scored anew in between.",
        "Mozer and Smolensky, Skeletonization, NIPS 1988",
        excludes={
            "granularity=n_m": "its pattern is made at once",
            "granularity=rank": "singular values need no scoring again",
        },
    ),
    AxisValue(
        "stochastic",
        "selection",
        "What stays is drawn without replacement, with chances that grow with the scores.",
        "Kool et al., Stochastic Beams and Where to Find Them, ICML 2019 (Gumbel top-k)",
        stochastic=True,
        excludes={"granularity=n_m": "its pattern is by rank", "granularity=rank": "its factors are by rank"},
    ),
)

SCHEDULES = (
    AxisValue("one_shot", "schedule", "Everything is cut at once, before recovery.", LI),
    AxisValue("iterative", "schedule", "Equal parts are cut in turns with training in between.", HAN),
    AxisValue(
        "cubic",
        "schedule",
        "The sparsity grows while training as 1 - (1 - t)^3.",
        "Zhu and Gupta, To Prune, or Not to Prune, 2017 (AGP)",
    ),
    AxisValue(
        "dynamic",
        "schedule",
        "Prune, train, evaluate on tune: go on, or roll back what lost more than the threshold and cut less.",
        "Guo et al., Dynamic Network Surgery, NeurIPS 2016",
    ),
)

REGULARIZERS = (
    AxisValue("none", "regularizer", "No penalty while training.", "-"),
    AxisValue("l1", "regularizer", "Sum of absolute weights.", "Tibshirani, Lasso, 1996"),
    AxisValue("l2", "regularizer", "Half the sum of squared weights.", "Krogh and Hertz, NIPS 1991"),
    AxisValue(
        "group_lasso",
        "regularizer",
        "Sum over units of the norm of their weights.",
        "Wen et al., Learning Structured Sparsity, NeurIPS 2016",
    ),
    AxisValue(
        "bn_l1",
        "regularizer",
        "Sum of absolute BatchNorm scales.",
        "Liu et al., Network Slimming, ICCV 2017",
        requires=("batch_norm",),
    ),
    AxisValue(
        "growing_l2",
        "regularizer",
        "An L2 penalty that grows on the units that will go.",
        "Wang et al., Neural Pruning via Growing Regularization, ICLR 2021",
        excludes={"schedule=dynamic": "what will go is chosen anew", "regrowth=gradient": "what will go is fixed"},
    ),
    AxisValue(
        "hard_concrete",
        "regularizer",
        "A learned random gate on every unit, whose expected number of open ones is driven to the target.",
        "Louizos et al., Learning Sparse Neural Networks through L0 Regularization, ICLR 2018",
        excludes={
            "selection=greedy": "the gates choose",
            "selection=stochastic": "the gates choose",
            "schedule=iterative": "the gates close in their own time",
            "schedule=cubic": "the gates close in their own time",
            "schedule=dynamic": "the gates close in their own time",
            "regrowth=gradient": "closed gates open again by themselves",
        },
    ),
    AxisValue(
        "max_norm",
        "regularizer",
        "No unit's weights may have a norm above a bound.",
        "Srebro and Shraibman, COLT 2005; Srivastava et al., Dropout, JMLR 2014",
    ),
)

REGROWTHS = (
    AxisValue("none", "regrowth", "What went stays away.", "-"),
    AxisValue(
        "gradient",
        "regrowth",
        "At every cut some of what went comes back: that whose return lowers the loss most.",
        "Evci et al., Rigging the Lottery, ICML 2020",
        excludes={
            "schedule=one_shot": "there is no later cut to return at",
            "schedule=dynamic": "it rolls back instead",
            "granularity=n_m": "single returns would break the pattern",
            "granularity=block": "single returns would break the blocks",
            "selection=greedy": "what is scored anew may return anyhow",
        },
    ),
)

RECOVERIES = (
    AxisValue(
        "recalibrate",
        "recovery",
        "BatchNorm statistics are estimated anew; no weight is trained.",
        "Li et al., EagleEye, ECCV 2020",
        excludes=_UNTRAINED,
    ),
    AxisValue("fine_tune", "recovery", "Training on the task's loss, then recalibration.", HAN),
    AxisValue(
        "distillation",
        "recovery",
        "Training on the task's loss and on the dense model's outputs, then recalibration.",
        "Hinton et al., Distilling the Knowledge in a Neural Network, 2015",
    ),
    AxisValue(
        "feature_distillation",
        "recovery",
        "Training on the task's loss and on the dense model's features of the kept channels, then recalibration.",
        "Romero et al., FitNets, ICLR 2015",
        excludes={"granularity=rank": "its features are other layers'", "granularity=depth": "features lie elsewhere"},
    ),
    AxisValue(
        "reconstruct",
        "recovery",
        "Layer by layer, the kept weights are solved by least squares to give the dense layer's outputs.",
        "He et al., Channel Pruning for Accelerating Very Deep Neural Networks, ICCV 2017",
        excludes={
            **_UNTRAINED,
            "granularity=rank": "its factors are optimal already",
            "granularity=depth": "layers have no counterpart",
        },
    ),
)

OPTIMIZERS = (
    AxisValue("sgd", "optimizer", "SGD with Nesterov momentum.", "Sutskever et al., ICML 2013"),
    AxisValue("adamw", "optimizer", "Adam with decoupled weight decay.", "Loshchilov and Hutter, ICLR 2019"),
)
