"""Transformers of events: momenta to Cartesian components, events rotated to a common orientation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any, ClassVar, NamedTuple

from skhep_nn.inputs.events import EventTransformer
from skhep_nn.inputs.transformers import Names
from skhep_nn.kinematics.formulas import cartesian_from_cylindrical, cylindrical_from_cartesian
from skhep_nn.kinematics.momenta import (
    CartesianLayout,
    Momentum,
    MomentumColumns,
    Turn,
    columns_of,
    find_object,
)
from skhep_nn.kinematics.momentum_finder import MomentumFinder
from skhep_nn.kinematics.momentum_names import CARTESIAN, find_directions, only_reading
from skhep_nn.utils.public import public
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, each, one

__all__ = ["CartesianMomenta", "EventAligner"]


@public("skhep_nn")
class CartesianMomenta(MomentumFinder, PlainState, EventTransformer):
    """Convert momenta from (pt, eta, phi) to (px, py, pz), and fill missing values.

    Networks learn better from Cartesian components, since azimuth is cyclic (section 2 of
    arXiv:2002.01427). Momenta are found by name: ``<object>_pt``, ``_eta``, ``_phi`` are replaced by
    ``<object>_px``, ``_py``, ``_pz``. A transverse momentum (such as missing momentum), with
    modulus ``<object>`` or ``<object>_pt`` and ``<object>_phi`` but no ``_eta``, keeps the modulus
    and gets ``<object>_px``, ``_py`` in place of the azimuth. All other columns stay unchanged.
    Other common spellings are understood as in `EventAugmenter`, and kept: ``Jet_pt_0`` becomes ``Jet_px_0``.

    Parameters
    ----------
    missing : float or None, default=0.0
        Value that replaces NaN in every column. None keeps NaN.
    columns : sequence of str, default=None
        Names of the columns, if X is an array. A DataFrame already has names.
    objects : dict, default=None
        Momenta that names alone do not tell: for each object its columns by component, such as
        ``{"jet": {"pt": "a", "eta": "b", "phi": "c"}}`` or ``{"met": {"px": 3, "py": 4}}``, or a tuple of
        columns if their names tell the components. All other columns are searched as usual.

    Attributes
    ----------
    objects_ : dict
        For each object that was found or given, its columns by component.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of columns seen in `fit`, and their names if X had names.

    Examples
    --------
    >>> import pandas as pd
    >>> events = pd.DataFrame({"lep_pt": [50.0], "lep_eta": 0.0, "lep_phi": 0.0, "mass": None})
    >>> CartesianMomenta().fit_transform(events.astype(float))
       lep_px  lep_py  lep_pz  mass
    0    50.0     0.0     0.0   0.0
    """

    _rebuild: ClassVar[Rebuilds] = {
        "_layout": one(CartesianLayout.rebuilt),
        "_columns": one(MomentumColumns),
    }

    def __init__(
        self,
        *,
        missing: float | None = 0.0,
        columns: Sequence[str] | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        self.missing = missing
        self.columns = columns
        self.objects = objects

    def _prepare(self, names: list[str]) -> None:
        """Find the momenta and decide on the output columns."""
        missing: Any = self.missing
        if missing is not None and (not isinstance(missing, Real) or math.isinf(missing)):
            raise ValueError(f"missing must be a finite number or None, got {missing!r}.")
        momenta = self._find(names, self.n_features_in_, complete=False)
        self._layout = CartesianLayout.of(momenta, names, self.n_features_in_)

    def _changed(self) -> list[str]:
        return list(dict.fromkeys(momentum.name for momentum in self._layout.momenta))

    def _left_over(self, names: list[str]) -> list[int]:
        # Cartesian components stay as they are, and a pseudorapidity alone is as good an input as any: only
        # azimuths need to be converted, since they are cyclic.
        cartesian = [*self._columns.x, *self._columns.y, *self._columns.z]
        left = find_directions(names, {*columns_of(self._layout.momenta), *cartesian})
        components = {i: only_reading(names[i]) for i in left}
        if not {"phi", "azimuth"} & set(components.values()):
            return []
        return [i for i, component in components.items() if component not in CARTESIAN]

    @property
    def layout(self) -> CartesianLayout:
        """Columns that `transform` returns, for exports to other formats."""
        return self._layout

    def transform(self, X: Any) -> Any:
        """Convert the momenta to Cartesian components.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events. NaN marks a missing quantity.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features_out)
            Converted events, in the container of X; momenta keep their unit.

        Raises
        ------
        ValueError
            If a momentum is negative or infinite, as with -999 for "missing", or angles are in degrees.
        """
        table, values = self.read(X)
        made = self._layout.forward(table, values, cartesian_from_cylindrical, self.missing)
        self.check(values)
        return self._layout.label(made, table, self.get_feature_names_out())

    def inverse_transform(self, X: Any) -> Any:
        """Convert the momenta back to (pt, eta, phi).

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features_out)
            Output of `transform`.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features)
            The columns seen in `fit`; filled values stay filled.
        """
        table, values = self.read_output(X)
        made = self._layout.backward(table, values, cylindrical_from_cartesian)
        return self._layout.label(made, table, self._names_in())

    def _names_out(self, names_in: Names) -> Names:
        return self._layout.names(names_in)


class Alignment(NamedTuple):
    """Columns that `EventAligner` found in `fit`.

    Parameters
    ----------
    columns : MomentumColumns
        Columns that a turn changes.
    objects : list of Momentum
        The reference and the object that decides the reflection in y; empty without momenta.
    kept : list of int
        Positions of the columns that stay.
    """

    columns: MomentumColumns
    objects: list[Momentum]
    kept: list[int]


@public("skhep_nn")
class EventAligner(MomentumFinder, PlainState, EventTransformer):
    """Rotate and reflect all events to a common orientation.

    Rotates every event in azimuth and reflects it in z, so that the reference has phi = 0 and
    eta >= 0, then reflects it in y, so that a second object has positive phi (section 3.4.2 of
    arXiv:2002.01427). The column that becomes constant, ``<reference>_py`` or ``<reference>_phi``, is
    dropped. Momenta are found by name in either form, as in `EventAugmenter`, the alternative.

    Parameters
    ----------
    reference : str, default="PRI_lep"
        Object rotated to phi = 0. An event without this object (NaN) is not rotated.
    orient : str, default="PRI_tau"
        Object that decides the reflection in y, and in z if the reference has eta = 0.
    columns : sequence of str, default=None
        Names of the columns, if X is an array. A DataFrame already has names.
    objects : dict, default=None
        Momenta that names alone do not tell: for each object its columns by component, such as
        ``{"jet": {"pt": "a", "eta": "b", "phi": "c"}}`` or ``{"met": {"px": 3, "py": 4}}``, or a tuple of
        columns if their names tell the components. All other columns are searched as usual.

    Attributes
    ----------
    objects_ : dict
        For each object that was found or given, its columns by component.
    n_features_in_, feature_names_in_ : int, ndarray of str
        Number of columns seen in `fit`, and their names if X had names.

    Examples
    --------
    >>> import pandas as pd
    >>> events = pd.DataFrame({"e_px": [0.0], "e_py": 5.0, "e_pz": -1.0, "t_px": 2.0, "t_py": 1.0})
    >>> EventAligner(reference="e", orient="t").fit_transform(events).round(3)
       e_px  e_pz  t_px  t_py
    0   5.0   1.0   1.0   2.0
    """

    _rebuild: ClassVar[Rebuilds] = {
        "_columns": one(MomentumColumns),
        "_objects": each(Momentum),
    }

    def __init__(
        self,
        *,
        reference: str = "PRI_lep",
        orient: str = "PRI_tau",
        columns: Sequence[str] | None = None,
        objects: Mapping[str, Any] | None = None,
    ) -> None:
        self.reference = reference
        self.orient = orient
        self.columns = columns
        self.objects = objects

    def _prepare(self, names: list[str]) -> None:
        """Find the columns to turn, the two objects and the column to drop."""
        momenta = self._find(names, self.n_features_in_)
        roles = {"reference": self.reference, "orient": self.orient} if momenta else {}
        self._objects = [find_object(momenta, *role) for role in roles.items()]
        constant = [momentum.y for momentum in self._objects[:1]]
        self._kept = [i for i in range(self.n_features_in_) if i not in constant]

    @property
    def alignment(self) -> Alignment:
        """Columns found in `fit`, for exports to other formats."""
        return Alignment(self._columns, self._objects, self._kept)

    def transform(self, X: Any) -> Any:
        """Rotate and reflect every event to the common orientation.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events. NaN marks a missing object.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features - 1)
            Rotated events, in the container of X.
        """
        table, values = self.read(X)
        if not self._objects:
            return (values if table is None else table).copy()
        self.check(values)
        turned = self._columns.turn_table(table, values, Turn.aligning(values, *self._objects))
        return turned[:, self._kept] if table is None else turned.iloc[:, self._kept]

    def _names_out(self, names_in: Names) -> Names:
        return names_in[self._kept]
