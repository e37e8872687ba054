"""Pruned architecture <-> plan.json. Reading takes nothing for granted: the file may be damaged or hostile."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, NoReturn, get_args

from torch import Tensor, nn

from autoprune.errors import ArtifactError
from autoprune.groups.cloning import size_attributes
from autoprune.groups.edits import check_edits
from autoprune.groups.types import ArchitecturePlan, Argument, Edit, EditKind, MaskKind, Returns

SCHEMA_VERSION = "1.0"
_KEYS = frozenset({"schema_version", "kept", "grouped", "attributes", "shapes", "prepared"})
_OPTIONAL = frozenset({"edits", "masks"})
_MAX_DIMS = 8
_MAX_SIZE = 2**31
_MAX_NAME = 1000
_MAX_ARGUMENTS = 64

GroupIndices = tuple[tuple[int, ...], tuple[int, ...]]


def architecture_to_json(architecture: ArchitecturePlan) -> dict[str, Any]:
    """Return a JSON-able dict that `architecture_from_json` reads back to an equal plan."""
    document: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "kept": {
            name: {str(dim): list(index) for dim, index in dims.items()} for name, dims in architecture.kept.items()
        },
        "grouped": {
            name: [{"rows": list(rows), "columns": list(columns)} for rows, columns in groups]
            for name, groups in architecture.grouped.items()
        },
        "attributes": {module: dict(values) for module, values in architecture.attributes.items()},
        "shapes": {name: list(shape) for name, shape in architecture.shapes.items()},
        "prepared": list(architecture.prepared),
    }
    if architecture.edits:
        document["edits"] = [_edit_to_json(edit) for edit in architecture.edits]
    if architecture.masks:
        document["masks"] = dict(architecture.masks)
    return document


def architecture_from_json(document: object) -> ArchitecturePlan:
    """Validate a parsed plan.json by itself; `rebuild` checks it against the model.

    Raises:
        ArtifactError: A key, type, range or order is wrong; the message says where.
    """
    data = _mapping(document, "plan")
    if set(data) - _OPTIONAL != _KEYS:
        _refuse("plan", f"must have exactly the keys {', '.join(sorted(_KEYS))}, and may have edits and masks")
    if data["schema_version"] != SCHEMA_VERSION:
        _refuse("schema_version", f"must be {SCHEMA_VERSION!r}")
    shapes = {name: _shape(value, f"shapes[{name!r}]") for name, value in _mapping(data["shapes"], "shapes").items()}
    kept = {
        name: _kept(value, _shape_of(shapes, name), f"kept[{name!r}]")
        for name, value in _mapping(data["kept"], "kept").items()
    }
    grouped = {
        name: _groups(value, _shape_of(shapes, name), f"grouped[{name!r}]")
        for name, value in _mapping(data["grouped"], "grouped").items()
    }
    attributes = {
        module: {key: _integer(v, f"attributes[{module!r}]", 1) for key, v in _mapping(values, "attributes").items()}
        for module, values in _mapping(data["attributes"], "attributes").items()
    }
    if kept.keys() & grouped.keys() or shapes.keys() != kept.keys() | grouped.keys():
        _refuse("shapes", "must name every tensor of kept and grouped, and each of these only once")
    prepared = tuple(_name(p, "prepared") for p in _list(data["prepared"], "prepared"))
    if len(set(prepared)) != len(prepared):
        _refuse("prepared", "must name every module only once")
    return ArchitecturePlan(kept, grouped, attributes, shapes, prepared, _edits(data), _masks(data))


def check_architecture(model: nn.Module, tensors: Mapping[str, Tensor], architecture: ArchitecturePlan) -> None:
    """Check that a plan fits a model, whatever the plan's source.

    Raises:
        ArtifactError: Naming the first tensor or attribute that does not fit.
    """
    seen: set[int] = set()
    for name in architecture.shapes.keys() | architecture.kept.keys() | architecture.grouped.keys():
        shape = architecture.shapes.get(name)
        tensor = tensors.get(name)
        if tensor is None or shape != tuple(tensor.shape):
            found = "has no such tensor" if tensor is None else f"has shape {tuple(tensor.shape)}"
            raise ArtifactError(
                f"The plan needs {name!r} of shape {shape}; the model {found}.",
                hint="Pass the model definition that was pruned, with the same sizes.",
            )
        if id(tensor) in seen:
            _refuse(name, "names a tensor that another entry names too")
        seen.add(id(tensor))
    architecture_from_json(architecture_to_json(architecture))
    _check_attributes(dict(model.named_modules(remove_duplicate=False)), architecture)
    check_edits(model, architecture.edits)
    _check_masks(model, architecture)


def _check_masks(model: nn.Module, architecture: ArchitecturePlan) -> None:
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name in architecture.masks:
        if name not in parameters or name in architecture.shapes:
            problem = "the model has no such parameter" if name not in parameters else "the plan cuts it too"
            raise ArtifactError(
                f"The plan has zeros in {name!r}; {problem}.",
                hint="Pass the model definition that was pruned, with the same sizes.",
            )


def _check_attributes(modules: Mapping[str, nn.Module], architecture: ArchitecturePlan) -> None:
    groups: dict[int, int | None] = {}
    for path, values in architecture.attributes.items():
        module = modules.get(path)
        for attribute, value in values.items():
            old = None if module is None else size_attributes(module).get(attribute)
            if old is None or not 1 <= value <= old:
                raise ArtifactError(
                    f"The plan sets {attribute!r} of module {path!r} to {value}; the model has {old!r} there.",
                    hint="Pass the model definition that was pruned, with the same sizes.",
                )
        groups[id(module)] = values.get("groups")
    for name, kept in architecture.grouped.items():
        if groups.get(id(modules[name.rpartition(".")[0]])) != len(kept):
            _refuse(name, "keeps another number of groups than its convolution")


def _refuse(where: str, problem: str) -> NoReturn:
    raise ArtifactError(
        f"plan.json is not valid: {where} {problem}.", hint="The file is damaged; take the directory from its source."
    )


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _refuse(where, "must be an object")
    for key in value:
        _name(key, where)
    return value


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        _refuse(where, "must be a list")
    return value


def _name(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MAX_NAME:
        _refuse(where, f"must hold names of at most {_MAX_NAME} characters")
    return value


def _integer(value: object, where: str, low: int, high: int = _MAX_SIZE) -> int:
    if type(value) is not int or not low <= value < high:
        _refuse(where, f"must hold integers from {low} to {high - 1}")
    return value


def _shape(value: object, where: str) -> tuple[int, ...]:
    sizes = _list(value, where)
    if not 1 <= len(sizes) <= _MAX_DIMS:
        _refuse(where, f"must have 1 to {_MAX_DIMS} dimensions")
    return tuple(_integer(size, where, 1) for size in sizes)


def _shape_of(shapes: Mapping[str, tuple[int, ...]], name: str) -> tuple[int, ...]:
    if name not in shapes:
        _refuse("shapes", f"must name {name!r}")
    return shapes[name]


def _indices(value: object, size: int, where: str) -> tuple[int, ...]:
    """Read kept indices of a dimension: at least one, ascending, below `size`."""
    index = tuple(_integer(i, where, 0, size) for i in _list(value, where))
    if not index:
        _refuse(where, "must keep at least one index")
    if any(a >= b for a, b in pairwise(index)):
        _refuse(where, "must hold ascending indices")
    return index


def _kept(value: object, shape: tuple[int, ...], where: str) -> dict[int, tuple[int, ...]]:
    allowed = {str(dim): dim for dim in range(len(shape))}
    kept = {}
    for key, index in _mapping(value, where).items():
        if key not in allowed:
            _refuse(where, f"must have dimensions below {len(shape)}")
        kept[allowed[key]] = _indices(index, shape[allowed[key]], where)
    return kept


def _groups(value: object, shape: tuple[int, ...], where: str) -> list[GroupIndices]:
    if len(shape) < 3:
        _refuse(where, "must be the weight of a convolution")
    groups: list[GroupIndices] = []
    for item in _list(value, where):
        entry = _mapping(item, where)
        if set(entry) != {"rows", "columns"}:
            _refuse(where, "must have rows and columns for every group")
        groups.append((_indices(entry["rows"], shape[0], where), _indices(entry["columns"], shape[1], where)))
    rows = [row for group, _ in groups for row in group]
    if not groups or any(a >= b for a, b in pairwise(rows)):
        _refuse(where, "must hold ascending rows over at least one group")
    if len({(len(r), len(c)) for r, c in groups}) != 1:
        _refuse(where, "must keep equally many rows and columns in every group")
    return groups


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    value = {"value": edit.value} if edit.value else {}
    other = {"other": edit.other} if edit.other else {}
    listed = list(edit.returns) if isinstance(edit.returns, tuple) else edit.returns
    returns = {} if listed is None else {"returns": listed}
    return {"kind": edit.kind, "path": edit.path, **value, **other, **returns}


def _edits(data: Mapping[str, Any]) -> tuple[Edit, ...]:
    edits = tuple(_edit(item, f"edits[{n}]") for n, item in enumerate(_list(data.get("edits", []), "edits")))
    if len({edit.path for edit in edits}) != len(edits):
        _refuse("edits", "must name every path only once")
    return edits


def _edit(value: object, where: str) -> Edit:
    """Read an edit: a rank belongs to `low_rank` alone, a second path to `fold_norm`, arguments to `remove`."""
    entry = _mapping(value, where)
    kind = next((known for known in get_args(EditKind) if known == entry.get("kind")), None)
    if kind is None:
        _refuse(where, f"must have a kind of {', '.join(get_args(EditKind))}")
    own = {"low_rank": {"value"}, "fold_norm": {"other"}}.get(kind, set())
    optional = {"returns"} if kind == "remove" else set()
    if set(entry) - optional != {"kind", "path"} | own:
        _refuse(where, f"must have exactly the keys {', '.join(sorted({'kind', 'path'} | own))}")
    path, other = (_name(text, where) for text in (entry["path"], entry.get("other", "")))
    if not path or ("other" in own and not other):
        _refuse(where, "must name a module")
    rank = _integer(entry["value"], where, 1) if "value" in own else 0
    return Edit(kind, path, rank, other, _returns(entry["returns"], where) if "returns" in entry else None)


def _returns(value: object, where: str) -> Returns:
    if not isinstance(value, list):
        return _argument(value, where)
    if not 1 <= len(value) <= _MAX_ARGUMENTS or value[0] is None:
        _refuse(where, f"must return 1 to {_MAX_ARGUMENTS} arguments, the first of them not null")
    return tuple(None if key is None else _argument(key, where) for key in value)


def _argument(value: object, where: str) -> Argument:
    return _name(value, where) if isinstance(value, str) else _integer(value, where, 0, _MAX_ARGUMENTS)


def _masks(data: Mapping[str, Any]) -> dict[str, str]:
    masks = _mapping(data.get("masks", {}), "masks")
    for name, granularity in masks.items():
        if not isinstance(granularity, str) or granularity not in get_args(MaskKind):
            _refuse(f"masks[{name!r}]", f"must be one of {', '.join(get_args(MaskKind))}")
    return dict(masks)
