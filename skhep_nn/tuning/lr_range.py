"""The learning-rate range test."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from sklearn.base import BaseEstimator, clone
from sklearn.pipeline import Pipeline
from skorch.callbacks import Callback

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.training.schedules import Rates
from skhep_nn.utils.checks import is_count, is_number
from skhep_nn.utils.sklearn_private import num_samples

__all__ = ["LRRange", "lr_range_test"]

FloatArray = NDArray[np.float64]

# Limits of the default number of steps: enough to average over, and no more than the curve needs.
_FEWEST_STEPS, _MOST_STEPS = 200, 1000
# Largest width of the smoothing, as a fraction of the steps, and smallest number of steps over which the loss
# is averaged to detect divergence.
_WIDEST, _FEWEST_RECENT = 0.1, 5
# Ratio of the learning rate of the lowest loss to the suggested rate.
_BELOW_LOWEST = 10.0


class LRRange(NamedTuple):
    """Result of a learning-rate range test.

    Parameters
    ----------
    suggested : float
        A tenth of `lowest`.
    lowest : float
        Learning rate at which the smoothed loss, averaged over members, was lowest.
    steepest : float
        Learning rate below `lowest` at which it fell fastest with the logarithm of the rate.
    diverged : float
        Learning rate at which the loss diverged and the test ended; NaN if it did not diverge.
    table : DataFrame
        A row for every member and step, with the columns `member`, `step`, `lr`, `loss` (of the batch,
        before the step was taken) and `smoothed_loss`.
    """

    suggested: float
    lowest: float
    steepest: float
    diverged: float
    table: pd.DataFrame

    @property
    def mean(self) -> pd.Series[float]:
        """Smoothed loss, averaged over members, by learning rate."""
        mean: pd.Series[float] = self.table.groupby("lr")["smoothed_loss"].mean()
        return mean


def lr_range_test(
    estimator: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    *,
    min_lr: float = 1e-5,
    max_lr: float = 10.0,
    n_steps: int | None = None,
    n_members: int = 5,
    smoothing: float = 0.1,
    divergence: float = 1.0,
    params: Mapping[str, Any] | None = None,
) -> LRRange:
    """Train for some steps with a growing learning rate, to find the rates at which the loss falls.

    The rate grows by the same factor in every step. At low rates the loss hardly changes, then it falls,
    and at high rates it rises again. Several members are trained at once, with different initial
    parameters and rows, as a single loss curve is noisy.

    Parameters
    ----------
    estimator : network estimator, or Pipeline that ends in one
        For example `DenseNetClassifier`. It is cloned, not changed.
    X : array-like or DataFrame of shape (n_samples, ...)
        Inputs.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Targets.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights, for the network.
    min_lr, max_lr : float, default=1e-5 and 10
        First and last learning rate.
    n_steps : int, default=None
        Number of optimizer steps. None is one epoch, but at least 200 and at most 1000 steps.
    n_members : int, default=5
        Number of members, replaces the parameter of the estimator. If it is two or more, each member
        leaves out one fold, as in a fit.
    smoothing : float, default=0.1
        Standard deviation of the Gaussian weights by which the losses are smoothed, in powers of ten of
        the learning rate (at most a tenth of the range); 0 does not smooth.
    divergence : float, default=1
        The test ends when the loss is not finite, or exceeds the lowest loss by this factor times the
        loss of the first steps.
    params : mapping, default=None
        Further arguments of the network's `fit`, such as ``{"aux_target": ...}``.

    Returns
    -------
    LRRange
        Named tuple of the rates `suggested`, `lowest`, `steepest` and `diverged`, and the `table` of
        losses.

    Raises
    ------
    TypeError
        If `estimator` is no network estimator.
    ValueError
        If rates are not positive and increasing, another parameter is invalid, or the loss is not finite
        from the first steps on.

    Warns
    -----
    UserWarning
        If the lowest loss is so near an end of the range that the suggestion depends on that end.

    See Also
    --------
    skhep_nn.plotting.LRRangeDisplay : Plot of the loss against the learning rate.

    Notes
    -----
    The suggestion is a rule of thumb, a tenth of the rate of the lowest loss, as steps at that rate itself
    are already too large. Look at the plot.

    Everything except the learning rate is as in a fit: batch size, augmentation, optimizer,
    `class_weight`, `random_state`. The momentum is the default of the optimizer. Only `callbacks` that act
    on gradients are used, such as gradient clipping. There is no validation, averaging or early stopping.
    Before smoothing, the losses of the last steps are clipped at the loss that counts as divergence.

    References
    ----------
    .. [1] L. N. Smith, section 3.3 of arXiv:1506.01186, where the rate grows linearly.
    .. [2] Section 3.2.1 of arXiv:2002.01427, whose rates were found with this test.

    Examples
    --------
    >>> from skhep_nn import CartesianMomenta, DenseNetClassifier, lr_range_test, make_higgs_events
    >>> from sklearn.pipeline import make_pipeline
    >>> events = make_higgs_events(2000, random_state=0)
    >>> model = make_pipeline(
    ...     CartesianMomenta(), DenseNetClassifier(class_weight="balanced", random_state=0)
    ... )
    >>> found = lr_range_test(model, events.data, events.target, events.sample_weight)
    >>> list(found.table.columns)
    ['member', 'step', 'lr', 'loss', 'smoothed_loss']
    >>> 1e-4 < found.suggested < found.lowest < 1
    True
    """
    _check(min_lr, max_lr, n_steps, smoothing, divergence)
    network, X = _network_and_input(estimator, X, y)
    if n_steps is None:
        n_rows = num_samples(X) * (1 - 1 / n_members if n_members > 1 else 1)
        n_steps = int(np.clip(np.ceil(n_rows / network.batch_size), _FEWEST_STEPS, _MOST_STEPS))
    lr = np.geomspace(min_lr, max_lr, n_steps)
    width = n_steps * min(smoothing / np.log10(max_lr / min_lr), _WIDEST)  # in steps
    recorder = _Recorder(n_steps, round(width), divergence)
    network.set_callbacks()
    network.set_params(
        n_members=n_members,
        schedule=_GivenRates(lr),
        max_epochs=n_steps,  # the recorder ends the fit
        early_stopping=False,
        callbacks=[cb for cb in network.callbacks or [] if _acts_on_gradients(cb)] + [recorder],
        verbose=0,
        **({"averaging": None} if "averaging" in network.get_params(deep=False) else {}),
    )
    with suppress(_Covered):
        network.fit(X, y, sample_weight=sample_weight, **(params or {}))
    losses = np.array(recorder.losses_)
    if not np.isfinite(losses[: recorder.window]).all():
        raise ValueError(
            f"the loss is not finite from the first steps on: lower min_lr={min_lr:g}, or look for "
            "outliers among the inputs and targets."
        )
    smoothed = _smoothed(losses, width, recorder.window, recorder.ceiling_)
    has_diverged = recorder.ceiling_ < np.inf
    found = _result(lr[: len(losses)], losses, smoothed, has_diverged=has_diverged)
    if found.suggested < min_lr:
        _warn(
            f"lowest at a rate of {found.lowest:.2g}, near the lower end: lower min_lr={min_lr:g}"
        )
    elif not has_diverged and found.lowest > max_lr / 2:
        _warn(f"still falling at the end of the range: raise max_lr={max_lr:g}")
    return found


class _Covered(Exception):  # noqa: N818 - no error
    """Raised to end the fit when all rates have been tried, or the loss has diverged."""


class _GivenRates(BaseEstimator):  # type: ignore[misc]
    """Schedule of given learning rates; the last one is used for all later steps."""

    def __init__(self, lr: FloatArray) -> None:
        self.lr = lr

    def rates(
        self,
        epoch: int,
        *,
        n_epochs: int,  # noqa: ARG002
        n_steps: int,
        valid_losses: Sequence[float] = (),  # noqa: ARG002
    ) -> Rates:
        """Return the learning rate of every step of an epoch."""
        at = np.arange(epoch * n_steps, (epoch + 1) * n_steps)
        return Rates(np.take(self.lr, at, mode="clip"), None)


class _Recorder(Callback):  # type: ignore[misc]
    """Records the loss of every member in every step; ends the fit after the last rate, or at divergence."""

    def __init__(self, n_steps: int, width: int, divergence: float) -> None:
        self.n_steps = n_steps
        self.window = max(_FEWEST_RECENT, 2 * width)
        self.divergence = divergence

    def __deepcopy__(self, memo: dict[int, Any]) -> _Recorder:
        # A fit copies its callbacks, but the losses recorded by this one are read afterwards.
        return self

    def initialize(self) -> _Recorder:
        """Reset the records."""
        self.losses_: list[FloatArray] = []
        self.ceiling_ = np.inf
        self._lowest = np.inf
        self._scale = np.nan
        return self

    def on_batch_end(
        self, net: Any, batch: Any = None, training: bool = False, **kwargs: Any
    ) -> None:
        """Record a step."""
        del net, batch
        if not training:
            return
        self.losses_.append(kwargs["member_losses"].double().cpu().numpy())
        # Mean of several steps, as a single batch with large weights is no divergence.
        recent = float(np.mean(self.losses_[-self.window :]))
        if len(self.losses_) == self.window:
            self._scale = abs(recent)
        if len(self.losses_) >= self.window:
            self._lowest = min(self._lowest, recent)
        ceiling = self._lowest + self.divergence * self._scale
        if recent > ceiling or not np.isfinite(recent):
            self.ceiling_ = ceiling
            raise _Covered
        if len(self.losses_) == self.n_steps:
            raise _Covered


def _check(
    min_lr: float, max_lr: float, n_steps: int | None, smoothing: float, divergence: float
) -> None:
    """Check the parameters of the test."""
    if not (is_number(min_lr) and is_number(max_lr) and 0 < min_lr < max_lr):
        raise ValueError(
            f"min_lr={min_lr!r} and max_lr={max_lr!r} must be positive numbers, the first below the "
            "second."
        )
    steps: Any = n_steps
    if steps is not None and not (is_count(steps, 10)):
        raise ValueError(f"n_steps={n_steps!r} must be an integer of at least 10 or None.")
    if not (is_number(smoothing) and smoothing >= 0):
        raise ValueError(f"smoothing={smoothing!r} must be a number of at least 0.")
    if not (is_number(divergence) and divergence > 0):
        raise ValueError(f"divergence={divergence!r} must be a positive number.")


def _network_and_input(estimator: Any, X: Any, y: Any) -> tuple[Any, Any]:
    """Return a clone of the network, and the inputs transformed by the earlier steps of a pipeline."""
    network = estimator
    if isinstance(estimator, Pipeline):
        network = estimator.steps[-1][1]
    if not isinstance(network, BaseNetworkEstimator):
        raise TypeError(
            "lr_range_test needs a network estimator, such as DenseNetClassifier(), or a Pipeline that "
            f"ends in one; got {type(network).__name__}."
        )
    if network is not estimator and len(estimator) > 1:
        X = clone(estimator[:-1]).fit_transform(X, y)
    return clone(network), X


def _acts_on_gradients(callback: Any) -> bool:
    """Whether a callback of skorch (object, class or named tuple of either) acts on gradients."""
    callback = callback[1] if isinstance(callback, tuple) else callback
    kind = callback if isinstance(callback, type) else type(callback)
    return getattr(kind, "on_grad_computed", None) is not Callback.on_grad_computed


def _smoothed(losses: FloatArray, width: float, window: int, ceiling: float) -> FloatArray:
    """Smooth losses of shape (n_steps, n_members), with the last ones clipped at a ceiling."""
    bounded = losses.copy()
    # Diverging losses would dominate the smoothed losses around them.
    bounded[-window:] = np.fmin(losses[-window:], ceiling)
    if width == 0:
        return bounded
    smoothed: FloatArray = gaussian_filter1d(bounded, width, axis=0)
    return smoothed


def _warn(text: str) -> None:
    """Emit a warning at the line that calls the test."""
    warnings.warn(f"the loss was {text}.", stacklevel=3)


def _result(
    lr: FloatArray, losses: FloatArray, smoothed: FloatArray, *, has_diverged: bool
) -> LRRange:
    """Return the result for losses of shape (n_steps, n_members)."""
    n_steps, n_members = losses.shape
    mean = smoothed.mean(axis=1)
    at_lowest = int(mean.argmin())
    gradient = np.gradient(mean, np.log10(lr))[: at_lowest + 1]
    table = pd.DataFrame(
        {
            "member": np.tile(np.arange(n_members), n_steps),
            "step": np.repeat(np.arange(n_steps), n_members),
            "lr": np.repeat(lr, n_members),
            "loss": losses.ravel(),
            "smoothed_loss": smoothed.ravel(),
        }
    )
    return LRRange(
        suggested=float(lr[at_lowest] / _BELOW_LOWEST),
        lowest=float(lr[at_lowest]),
        steepest=float(lr[gradient.argmin()]),
        diverged=float(lr[-1]) if has_diverged else float("nan"),
        table=table,
    )
