"""Which checkpoints are used for prediction: objects for ``averaging=`` of the estimators.

Small parameter objects, as schedules are: they select the checkpoints and set their weights.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator

from skhep_nn.utils.checks import is_count, is_flag
from skhep_nn.utils.public import public

__all__ = [
    "FastGeometricEnsemble",
    "SnapshotEnsemble",
    "StochasticWeightAveraging",
    "check_averaging",
]


@public("skhep_nn")
class StochasticWeightAveraging(BaseEstimator):  # type: ignore[misc]
    """Average the weights of every member over the epochs: one network, no slower at prediction.

    After every epoch, or at the end of every cycle if the schedule has cycles, the weights are added to a
    running average. An average that starts too early contains bad weights; one that starts too late
    contains too few. With `renewal_period`, training finds the start itself (section 3.7.1 of
    arXiv:2002.01427): a second average starts later, and when it contains `renewal_period` states, both
    averages are compared on the member's validation rows. If the older one is better, the younger one
    starts again and the time to the next comparison doubles. If the younger one is better, it replaces
    the older one, a new younger one starts, and the time to the comparison is `renewal_period` again.

    Parameters
    ----------
    start : int or float, default=1
        Number of epochs (or cycles) to skip before averaging starts; a float is a fraction of them.
    renewal_period : int or None, default=2
        Number of states between the starts of the first and the second average, and number of states in
        the second one at the first comparison. None: only one average, for which a `start` of 0.75 is
        usual. A number needs a validation loss: more than one member, or early stopping.

    See Also
    --------
    SnapshotEnsemble, FastGeometricEnsemble : Average predictions instead of weights.

    Notes
    -----
    Once averaging has started, best epoch and early stopping follow the validation loss of the average,
    ``averaged_valid_loss`` of the history, and the average at the best epoch is kept. With batch
    normalisation, the batch-norm statistics of each average are computed by an epoch over the training
    rows without optimizer steps.

    References
    ----------
    arXiv:1803.05407; section 3.7 of arXiv:2002.01427.

    Examples
    --------
    >>> from skhep_nn import Constant, DenseNetClassifier, make_higgs_events
    >>> from skhep_nn import StochasticWeightAveraging
    >>> events = make_higgs_events(1000, random_state=0)
    >>> model = DenseNetClassifier(
    ...     n_members=2,
    ...     schedule=Constant(2e-3),
    ...     averaging=StochasticWeightAveraging(),
    ...     max_epochs=4,
    ...     random_state=0,
    ... )
    >>> X = events.data.filter(like="PRI_").fillna(0)
    >>> model.fit(X, events.target).history_["averaged_valid_loss"].notna().sum()
    np.int64(6)
    """

    def __init__(self, start: float = 1, *, renewal_period: int | None = 2) -> None:
        self.start = start
        self.renewal_period = renewal_period

    def n_skipped(self, n_states: int) -> int:
        """Return the number of states that are not averaged.

        Parameters
        ----------
        n_states : int
            Number of epochs or cycles of the fit.

        Returns
        -------
        int

        Raises
        ------
        ValueError
            If a parameter is invalid, or no state would be left to average.
        """
        self._check()
        is_count = isinstance(self.start, Integral)
        skipped = int(self.start) if is_count else int(np.ceil(self.start * n_states))
        if skipped >= n_states:
            msg = (
                f"start={self.start!r} leaves nothing to average: the fit has {n_states} epochs (or "
                "cycles, if the schedule has cycles). Start earlier or raise max_epochs."
            )
            raise ValueError(msg)
        return skipped

    def _check(self) -> None:
        start: Any = self.start
        if isinstance(start, Integral):
            in_order = not is_flag(start) and int(start) >= 0
        else:
            in_order = isinstance(start, Real) and 0 <= float(start) < 1
        if not in_order:
            msg = f"start={start!r} must be an integer of at least 0 or a share below 1."
            raise ValueError(msg)
        if self.renewal_period is not None and not is_count(self.renewal_period):
            msg = (
                f"renewal_period={self.renewal_period!r} must be an integer of at least 1 or None."
            )
            raise ValueError(msg)


class _Snapshots(BaseEstimator, ABC):  # type: ignore[misc]
    """Base class of ensembles of snapshots."""

    n_snapshots: int
    weight_by_loss: bool

    def shares(self, n: int) -> NDArray[np.float64]:
        """Return the shares of the checkpoints of one member.

        Parameters
        ----------
        n : int
            Number of checkpoints, at most `n_snapshots`.

        Returns
        -------
        ndarray of shape (n,)
            From the best epoch back to the earliest snapshot; they sum to one.

        Raises
        ------
        ValueError
            If a parameter is invalid.
        """
        if not is_count(self.n_snapshots):
            msg = f"n_snapshots={self.n_snapshots!r} must be an integer of at least 1."
            raise ValueError(msg)
        if self.weight_by_loss not in (True, False):
            raise ValueError(f"weight_by_loss={self.weight_by_loss!r} must be True or False.")
        counts = self._counts(np.arange(1, n + 1))
        shares: NDArray[np.float64] = counts / counts.sum()
        return shares

    @abstractmethod
    def _counts(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return relative weights of checkpoints by their place, which starts at 1."""


@public("skhep_nn")
class SnapshotEnsemble(_Snapshots):
    """Average the predictions of snapshots that each member takes at the ends of cosine cycles.

    The checkpoints of every member are its best epoch, and the ends of the last `n_snapshots` - 1 cycles
    before it, where the learning rate was lowest. Without a validation loss, they are the ends of the last
    `n_snapshots` cycles. The n-th checkpoint, counted from the latest, has the weight 1 / n.

    Parameters
    ----------
    n_snapshots : int, default=5
        Largest number of checkpoints of one member; there are fewer if there are fewer cycles.
    weight_by_loss : bool, default=True
        Whether members are weighted by 1 / their validation loss, as without averaging. In the study all
        members have the same weight.

    See Also
    --------
    FastGeometricEnsemble : Checkpoints at the ends of short linear cycles.
    StochasticWeightAveraging : Averages weights, which predicts faster.

    Notes
    -----
    Needs a schedule with cycles: ``CosineRestarts(cycle=5, growth=1)``, for example (the study's cycles
    are 5.6 epochs), or `CyclicLR`. Choose `max_epochs` as a number of whole cycles.

    References
    ----------
    arXiv:1704.00109; section 3.7 of arXiv:2002.01427, whose settings are the defaults.

    Examples
    --------
    >>> from skhep_nn import CosineRestarts, DenseNetClassifier, make_higgs_events
    >>> from skhep_nn import SnapshotEnsemble
    >>> events = make_higgs_events(1000, random_state=0)
    >>> model = DenseNetClassifier(
    ...     schedule=CosineRestarts(cycle=2, growth=1),
    ...     averaging=SnapshotEnsemble(n_snapshots=3),
    ...     max_epochs=8,
    ...     random_state=0,
    ... )
    >>> X = events.data.filter(like="PRI_").fillna(0)
    >>> model.fit(X, events.target).ensemble_.weights.round(2)
    array([0.55, 0.27, 0.18])
    """

    def __init__(self, n_snapshots: int = 5, *, weight_by_loss: bool = True) -> None:
        self.n_snapshots = n_snapshots
        self.weight_by_loss = weight_by_loss

    def _counts(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        return 1 / place


@public("skhep_nn")
class FastGeometricEnsemble(_Snapshots):
    """Average the predictions of snapshots that each member takes at the ends of short linear cycles.

    As `SnapshotEnsemble`, but with more snapshots, from shorter cycles that lead along valleys of the loss,
    and all snapshots have the same weight.

    Parameters
    ----------
    n_snapshots : int, default=9
        Largest number of checkpoints of one member; there are fewer if there are fewer cycles.
    weight_by_loss : bool, default=True
        Whether members are weighted by 1 / their validation loss, as without averaging. In the study all
        members have the same weight.

    See Also
    --------
    SnapshotEnsemble : Checkpoints at the ends of cosine cycles.
    StochasticWeightAveraging : Averages weights, which predicts faster.

    Notes
    -----
    Needs a schedule with cycles: `CyclicLR`.

    References
    ----------
    arXiv:1802.10026; section 3.7 of arXiv:2002.01427, whose settings are the defaults.

    Examples
    --------
    >>> from skhep_nn import DenseNetClassifier, make_higgs_events
    >>> from skhep_nn import FastGeometricEnsemble
    >>> from skhep_nn import CyclicLR
    >>> events = make_higgs_events(1000, random_state=0)
    >>> model = DenseNetClassifier(
    ...     schedule=CyclicLR(), averaging=FastGeometricEnsemble(4), max_epochs=8, random_state=0
    ... )
    >>> X = events.data.filter(like="PRI_").fillna(0)
    >>> model.fit(X, events.target).ensemble_.weights
    array([0.25, 0.25, 0.25, 0.25])
    """

    def __init__(self, n_snapshots: int = 9, *, weight_by_loss: bool = True) -> None:
        self.n_snapshots = n_snapshots
        self.weight_by_loss = weight_by_loss

    def _counts(self, place: NDArray[np.int64]) -> NDArray[np.float64]:
        return np.ones(len(place))


def check_averaging(averaging: Any) -> None:
    """Raise TypeError if `averaging` is not an object of this module."""
    known = (StochasticWeightAveraging, SnapshotEnsemble, FastGeometricEnsemble)
    if averaging is not None and not isinstance(averaging, known):
        names = ", ".join(kind.__name__ for kind in known)
        raise TypeError(f"averaging={averaging!r} must be one of {names}, or None.")
