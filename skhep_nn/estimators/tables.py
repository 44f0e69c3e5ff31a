"""Estimators of tables: rows of numbers and categories."""

from __future__ import annotations

from abc import ABC
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.validation import validate_data

from skhep_nn.estimators.base import BaseNetworkEstimator
from skhep_nn.inputs.tables import TableReader, as_table
from skhep_nn.kinematics.momentum_finder import MomentumFinder
from skhep_nn.training.job import Target

__all__ = ["TableEstimator"]


class TableEstimator(BaseNetworkEstimator, ABC):
    """Estimator whose inputs are tables, which a `TableReader` reads."""

    _called: ClassVar[str] = "events"
    _categorical: list[int]

    @property
    def _reader(self) -> TableReader:
        """Reader of tables that have the columns seen in `fit`."""
        return TableReader(
            type(self).__name__,
            self.n_features_in_,
            getattr(self, "feature_names_in_", None),
            getattr(self, "_categorical", ()),
            getattr(self, "categories_", {}),
        )

    def _encode_X(self, X: Any, *, reset: bool) -> NDArray[np.float32]:
        table = as_table(X, type(self).__name__)
        # Sets or compares the number and names of columns, also of data frames that pandas does not make.
        validate_data(self, X, reset=reset, skip_check_array=True)
        if not reset:
            read = self._reader.read(table)
            augmenter = getattr(self, "augmenter_", None)
            if self.tta and isinstance(augmenter, MomentumFinder):
                augmenter.check(read)
            return read
        self._categorical = self._reader.positions(
            self.categorical_features, "categorical_features"
        )
        reader = self._reader.learn(table)
        if self._categorical:
            self.categories_ = dict(reader.categories)
        encoded = reader.read(table)
        reader.warn_of_scales(table, encoded)
        return encoded

    def _augmentation_frame(self, X: Any, encoded: NDArray[np.float32]) -> Any:
        del X
        names = getattr(self, "feature_names_in_", None)
        return encoded if names is None else pd.DataFrame(encoded, columns=names)

    def _strata(self, X: NDArray[np.float32], target: Target) -> NDArray[Any] | None:
        if self.stratify_by is None:
            return target.strata
        column = self._reader.position(self.stratify_by, "stratify_by")
        _, groups = np.unique(X[:, column], return_inverse=True)
        refined: NDArray[Any] = groups
        if target.strata is not None:
            refined = groups + (groups.max() + 1) * target.strata
        return refined
