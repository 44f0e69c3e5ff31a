"""Gaussian process fitted to the scores of a search: which parameters matter, where to search next."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.utils import check_random_state

from skhep_nn.tuning.axes import FEWEST_CANDIDATES, Scale, SearchAxis, as_table, read_results

__all__ = ["Optimum", "SearchModel", "fit_search_model", "with_expected_scores"]

Array = NDArray[np.float64]

# Largest number of candidates in the average of a partial dependence; random combinations for an optimum.
_N_BACKGROUND = 100
_N_COMBINATIONS = 5000


class Optimum(NamedTuple):
    """Parameters with the best score that a search model expects.

    Attributes
    ----------
    params : dict
        Value of each parameter.
    mean, std : float
        Expected score at these parameters and its standard deviation.
    """

    params: dict[str, Any]
    mean: float
    std: float


class SearchModel:
    """Gaussian process of the score of a search as a function of the parameters.

    Returned by :func:`fit_search_model`. It is fitted to noisy scores and predicts expected scores with their
    uncertainty. The score of a single fit scatters about the expected score by `noise_std`.

    Attributes
    ----------
    parameters : list of str
        Names of the parameters.
    table : DataFrame
        Candidates that the model was fitted to: a column for each parameter, and `score`.
    noise_std : float
        Standard deviation of the score of a candidate about its expected score.
    axes : list of SearchAxis
        Parameters with their scales.

    See Also
    --------
    skhep_nn.plotting.SearchDependenceDisplay : Draws the partial dependence.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.tuning import fit_search_model
    >>> rng = np.random.default_rng(0)
    >>> depth, dropout = rng.integers(2, 9, 40), rng.uniform(0, 0.5, 40)
    >>> score = -((depth - 5) ** 2) / 10 - dropout + rng.normal(scale=0.01, size=40)
    >>> results = {"param_depth": depth, "param_dropout": dropout, "mean_test_score": score}
    >>> model = fit_search_model(results, random_state=0)
    >>> model.optimum().params["depth"]
    5
    >>> model.partial_dependence("depth").columns.tolist()
    ['depth', 'mean', 'std']
    """

    def __init__(
        self,
        axes: list[SearchAxis],
        table: pd.DataFrame,
        process: GaussianProcessRegressor,
        unit: tuple[float, float],
        seed: int,
    ) -> None:
        self.axes = axes
        self.table = table
        self._process = process
        self._mean, self._scale = unit
        self._seed = seed

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters."""
        return [axis.name for axis in self.axes]

    @property
    def noise_std(self) -> float:
        """Standard deviation of scores about the expected score."""
        return float(self._scale * np.sqrt(self._process.kernel_.k2.noise_level))

    def predict(self, candidates: Any) -> pd.DataFrame:
        """Return the expected score of candidates.

        Parameters
        ----------
        candidates : DataFrame or sequence of dict
            Values of all `parameters`, for each candidate.

        Returns
        -------
        DataFrame
            A row for each candidate: `mean`, the expected score, and `std`, its uncertainty.

        Raises
        ------
        ValueError
            If a parameter is missing.
        """
        rows = _encoded(as_table(candidates, self.axes), self.axes)
        signal = self._process.kernel_.k1
        mean, std = self._posterior(signal(rows, self._process.X_train_), signal.diag(rows))
        return pd.DataFrame({"mean": mean, "std": std})

    def _posterior(self, cross: Array, prior: Array) -> tuple[Array, Array]:
        """Return mean and standard deviation of the process, without the noise of single scores."""
        # `predict` of the process would include the white noise in the standard deviation.
        half = solve_triangular(self._process.L_, cross.T, lower=True)
        variance = np.maximum(prior - np.square(half).sum(axis=0), 0.0)
        mean = self._mean + self._scale * (cross @ self._process.alpha_)
        return mean, self._scale * np.sqrt(variance)

    def partial_dependence(
        self, x: str, y: str | None = None, *, n_points: int | None = None
    ) -> pd.DataFrame:
        """Return the expected score against one or two parameters, averaged over the others.

        The average is over the candidates' values of the other parameters (over 100 candidates, if there are
        more).

        Parameters
        ----------
        x : str
            Parameter.
        y : str, default=None
            Second parameter. None: the dependence on one.
        n_points : int, default=None
            Number of points along each axis, evenly spaced on its scale; a parameter with fewer values is
            evaluated at these values. None: 40 for one parameter, 15 for two.

        Returns
        -------
        DataFrame
            A row for each point: a column for each parameter, `mean`, and `std`, the uncertainty of the mean
            (not the spread over the other parameters).

        Raises
        ------
        ValueError
            If the model does not have such a parameter, or both are the same.
        """
        names = [x] if y is None else [x, y]
        places = [self._place(name) for name in names]
        if len(set(places)) < len(places):
            raise ValueError(f"x={x!r} and y={y!r} are the same parameter: name two")
        if n_points is None:
            n_points = 40 if y is None else 15
        points = list(product(*(self.axes[place].grid(n_points) for place in places)))
        parts = [axis.columns(self.table[axis.name].tolist()) for axis in self.axes]
        if len(self.table) > _N_BACKGROUND:
            chosen = np.random.default_rng(self._seed).permutation(len(self.table))[:_N_BACKGROUND]
            parts = [part[chosen] for part in parts]
        signal, trained = self._process.kernel_.k1, self._process.X_train_
        cross, prior = np.empty((len(points), len(trained))), np.empty(len(points))
        for i, point in enumerate(points):
            here = list(parts)
            for place, value in zip(places, point, strict=True):
                here[place] = np.broadcast_to(self.axes[place].columns([value]), parts[place].shape)
            rows = np.hstack(here)
            cross[i] = signal(rows, trained).mean(axis=0)
            # The variance of an average holds the covariances between its rows.
            prior[i] = signal(rows).mean()
        mean, std = self._posterior(cross, prior)
        columns = {
            name: list(values)
            for name, values in zip(names, zip(*points, strict=True), strict=True)
        }
        return pd.DataFrame(columns).assign(mean=mean, std=std)

    def effects(self) -> pd.DataFrame:
        """Return how much the score depends on each parameter alone.

        Returns
        -------
        DataFrame
            A row for each parameter, the most important first: `parameter`; `best`, the value with the highest
            expected score averaged over the other parameters; and `effect`, the difference between this score
            and the lowest one. Compare it with `noise_std`, the scatter between equal candidates.
        """
        rows = []
        for name in self.parameters:
            table = self.partial_dependence(name)
            mean = table["mean"].to_numpy()
            rows.append((name, table[name].iloc[mean.argmax()], float(np.ptp(mean))))
        effects = pd.DataFrame(rows, columns=["parameter", "best", "effect"])
        return effects.sort_values("effect", ascending=False, kind="stable", ignore_index=True)

    def optimum(self, candidates: Any = None) -> Optimum:
        """Return the candidate with the best expected score.

        Parameters
        ----------
        candidates : DataFrame or sequence of dict, default=None
            Candidates to choose from. None: the candidates of the search and 5,000 random combinations of
            their values. These combinations may have networks outside the size limits of the search: give
            ``model.table`` to choose only from candidates of the search.

        Returns
        -------
        Optimum
            The parameters, and the expected score with its uncertainty.
        """
        table = self._combinations() if candidates is None else as_table(candidates, self.axes)
        predicted = self.predict(table)
        best = int(predicted["mean"].to_numpy().argmax())
        params = {name: table[name].iloc[best] for name in self.parameters}
        mean, std = (float(predicted[name].iloc[best]) for name in ("mean", "std"))
        return Optimum({name: _plain(value) for name, value in params.items()}, mean, std)

    def expected_improvement(self, candidates: Any) -> Array:
        """Return by how much candidates are expected to improve on the best expected score so far.

        Parameters
        ----------
        candidates : DataFrame or sequence of dict
            Values of all `parameters`, for each candidate.

        Returns
        -------
        ndarray of shape (n_candidates,)
            Expected improvement, at least 0 (D. R. Jones et al., J. Glob. Optim. 13 (1998) 455). The
            reference is the best *expected* score among the candidates of the search, since the best
            observed score is the best of many noisy ones.
        """
        best = self.predict(self.table)["mean"].max()
        predicted = self.predict(candidates)
        gain, std = predicted["mean"].to_numpy() - best, predicted["std"].to_numpy()
        z = gain / np.maximum(std, 1e-12 * self._scale)
        improvement: Array = np.maximum(gain * norm.cdf(z) + std * norm.pdf(z), 0.0)
        return improvement

    def _combinations(self) -> pd.DataFrame:
        """Return the candidates of the search and random combinations of their values."""
        rng = np.random.default_rng(self._seed)
        own = self.table[self.parameters]
        drawn = {
            name: own[name]
            .iloc[rng.integers(len(own), size=_N_COMBINATIONS)]
            .reset_index(drop=True)
            for name in self.parameters
        }
        return pd.concat([own, pd.DataFrame(drawn)], ignore_index=True)

    def _place(self, name: str) -> int:
        """Return the index of a parameter among the axes."""
        if name not in self.parameters:
            raise ValueError(
                f"{name!r} is no parameter of the model; choose one of {self.parameters}"
            )
        return self.parameters.index(name)


def fit_search_model(
    cv_results: Mapping[str, Any] | pd.DataFrame,
    *,
    parameters: Sequence[str] | None = None,
    score: str = "mean_test_score",
    scales: Mapping[str, Scale] | None = None,
    n_restarts: int = 3,
    random_state: int | np.random.RandomState | None = None,
) -> SearchModel:
    """Fit a Gaussian process to the scores of a search.

    The covariance is a Matérn function (smoothness 5/2) with a length scale for each parameter, plus white
    noise for the scatter of scores between equal candidates. All its parameters are found by maximum
    likelihood. Any search of scikit-learn can be modelled; random candidates are better than a grid.

    Parameters
    ----------
    cv_results : dict or DataFrame
        `cv_results_` of a search, or a table of it. Candidates without a finite score are left out.
    parameters : sequence of str, default=None
        Parameters of the model, by their names in the search. None: all parameters that vary.
    score : str, default="mean_test_score"
        Name of the result to model; higher is better.
    scales : dict of str to {"linear", "log", "category"}, default=None
        Scales of parameters. By default, numbers that extend over decades have a logarithmic scale (with zero
        one decade below the smallest other value), other numbers a linear scale, and all other values are
        categories.
    n_restarts : int, default=3
        Number of further maximisations of the likelihood, from random starts.
    random_state : int, RandomState instance or None, default=None
        Determines the starts and the random draws of the model's methods.

    Returns
    -------
    SearchModel
        Model with predictions, partial dependence and the optimum.

    Raises
    ------
    ValueError
        If a parameter or the score is not in the results, no parameter varies, a candidate lacks a value of a
        parameter, or fewer than five candidates have a finite score.

    References
    ----------
    arXiv:2002.01427, section 3.10; C. E. Rasmussen and C. K. I. Williams, "Gaussian Processes for Machine
    Learning" (2006).

    Examples
    --------
    >>> from scipy.stats import loguniform
    >>> from sklearn.datasets import make_regression
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import RandomizedSearchCV
    >>> from skhep_nn.tuning import fit_search_model
    >>> X, y = make_regression(100, 20, noise=20.0, random_state=0)
    >>> search = RandomizedSearchCV(Ridge(), {"alpha": loguniform(1e-3, 1e3)}, random_state=0)
    >>> model = fit_search_model(search.fit(X, y).cv_results_, random_state=0)
    >>> bool(model.optimum().params["alpha"] < 10)
    True
    """
    axes, table = read_results(
        cv_results, parameters=parameters, score=score, scales=scales, fewest=FEWEST_CANDIDATES
    )
    if random_state is None:
        seed = int(np.random.default_rng().integers(2**31 - 1))
    else:
        seed = int(check_random_state(random_state).randint(2**31 - 1))
    scores = table["score"].to_numpy()
    unit = (float(scores.mean()), float(scores.std()) or 1.0)
    n_columns = _encoded(table, axes).shape[1]
    signal = ConstantKernel(1.0, (1e-3, 1e3)) * Matern(
        np.ones(n_columns), length_scale_bounds=(0.05, 1e2), nu=2.5
    )
    kernel = signal + WhiteKernel(0.3, (1e-5, 3.0))
    process = _fit_process(axes, table, unit, kernel, n_restarts=n_restarts, seed=seed)
    return SearchModel(axes, table, process, unit, seed)


def with_expected_scores(model: SearchModel, candidates: Any) -> SearchModel:
    """Return the model as if candidates had been fitted and had reached their expected scores."""
    new = as_table(candidates, model.axes)
    new = new.assign(score=model.predict(new)["mean"].to_numpy())
    table = pd.concat([model.table, new], ignore_index=True)
    unit, seed = (model._mean, model._scale), model._seed
    process = _fit_process(
        model.axes, table, unit, model._process.kernel_, n_restarts=None, seed=seed
    )
    return SearchModel(model.axes, table, process, unit, seed)


def _fit_process(
    axes: list[SearchAxis],
    table: pd.DataFrame,
    unit: tuple[float, float],
    kernel: Kernel,
    *,
    n_restarts: int | None,
    seed: int,
) -> GaussianProcessRegressor:
    """Fit a process to scores in units of their spread; `n_restarts=None` keeps the kernel fixed."""
    process = GaussianProcessRegressor(
        kernel,
        optimizer=None if n_restarts is None else "fmin_l_bfgs_b",
        n_restarts_optimizer=n_restarts or 0,
        random_state=seed,
    )
    mean, scale = unit
    with warnings.catch_warnings():
        # A length scale at its bound is no failure: the parameter has no influence on the score.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return process.fit(_encoded(table, axes), (table["score"].to_numpy() - mean) / scale)


def _encoded(table: pd.DataFrame, axes: list[SearchAxis]) -> Array:
    """Return candidates as rows of numbers for the process."""
    return np.hstack([axis.columns(table[axis.name].tolist()) for axis in axes])


def _plain(value: Any) -> Any:
    """Return a scalar of numpy as one of Python, any other value unchanged."""
    return value.item() if isinstance(value, np.generic) else value
