"""Policy + model -> may it be: the one place that refuses impossible combinations, with the reason."""

from __future__ import annotations

from collections.abc import Sequence

from autoprune.axes import AXES, EDITS, STRUCTURED, TENSORS, refusal
from autoprune.errors import ConfigError
from autoprune.groups.types import ModelGroups, Part, PruningGroup
from autoprune.policy import OVERRIDABLE, Policy, Strategy

CHEAPER = ("channel", "head", "ffn", "depth", "rank")
"""Granularities that take away multiply-accumulates of dense kernels."""


def can_rank(group: PruningGroup, criterion: str) -> bool:
    """Tell whether a group has what a criterion needs."""
    return "batch_norm" not in AXES["criterion"][criterion].requires or bool(group.batch_norms)


def check_policy(groups: ModelGroups, policy: Policy) -> None:
    """Refuse a policy that cannot be carried out on a model: the one place that decides it, with `axes.refusal`.

    Raises:
        ConfigError: Choices that do not go together, a name that the model does not have, a criterion that a group
            cannot be ranked by, or a tensor that would be cut and masked at once.
    """
    why = refusal(policy.strategy.point)
    if why:
        raise ConfigError(f"The strategy is impossible: {why}.", hint="Take another value on one of the two axes.")
    by_name: dict[str, PruningGroup | Part] = {g.name: g for g in groups.groups}
    by_name |= {p.name: p for p in groups.parts}
    for name in (*policy.sparsity, *policy.overrides):
        if name not in by_name:
            raise ConfigError(
                f"The policy names the group {name!r}, which this model does not have.",
                hint="Apply a policy only to the model it was searched for.",
            )
    _check_amount(policy)
    concerned = list(policy.sparsity) if policy.amount is None else [p.name for p in concerns(groups, policy.strategy)]
    for name in concerned:
        _check_choice(by_name[name], policy)
    _check_apart(groups, policy, [name for name in concerned if isinstance(by_name[name], Part)])


def concerns(groups: ModelGroups, strategy: Strategy) -> tuple[PruningGroup | Part, ...]:
    """Return what a strategy's granularity works on: structural groups, weight tensors or modules of a kind.

    Raises:
        ConfigError: The model has nothing of that kind.
    """
    kind = strategy.granularity
    found: tuple[PruningGroup | Part, ...]
    if kind in EDITS:
        found = tuple(p for p in groups.parts if p.kind == kind)
    elif kind in TENSORS:
        found = tuple(p for p in groups.parts if p.kind == "tensor" and (kind != "rank" or p.factored))
    elif kind == "head":
        found = tuple(g for g in groups.groups if g.granularity == "head")
    elif kind == "ffn":
        found = tuple(g for g in groups.groups if g.feed_forward)
    else:
        found = groups.groups
    if not found:
        raise ConfigError(
            f"This model has nothing of granularity {kind!r}.",
            hint="`autoprune check` lists what can be pruned.",
        )
    return found


def _check_amount(policy: Policy) -> None:
    """Refuse an amount that the strategy cannot use up, and choices for a group that one amount for all rules out."""
    amount, strategy = policy.amount, policy.strategy
    if amount is None:
        return
    if amount.kind == "macs" and strategy.granularity not in CHEAPER:
        raise ConfigError(
            f"Granularity {strategy.granularity!r} takes away no multiply-accumulates: none can be asked for.",
            hint="Ask for a sparsity.",
        )
    if amount.kind == "threshold" and strategy.regularizer == "hard_concrete":
        raise ConfigError(
            "The regularizer 'hard_concrete' needs to know how many gates stay open; a threshold does not say it.",
            hint="Ask for a sparsity or a share of the MACs.",
        )
    for name, choice in policy.overrides.items():
        if "schedule" in choice:
            raise ConfigError(
                f"The policy gives the group {name!r} a schedule of its own, and one amount for all groups together.",
                hint="Take scope per_group and a sparsity for every group, or one schedule.",
            )


def _check_choice(found: PruningGroup | Part, policy: Policy) -> None:
    name = found.name
    choices = {axis: policy.choice(name, axis) for axis in OVERRIDABLE}
    if isinstance(found, Part) and found.kind != "tensor":
        choices["granularity"] = found.kind
    why = refusal({**policy.strategy.point, **choices})
    if why:
        raise ConfigError(f"The choices for {name!r} are impossible: {why}.", hint="Change the policy's overrides.")
    granularity = choices["granularity"]
    if isinstance(found, Part) and found.kind == "tensor" and granularity not in TENSORS:
        raise ConfigError(
            f"The policy prunes the weight {name!r} by granularity {granularity!r}, which works on whole units.",
            hint=f"Take one of {', '.join(TENSORS)}.",
        )
    if isinstance(found, Part) and granularity == "rank" and not found.factored:
        raise ConfigError(
            f"The policy gives the weight {name!r} a lower rank; low-rank factors cannot take its layer's place.",
            hint="Factors stand for plain linear layers and convolutions in one group. Leave it out, or mask it.",
        )
    if isinstance(found, PruningGroup):
        if granularity not in STRUCTURED:
            raise ConfigError(
                f"The policy prunes the group {name!r} by granularity {granularity!r}, which works on weights.",
                hint="Name weights, such as conv.weight, or take granularity channel.",
            )
        if not can_rank(found, choices["criterion"]):
            raise ConfigError(
                f"The criterion {choices['criterion']!r} cannot rank the group {name!r}, which has no BatchNorm.",
                hint=f"Override it for that group, such as overrides: {{{name}: {{criterion: l1}}}}.",
            )
        if policy.strategy.regularizer == "bn_l1" and not found.batch_norms:
            raise ConfigError(
                f"The regularizer 'bn_l1' does nothing for the group {name!r}, which has no BatchNorm.",
                hint="Take l1 or group_lasso.",
            )


def _check_apart(groups: ModelGroups, policy: Policy, parts: Sequence[str]) -> None:
    """Refuse masks and factors of a tensor that other entries of the policy cut."""
    cut = {group.name: group for group in groups.groups if group.name in policy.sparsity}
    if not cut or not parts:
        return
    for dimension in groups.plan.dimensions:
        if dimension.parameter not in parts:
            continue
        for name, group in cut.items():
            if ((dimension.units >= group.start) & (dimension.units < group.start + group.width)).any():
                raise ConfigError(
                    f"The policy prunes the weight {dimension.parameter!r} and cuts channels of {name!r} out of it.",
                    hint="Prune each weight one way: leave out one of the two entries.",
                )
