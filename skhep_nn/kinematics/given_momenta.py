"""Momenta that users name: which columns belong together, as the parameter `objects` says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from skhep_nn.kinematics.momenta import COMPONENTS, Momentum
from skhep_nn.kinematics.momentum_names import only_reading
from skhep_nn.utils.checks import is_integer

__all__ = ["describe", "given_momenta"]

_SETS = (
    ("px", "py", "pz"),
    ("px", "py"),
    ("pt", "eta", "phi"),
    ("pt", "phi"),
    ("eta", "phi"),
)
_AXES = {"x": "px", "y": "py", "z": "pz", "et": "pt", "met": "pt"}
_EXAMPLE = "{'jet': {'pt': 'a', 'eta': 'b', 'phi': 'c'}}"


def given_momenta(objects: Any, names: Sequence[str], n_columns: int) -> list[Momentum]:
    """Return the momenta that `objects` describes, after a check.

    Parameters
    ----------
    objects : mapping or None
        For each object, its columns: a mapping from component to column, or a sequence of columns whose names tell
        their components. A column is given by its name or its number.
    names : sequence of str
        Names of the columns of X; empty if they have no names.
    n_columns : int
        Number of columns of X.

    Raises
    ------
    TypeError
        If `objects` is no mapping, or one of its values is neither a mapping nor a sequence.
    ValueError
        If columns or components are unknown, repeat, or do not form a momentum.
    """
    if objects is None:
        return []
    if not isinstance(objects, Mapping):
        raise TypeError(
            f"objects must be a dict from names of objects to their columns, such as {_EXAMPLE}; got {objects!r}."
        )
    momenta: list[Momentum] = []
    owner: dict[int, str] = {}
    for name, columns in objects.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"objects needs a text as the name of each object, got {name!r}.")
        momentum = _momentum(name, _by_component(name, columns), names, n_columns)
        for i in momentum.columns:
            if i in owner:
                label = repr(names[i]) if names else i
                raise ValueError(
                    f"objects names the column {label} twice, in {owner[i]!r} and in {name!r}: each column "
                    "belongs to one component of one object."
                )
            owner[i] = name
        momenta.append(momentum)
    return momenta


def _by_component(name: str, columns: Any) -> dict[str, Any]:
    """Return the columns of an object by component."""
    if isinstance(columns, Mapping):
        found = {_canonical(component): column for component, column in columns.items()}
        if len(found) < len(columns):
            raise ValueError(f"objects gives a component of {name!r} twice: {dict(columns)}.")
        return found
    if isinstance(columns, str) or not isinstance(columns, Sequence):
        raise TypeError(
            f"objects[{name!r}] must be a dict from components to columns, such as {_EXAMPLE}, or a tuple of "
            f"columns whose names tell the components; got {columns!r}."
        )
    components = [only_reading(column) if isinstance(column, str) else None for column in columns]
    known = [None if c is None else _canonical(c) for c in components]
    if None in known or len(set(known)) < len(known):
        raise ValueError(
            f"The names of the columns {list(columns)} of objects[{name!r}] do not tell which component each is. "
            f"Say so by a dict, such as {_EXAMPLE}; components are {', '.join(COMPONENTS)}."
        )
    return {str(component): column for component, column in zip(known, columns, strict=True)}


def _canonical(component: Any) -> str:
    """Return a component in the spelling of this package, or as it is if it has none."""
    text = str(component).lower()
    if len(text) > 1 and text[-1] in "xyz" and text not in COMPONENTS:
        text = text[-1]
    return _AXES.get(text, text)


def _momentum(
    name: str, columns: Mapping[str, Any], names: Sequence[str], n_columns: int
) -> Momentum:
    unknown = [component for component in columns if component not in COMPONENTS]
    if unknown:
        raise ValueError(
            f"objects[{name!r}] has the components {unknown}, but components are {', '.join(COMPONENTS)}."
        )
    given = tuple(component for component in COMPONENTS if component in columns)
    if given not in _SETS:
        options = "; ".join(", ".join(parts) for parts in _SETS)
        raise ValueError(
            f"objects[{name!r}] gives {', '.join(given) or 'no component'}, which is no momentum that can be turned. "
            f"Give one of: {options}."
        )
    at = {c: _position(name, column, names, n_columns) for c, column in columns.items()}
    if "px" in at:
        momentum = Momentum(name, True, at["px"], at["py"], at.get("pz"))
    else:
        momentum = Momentum(name, False, at.get("pt"), at["phi"], at.get("eta"))
    if len(set(momentum.columns)) < len(at):
        raise ValueError(f"objects[{name!r}] gives one column for two components: {dict(columns)}.")
    return momentum


def _position(name: str, column: Any, names: Sequence[str], n_columns: int) -> int:
    """Return the number of a column of an object, given by name or number."""
    if isinstance(column, str):
        if column in names:
            return list(names).index(column)
        known = f"X has {list(names)}" if names else "X has no column names; give columns=[...]"
        raise ValueError(f"objects[{name!r}] names the column {column!r}, but {known}.")
    if not is_integer(column) or not 0 <= column < n_columns:
        raise ValueError(
            f"objects[{name!r}] has the column {column!r}; give a name, or a number from 0 to {n_columns - 1}."
        )
    return int(column)


def describe(momenta: Iterable[Momentum], names: Sequence[str]) -> dict[str, dict[str, str | int]]:
    """Return for each momentum its columns by component, as names or as numbers if they have no names."""
    found: dict[str, dict[str, str | int]] = {}
    for momentum in momenta:
        columns = found.setdefault(momentum.name, {})
        for component, i in momentum.components.items():
            columns.setdefault(component, str(names[i]) if names else i)
    return found
