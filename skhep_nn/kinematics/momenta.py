"""Momenta in tables: found by the names of columns, rotated, reflected and converted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Self, TypeAlias

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from skhep_nn.kinematics.momentum_names import find_objects, find_unpaired, respelled

__all__ = [
    "COMPONENTS",
    "REMEDY",
    "Array",
    "CartesianLayout",
    "Momentum",
    "MomentumColumns",
    "Turn",
    "as_arrays",
    "check_complete",
    "columns_of",
    "find_momenta",
    "find_object",
    "wrap_angle",
]

Array: TypeAlias = Any
"""A numpy array, a torch tensor, or an object that ``numpy.asarray`` converts."""

COMPONENTS = ("px", "py", "pz", "pt", "eta", "phi")
"""Components that an object can have."""

REMEDY = (
    "If missing quantities are written as a number such as -999, make them NaN first. If the columns were scaled, "
    "leave the scaler out: momenta are turned in physical units, and networks standardise their inputs themselves."
)
"""What to do about values that no momentum has, for messages."""

Names: TypeAlias = NDArray[np.object_]


def as_arrays(*values: Array) -> tuple[Any, list[Array]]:
    """Return the library (torch or numpy) and the values as its arrays."""
    tensors = [value for value in values if isinstance(value, torch.Tensor)]
    if not tensors:
        return np, [np.asarray(value) for value in values]
    like = tensors[0]
    return torch, [
        value
        if isinstance(value, torch.Tensor)
        else torch.as_tensor(value, dtype=like.dtype, device=like.device)
        for value in values
    ]


def wrap_angle(xp: Any, angle: Array) -> Array:
    """Bring an angle to [-pi, pi); angles in that range stay the same, bit for bit."""
    turn = 2 * math.pi
    wrapped = angle - turn * xp.floor((angle + math.pi) / turn)
    # Rounding in the division may leave the result one turn off.
    wrapped = xp.where(wrapped < -math.pi, wrapped + turn, wrapped)
    return xp.where(wrapped >= math.pi, wrapped - turn, wrapped)


class Momentum(NamedTuple):
    """Columns of one object: (px, py, pz), or (magnitude, phi, eta).

    The third may be absent. So may the magnitude, if the object has an energy in its place.
    """

    name: str
    cartesian: bool
    x: int | None
    y: int
    z: int | None

    @property
    def columns(self) -> list[int]:
        """Numbers of the columns that the object has."""
        return [i for i in (self.x, self.y, self.z) if i is not None]

    @property
    def components(self) -> dict[str, int]:
        """Columns by component, in the order in which these are usually written."""
        names = ("px", "py", "pz") if self.cartesian else ("pt", "phi", "eta")
        found = {
            n: i for n, i in zip(names, (self.x, self.y, self.z), strict=True) if i is not None
        }
        return {n: found[n] for n in COMPONENTS if n in found}

    def azimuth(self, values: Array) -> Array:
        """Return the azimuth in every row of a table."""
        if not self.cartesian:
            return as_arrays(values[:, self.y])[1][0]
        xp, (x, y) = as_arrays(values[:, self.x], values[:, self.y])
        return xp.arctan2(y, x)

    def along(self, values: Array) -> Array:
        """Return pz or eta in every row of a table; zero for a transverse momentum."""
        xp, (y,) = as_arrays(values[:, self.y])
        return xp.zeros_like(y) if self.z is None else values[:, self.z]


def find_momenta(names: Sequence[str], given: Sequence[Momentum] = ()) -> list[Momentum]:
    """Find momenta by the names of their columns, in the order of the table.

    A column ``<object>_phi`` alone is not a momentum, as it may be a difference of angles.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    given : sequence of Momentum
        Momenta that are known already and keep their columns; they are returned with the others.
    """
    found = [Momentum(*one) for one in find_objects(names, columns_of(given))]
    return sorted([*given, *found], key=lambda m: m.y if m.x is None else min(m.x, m.y))


def columns_of(momenta: Iterable[Momentum]) -> list[int]:
    """Return the numbers of all columns of some momenta."""
    return [i for momentum in momenta for i in momentum.columns]


def find_object(momenta: Iterable[Momentum], role: str, name: str) -> Momentum:
    """Return a momentum by its name; `role` is the parameter that names it, for messages."""
    by_name = {momentum.name: momentum for momentum in momenta}
    if name not in by_name:
        raise ValueError(
            f"{role}={name!r} is not among the momenta of X, which are {sorted(by_name)}: give one "
            "of these."
        )
    return by_name[name]


def check_complete(names: Sequence[str], momenta: Iterable[Momentum]) -> None:
    """Raise ValueError if a column belongs to an incomplete momentum, which cannot be turned.

    `momenta` are the complete ones, as from `find_momenta`.
    """
    unpaired = find_unpaired(names, set(columns_of(momenta)))
    if unpaired is not None:
        name, other = unpaired
        raise ValueError(
            f"Column {name!r} has no {other!r} beside it, so this momentum cannot be "
            "turned together with the rest of its event. Add that column, name it in objects=, drop the object, "
            "or (after EventAligner) leave this step out: aligned events have one orientation."
        )


class Turn(NamedTuple):
    """Rotation in phi followed by reflections in y and z, the same for all events or one for each."""

    angle: Array
    cos: Array
    sin: Array
    y_sign: Array
    z_sign: Array

    @classmethod
    def aligning(cls, values: Array, reference: Momentum, orient: Momentum) -> Self:
        """Return the turn that brings the reference to phi = 0 and z >= 0, and then `orient` to y >= 0."""
        xp, _ = as_arrays(values)
        angle = -xp.nan_to_num(reference.azimuth(values))
        y = xp.sin(orient.azimuth(values) + angle)
        z, tie_break = reference.along(values), orient.along(values)
        z = xp.where(xp.nan_to_num(z) == 0, tie_break, z)
        return cls.by(xp, angle, xp.where(y < 0, -1.0, 1.0), xp.where(z < 0, -1.0, 1.0))

    @classmethod
    def by(cls, xp: Any, angle: Array, y_sign: Array, z_sign: Array) -> Self:
        """Return a turn by an angle, with the signs that y and z are multiplied by afterwards."""
        return cls(angle, xp.cos(angle), xp.sin(angle), y_sign, z_sign)


class MomentumColumns(NamedTuple):
    """Columns that a turn changes, grouped by component."""

    x: tuple[int, ...] = ()
    y: tuple[int, ...] = ()
    z: tuple[int, ...] = ()
    phi: tuple[int, ...] = ()
    eta: tuple[int, ...] = ()

    @classmethod
    def of(cls, momenta: Iterable[Momentum]) -> Self:
        """Collect the columns of some momenta."""
        found = list(momenta)
        cartesian = [momentum for momentum in found if momentum.cartesian]
        cylindrical = [momentum for momentum in found if not momentum.cartesian]
        return cls(
            x=tuple(m.x for m in cartesian if m.x is not None),
            y=tuple(m.y for m in cartesian),
            z=tuple(m.z for m in cartesian if m.z is not None),
            phi=tuple(m.y for m in cylindrical),
            eta=tuple(m.z for m in cylindrical if m.z is not None),
        )

    def indices(self) -> NDArray[np.intp]:
        """Return the numbers of all columns in one array."""
        return np.array([i for group in self for i in group], dtype=np.intp)

    def turned(self, xp: Any, block: Array, turn: Turn) -> Array:
        """Return turned events, given as (columns, ...) with columns in the order of `indices`."""
        ends = np.cumsum([len(group) for group in self]).tolist()
        x, y, z, phi, eta = (
            block[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)
        )
        parts = []
        if self.x:
            parts.append(turn.cos * x - turn.sin * y)
            parts.append(turn.y_sign * turn.sin * x + turn.y_sign * turn.cos * y)
        if self.z:
            parts.append(turn.z_sign * z)
        if self.phi:
            parts.append(wrap_angle(xp, turn.y_sign * (phi + turn.angle)))
        if self.eta:
            parts.append(turn.z_sign * eta)
        return xp.concat(parts)

    def turn_array(self, X: Array, turn: Turn, indices: Array) -> Array:
        """Return turned events (..., features) as a new array; `indices` are on the device of X."""
        xp, out = (torch, X.clone()) if isinstance(X, torch.Tensor) else (np, X.copy())
        if any(self):
            # Features first, so that a rotation works on contiguous numbers, which is faster.
            block = xp.moveaxis(X, -1, 0)[indices]
            xp.moveaxis(out, -1, 0)[indices] = self.turned(xp, block, turn)
        return out

    def turn_table(self, X: pd.DataFrame | None, values: NDArray[Any], turn: Turn) -> Any:
        """Return a turned table, read by `EventTransformer.read`, as a DataFrame unless X is None."""
        turned = self.turn_array(values, turn, self.indices())
        if X is None:
            return turned
        table = X.copy(deep=False)
        for i in self.indices().tolist():
            table.isetitem(i, turned[:, i].astype(_float_type(X.dtypes.iloc[i]), copy=False))
        return table


def _float_type(dtype: Any) -> Any:
    """Return the type of a column if it is floating-point, otherwise float64."""
    return dtype if isinstance(dtype, np.dtype) and dtype.kind == "f" else np.dtype(float)


class CartesianLayout(NamedTuple):
    """Columns of a table whose cylindrical momenta become Cartesian.

    An entry is a column of the output: ``(i, "")`` is column i of the input, ``(k, "px")`` a
    component of momentum k.
    """

    momenta: list[Momentum]
    entries: list[tuple[int, str]]

    @classmethod
    def of(cls, found: Iterable[Momentum], names: Sequence[str], n_columns: int) -> Self:
        """Return the layout for momenta in columns of given names, or in `n_columns` columns without names."""
        momenta = [m for m in found if not m.cartesian and m.x is not None]
        made: dict[int, list[tuple[int, str]]] = {}
        for k, m in enumerate(momenta):
            if m.z is None:
                made[m.y] = [(k, "px"), (k, "py")]
            else:
                made |= {i: [] for i in m.columns}
                made[min(m.columns)] = [(k, "px"), (k, "py"), (k, "pz")]
        layout = cls(momenta, [e for i in range(n_columns) for e in made.get(i, [(i, "")])])
        counts = Counter(layout.names(names) if names else [])
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise ValueError(
                f"X already has {repeated} beside the columns that they would be made from: drop "
                "one of the two representations."
            )
        return layout

    @classmethod
    def rebuilt(cls, momenta: Iterable[Iterable[Any]], entries: Iterable[tuple[int, str]]) -> Self:
        """Return the layout made of the plain tuples that stored models hold."""
        return cls([Momentum(*values) for values in momenta], list(entries))

    def names(self, names_in: Any) -> Names:
        """Return the names of the output columns."""
        names = []
        for i, part in self.entries:
            if part:
                momentum = self.momenta[i]
                names.append(respelled(names_in[momentum.y], momentum.name, part))
            else:
                names.append(names_in[i])
        return np.asarray(names, dtype=object)

    def label(self, made: Any, table: pd.DataFrame | None, names: Names) -> Any:
        """Set the column names of a converted table; without momenta it keeps the names of the input."""
        if table is not None:
            made.columns = pd.Index(names) if self.momenta else table.columns
        return made

    def components(self, values: Array, formula: Any) -> dict[tuple[int, str], Array]:
        """Return the components that a formula of (pt, eta, phi) gives."""
        made: dict[tuple[int, str], Array] = {}
        for k, m in enumerate(self.momenta):
            xyz = formula(values[:, m.x], m.along(values), m.azimuth(values))
            made |= {(k, part): p for part, p in zip(("px", "py", "pz"), xyz, strict=True)}
        return made

    def convert(self, values: NDArray[Any], formula: Any) -> dict[tuple[int, str], NDArray[Any]]:
        """Return the components of a table, refusing impossible momenta."""
        with np.errstate(over="ignore"):
            made = self.components(values, formula)
        for k, momentum in enumerate(self.momenta):
            pt, eta = values[:, momentum.x], momentum.along(values)
            bad = np.flatnonzero((pt < 0) | np.isinf(made[k, "pz"]))
            if len(bad):
                raise ValueError(
                    f"{momentum.name!r} has transverse momentum {pt[bad[0]]} and pseudorapidity "
                    f"{eta[bad[0]]} in row {bad[0]}, and {len(bad)} rows are like it. {REMEDY}"
                )
        return made

    def forward(
        self, table: pd.DataFrame | None, values: NDArray[Any], formula: Any, missing: float | None
    ) -> Any:
        """Return the output columns, NaN filled unless `missing` is None; an array if `table` is None."""
        made = self.convert(values, formula)
        if table is None:
            out = np.column_stack([made[e] if e[1] else values[:, e[0]] for e in self.entries])
            return out if missing is None else np.where(np.isnan(out), out.dtype.type(missing), out)
        columns = [
            pd.Series(made[e], table.index) if e[1] else table.iloc[:, e[0]] for e in self.entries
        ]
        if missing is not None:
            columns = [
                c.fillna(missing) if c.hasnans and pd.api.types.is_numeric_dtype(c.dtype) else c
                for c in columns
            ]
        return pd.DataFrame(dict(enumerate(columns)), index=table.index)

    def backward(self, table: pd.DataFrame | None, values: NDArray[Any], formula: Any) -> Any:
        """Return the input columns, from the output columns and a formula of (px, py, pz)."""
        position = {entry: i for i, entry in enumerate(self.entries)}
        made: dict[int, NDArray[Any]] = {}
        for k, m in enumerate(self.momenta):
            px, py = values[:, position[k, "px"]], values[:, position[k, "py"]]
            pz = np.zeros_like(px) if m.z is None else values[:, position[k, "pz"]]
            pt, eta, made[m.y] = formula(px, py, pz)
            if m.x is not None and m.z is not None:
                made |= {m.x: pt, m.z: eta}
        unchanged = {i: position[i, ""] for i, part in self.entries if not part}
        if table is None:
            order = range(len(made) + len(unchanged))
            return np.column_stack(
                [made[i] if i in made else values[:, unchanged[i]] for i in order]
            )
        columns = {i: pd.Series(part, table.index) for i, part in made.items()}
        columns |= {i: table.iloc[:, at] for i, at in unchanged.items()}
        return pd.DataFrame({i: columns[i] for i in sorted(columns)}, index=table.index)
