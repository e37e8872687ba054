"""One named strategy, without a search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoprune.cli.console import note, show, write_json, write_text
from autoprune.cli.options import AsJson, ConfigPath, Overrides

if TYPE_CHECKING:
    from autoprune.policy import Policy


def prune_model(
    config: ConfigPath,
    strategy: Annotated[str, typer.Option("--strategy", help="A name from `autoprune list strategies`.")],
    to: Annotated[Path, typer.Option("--to", metavar="DIR", help="New or empty directory for the model.")],
    sparsity: Annotated[
        float | None, typer.Option(min=0.0, max=0.999, help="Share of units, weights or modules that goes.")
    ] = None,
    macs: Annotated[
        float | None, typer.Option(min=0.001, max=1.0, help="Largest share of multiply-accumulates that stays.")
    ] = None,
    threshold: Annotated[
        float | None, typer.Option(min=0.0, help="What scores below this multiple of the mean goes.")
    ] = None,
    round_to: Annotated[int | None, typer.Option(min=1, help="Widths that stay are multiples of this.")] = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="FIELD=VALUE", help="Change of the strategy, such as scope=global. Repeatable."),
    ] = None,
    set_: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Prune by one named strategy, recover, measure and write the model; give --sparsity, --macs or --threshold."""
    from tempfile import TemporaryDirectory

    from autoprune.cli.copying import copy_member, refuse_taken
    from autoprune.cli.tables import single_tables
    from autoprune.config import load_config
    from autoprune.errors import OutputError

    policy = _policy(strategy, {"sparsity": sparsity, "macs": macs, "threshold": threshold}, round_to, change or [])
    refuse_taken(to)
    loaded = load_config(config, overrides=set_ or ())
    from autoprune.search.single import prune_single

    with TemporaryDirectory(prefix="autoprune-") as folder:
        found = prune_single(loaded, policy, Path(folder))
        copy_member(Path(folder), found.member, to)
    if not to.is_dir():
        raise OutputError(f"{to} was not written.", hint="Give another --to.")
    if as_json:
        described = {n: getattr(found, n).model_dump(mode="json") for n in ("member", "baseline")}
        write_json({"directory": str(to), **described, "policy": policy.to_json(), "notes": list(found.notes)})
    else:
        show(*single_tables(found.member, found.baseline))
        for text in found.notes:
            note(text)
        write_text(str(to))
    note(f"next: autoprune verify {to}")


def _policy(strategy: str, amounts: dict[str, float | None], round_to: int | None, changes: list[str]) -> Policy:
    """Return a preset's policy with one amount.

    Raises:
        ConfigError: Not exactly one amount, or a change that names no field.
        UnknownNameError: No strategy of that name.
    """
    from autoprune.errors import ConfigError
    from autoprune.policy import Amount, Policy, Strategy

    given = {kind: value for kind, value in amounts.items() if value is not None}
    if len(given) != 1:
        asked = " and ".join(f"--{kind}" for kind in given) or "none"
        raise ConfigError(
            f"One of --sparsity, --macs and --threshold says how much goes. Got {asked}.", hint="Such as --macs 0.5."
        )
    ((kind, value),) = given.items()
    changed: dict[str, Any] = {}
    for text in changes:
        field, sign, word = text.partition("=")
        if not sign:
            raise ConfigError(f"--with takes FIELD=VALUE. Got {text!r}.", hint="Such as --with scope=global.")
        changed[field] = _value(word)
    chosen = Strategy.of_preset(strategy, **changed)
    return Policy({}, chosen, amount=Amount.of(kind, value, "auto" if round_to is None else round_to))


def _value(word: str) -> Any:
    """Return a number where a word is one."""
    for kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            continue
    return word
