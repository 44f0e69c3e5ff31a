"""scikit-learn's callbacks (``set_callbacks``), called after every epoch, and silent callbacks of skorch.

scikit-learn 1.9 marks its callback framework as experimental; only this module depends on it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sklearn.callback import CallbackSupportMixin, with_callbacks
from skorch.callbacks import Callback
from skorch.utils import noop

__all__ = ["CallbackSupportMixin", "SklearnCallbacks", "not_printing", "with_callbacks"]


class SklearnCallbacks(Callback):  # type: ignore[misc]
    """Calls scikit-learn's callbacks from skorch's: one task for each epoch.

    Parameters
    ----------
    estimator : estimator
        Estimator that is being fitted.
    fitted_attributes : callable
        Called with the net; returns the fitted attributes of the estimator after the current epoch.
    task : dict
        Arguments of every task: X, y and metadata.
    """

    def __init__(
        self,
        estimator: Any,
        fitted_attributes: Callable[[Any], dict[str, Any]],
        task: dict[str, Any],
    ) -> None:
        self.estimator = estimator
        self.fitted_attributes = fitted_attributes
        self.task = task

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Open the task of the whole fit."""
        self.context_ = self.estimator._init_callback_context(max_subtasks=net.max_epochs)
        self.context_.call_on_fit_task_begin(estimator=self.estimator, **self.task)

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Open the task of an epoch."""
        self.epoch_context_ = self.context_.subcontext(task_name="epoch")
        self.epoch_context_.call_on_fit_task_begin(estimator=self.estimator, **self.task)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the task of an epoch; stop training if a callback asks for it."""
        stop = self.epoch_context_.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.fitted_attributes(net),
            **self.task,
        )
        if stop:
            net.best_.stopped[:] = True

    def on_train_end(self, net: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Close the task of the whole fit."""
        self.context_.call_on_fit_task_end(
            estimator=self.estimator,
            reconstruction_attributes=lambda: self.fitted_attributes(net),
            **self.task,
        )
        self.task = {}  # the net is kept after the fit, the data should not be


@contextmanager
def not_printing(callbacks: Iterable[Callback]) -> Iterator[None]:
    """Silence callbacks that would print by default.

    skorch recognises them by the builtin `print`, and would let them print if a program has replaced that.
    """
    defaults = {
        cb: inspect.signature(type(cb)).parameters["sink"].default
        for cb in callbacks
        if "sink" in inspect.signature(type(cb)).parameters
    }
    silenced = {cb: sink for cb, sink in defaults.items() if cb.sink is sink}
    try:
        for cb in silenced:
            cb.sink = noop
        yield
    finally:
        for cb, sink in silenced.items():
            cb.sink = sink
