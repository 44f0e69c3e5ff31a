"""Base of transformers that find momenta: warnings of columns left over, checks of values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from skhep_nn.kinematics.given_momenta import describe, given_momenta
from skhep_nn.kinematics.momenta import Momentum, MomentumColumns, check_complete, find_momenta
from skhep_nn.kinematics.momentum_checks import check_values, find_scaled_azimuths, name_scaling
from skhep_nn.kinematics.momentum_names import find_directions

__all__ = ["MomentumFinder"]


class MomentumFinder:
    """Mixin of transformers of events, whose momenta are named by `objects` or found by the names of columns."""

    columns: Sequence[str] | None
    objects: Mapping[str, Any] | None
    objects_: dict[str, dict[str, str | int]]
    # Models stored before these attributes existed do not have them.
    _columns: MomentumColumns = MomentumColumns()
    _moduli: Sequence[int] = ()

    def _find(self, names: list[str], n_columns: int, *, complete: bool = True) -> list[Momentum]:
        """Find all momenta and set the attributes that describe them.

        If `complete` is true, an incomplete momentum is an error.
        """
        given = given_momenta(self.objects, names, n_columns)
        momenta = find_momenta(names, given)
        if complete:
            check_complete(names, momenta)
        self._columns = MomentumColumns.of(momenta)
        self._moduli = [m.x for m in momenta if not m.cartesian and m.x is not None]
        self.objects_ = describe(momenta, names)
        return momenta

    def _problems(self, names: list[str], values: NDArray[Any]) -> list[str]:
        """Return what looks wrong in the columns and values seen in `fit`, as texts of warnings."""
        problems = [self._left_message(names), self._scaled_message(names, values)]
        return [text for text in problems if text]

    def _left_message(self, names: list[str]) -> str:
        """Return a warning if no momenta were found, or columns that look like parts of momenta are left over."""
        changed = self._changed()
        left = [names[i] for i in self._left_over(names)]
        say = (
            f"Columns {left} look like directions or components of momenta: say what belongs together by objects=, "
            "for example objects={'jet': {'pt': 'a', 'eta': 'b', 'phi': 'c'}}, or drop these columns"
        )
        if not changed:
            hint = "" if names else " X came without column names: give them as columns=[...]."
            more = f" {say}." if left else ""
            return (
                "found no momenta among the columns of X and changes nothing. It looks for names such as lep_pt, "
                f"lep_eta, lep_phi.{hint}{more}"
            )
        if not left:
            return ""
        return (
            f"changes the momenta of {changed} and leaves other columns as they are. {say}. Where they do not depend "
            "on the orientation of an event, as differences of angles, nothing needs to be done."
        )

    def _changed(self) -> list[str]:
        """Return the names of the momenta that `transform` changes."""
        return list(self.objects_)

    def _left_over(self, names: list[str]) -> list[int]:
        """Return columns that look like parts of momenta and belong to none that was found."""
        return find_directions(names, {*self._columns.indices().tolist(), *self._moduli})

    def _scaled_message(self, names: list[str], values: NDArray[Any]) -> str:
        """Return a warning if momenta went through a scaler, else an empty text."""
        scaling = name_scaling([*self._columns.indices().tolist(), *self._moduli], values)
        what = f"all columns of momenta have {scaling}"
        if scaling is None:
            azimuths = find_scaled_azimuths(self._columns.phi, values)
            if not azimuths:
                return ""
            labels = [names[i] if names else i for i in azimuths]
            what = f"azimuths in the columns {labels} do not fill a full turn of 2 pi"
        return (
            f"got momenta that look scaled: {what}. Give momenta in their units and angles in radians. Take the "
            "scaler out, or put it behind this step: networks of this package standardise their inputs themselves, "
            "after the augmentation, and for other estimators the scaler belongs into the estimator that is wrapped."
        )

    def check(self, values: NDArray[Any]) -> None:
        """Raise ValueError if events hold values that no component of a momentum has.

        Parameters
        ----------
        values : ndarray of shape (n_samples, n_features)
            Events, with the columns seen in `fit`.
        """
        names = getattr(self, "feature_names_in_", None) if self.columns is None else self.columns
        check_values(
            self._columns,
            self._moduli,
            values,
            lambda i: str(i) if names is None else repr(str(names[i])),
        )
