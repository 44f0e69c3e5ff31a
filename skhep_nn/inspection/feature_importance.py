"""Importance of features, and their dependence on other features, by forests on held-out events."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone, is_classifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.inspection import permutation_importance
from sklearn.metrics import check_scoring
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.parallel import Parallel, delayed

from skhep_nn.inspection.feature_table import check_positive_weight, feature_table
from skhep_nn.metrics.weights import class_balanced_weights
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.folds import make_folds
from skhep_nn.utils.random import random_numbers
from skhep_nn.utils.validation import FloatArray, check_labels, check_vector

__all__ = ["forest_importance", "mutual_dependence"]

# Share of the rows that test a single forest.
_HELD_BACK = 0.2

RandomState = int | np.random.RandomState | None


class _Events(NamedTuple):
    """Rows for a forest: inputs, target, weights."""

    X: FloatArray
    y: npt.NDArray[Any]
    weight: FloatArray


class _HeldOut(NamedTuple):
    """Score on held-out rows, and its fall for each permuted feature; arrays over forests if stacked."""

    score: Any
    importances: Any


def forest_importance(
    X: Any,
    y: npt.ArrayLike,
    *,
    sample_weight: npt.ArrayLike | None = None,
    class_weight: Literal["balanced"] | None = "balanced",
    n_forests: int = 5,
    n_repeats: int = 3,
    forest: Any = None,
    scoring: Any = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> pd.DataFrame:
    """Measure the permutation importance of features, averaged over several random forests.

    The importance of a feature is the decrease of the score of a forest when the values of this feature are
    shuffled among the events. Forests need no scaling, train fast and take undefined values (NaN) as they are.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
        Features; NaN where undefined.
    y : array-like of shape (n_samples,)
        Labels, or a continuous target.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights for fits and scores, at least 0. None: 1 each.
    class_weight : {"balanced"} or None, default="balanced"
        Whether to scale the weights so that every class has the same total (equation 3 of
        arXiv:2002.01427). Without, a rare signal hardly shows in the score. For labels only.
    n_forests : int, default=5
        Number of forests. Each is tested on one of as many folds and trained on the others; a
        single one is tested on a fifth of the events.
    n_repeats : int, default=3
        How often each feature is shuffled for each forest.
    forest : estimator, default=None
        Model to clone, whose `fit` takes `sample_weight`. None: a random forest of 40 trees
        with three or more events in each leaf, for labels or for continuous targets as `y` is.
    scoring : str or callable, default=None
        Score whose fall is measured, as in scikit-learn. None: accuracy, or R2 for continuous targets.
    n_jobs : int, default=None
        Number of forests trained at the same time; results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines folds, forests and shuffles.

    Returns
    -------
    DataFrame
        A row for each feature, the most important first:

        - `feature`: its name, or ``"x0"``, ``"x1"``, ... in an array,
        - `importance`: fall of the score, mean over forests,
        - `importance_error`: standard error of that mean, NaN for a single forest,
        - `score`, `score_error`: score of the untouched test events, the same in all rows.

    Raises
    ------
    ValueError
        If `X` holds anything but finite numbers and NaN, a weight is negative, a class has no
        weight, or a parameter is out of range.

    See Also
    --------
    mutual_dependence : Dependence of each feature on the others.
    skhep_nn.plotting.FeatureImportanceDisplay : The plot.

    Notes
    -----
    Redundant features share the importance: if one is shuffled, the forest still reads the other.
    A feature that is defined in few events, such as the mass of two jets, matters only in these
    events.

    The study calls features important from 0.005 on, by five forests. It keeps the features of two
    jets below this limit, since forests without them scored less on unseen data. Compare
    `score` with and without such features, with the same integer as `random_state`, before you drop
    any.

    References
    ----------
    Section 3.1 and figure 2 of arXiv:2002.01427; L. Breiman, "Random Forests", Mach. Learn. 45
    (2001) 5.

    Examples
    --------
    >>> from skhep_nn import make_higgs_events
    >>> from skhep_nn.inspection import forest_importance
    >>> events = make_higgs_events(1000, random_state=0)
    >>> X = events.data[["DER_mass_MMC", "DER_pt_tot", "PRI_tau_phi"]]
    >>> table = forest_importance(
    ...     X, events.target, sample_weight=events.sample_weight, n_forests=2, random_state=0
    ... )
    >>> table["feature"][0]
    'DER_mass_MMC'
    >>> list(table.columns)
    ['feature', 'importance', 'importance_error', 'score', 'score_error']
    """
    values, names = feature_table(X)
    for_labels = _for_labels(y, forest)
    target = check_labels(y) if for_labels else check_vector(y, len(values), "y")
    if len(target) != len(values):
        raise ValueError(f"X has {len(values)} rows and y {len(target)}: they must be the same")
    weight = check_positive_weight(sample_weight, len(values))
    if class_weight not in ("balanced", None):
        raise ValueError(f"class_weight={class_weight!r} must be 'balanced' or None")
    if for_labels and class_weight == "balanced":
        weight = class_balanced_weights(target, weight)
    if forest is None:
        forest = _default_forest(for_labels=for_labels)
    _check_counts(n_forests=n_forests, n_repeats=n_repeats)
    events = _weighted(_Events(values, target, weight))
    tasks = _tasks(forest, events, n_forests, random_numbers(random_state))
    found = _gather(
        _in_threads(n_jobs)(delayed(_held_out)(*task, scoring, n_repeats) for task in tasks)
    )
    table = pd.DataFrame(
        {
            "feature": names,
            "importance": found.importances.mean(axis=0),
            "importance_error": _error(found.importances),
            "score": found.score.mean(),
            "score_error": _error(found.score),
        }
    )
    return table.sort_values("importance", ascending=False, kind="stable", ignore_index=True)


def mutual_dependence(
    X: Any,
    *,
    sample_weight: npt.ArrayLike | None = None,
    n_forests: int = 3,
    n_repeats: int = 1,
    max_samples: int | None = 5000,
    forest: Any = None,
    n_jobs: int | None = None,
    random_state: RandomState = None,
) -> pd.DataFrame:
    """Measure how well all other features predict each feature, and which of them do.

    Forests regress each feature on the others. A feature with R2 close to 1 adds no information.

    Parameters
    ----------
    X : array-like or DataFrame of shape (n_samples, n_features)
        Two or more features; NaN where undefined. A feature is regressed in the
        events that define it.
    sample_weight : array-like of shape (n_samples,), default=None
        Event weights for fits and scores, at least 0. None: 1 each.
    n_forests : int, default=3
        Number of forests for each feature, tested as in :func:`forest_importance`.
    n_repeats : int, default=1
        How often each of the other features is shuffled for each forest.
    max_samples : int or None, default=5000
        Largest number of events, drawn at random if there are more. None: all events. With more events
        trees are deeper and R2 is higher.
    forest : estimator, default=None
        Regressor to clone, whose `fit` takes `sample_weight`. None: a random forest of 40 trees.
    n_jobs : int, default=None
        Number of forests trained at the same time; results do not depend on it.
    random_state : int, RandomState instance or None, default=None
        Determines the draw of events, folds, forests and shuffles.

    Returns
    -------
    DataFrame
        A row for each ordered pair of features, the easiest target and its most important feature
        first:

        - `target`: the feature that is regressed,
        - `dependence`: R2 on held-out events, mean over forests; the same for all rows of a target,
        - `dependence_error`: standard error of that mean, NaN for a single forest,
        - `feature`: one of the others,
        - `importance`, `importance_error`: fall of R2 where it is shuffled, and its standard error.

    Raises
    ------
    ValueError
        If `X` holds anything but finite numbers and NaN, a weight is negative, a feature is
        defined in too few events, or a parameter is out of range.

    See Also
    --------
    rank_correlations : Pairs of features.
    skhep_nn.plotting.MutualDependenceDisplay : The plot.

    Notes
    -----
    The importance may exceed 1, as R2 falls below zero where a forest is misled.

    References
    ----------
    Section 3.1 and figure 3 of arXiv:2002.01427.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.inspection import mutual_dependence
    >>> x = np.random.default_rng(0).normal(size=(500, 3))
    >>> x[:, 2] = x[:, 0] ** 2
    >>> table = mutual_dependence(x, random_state=0)
    >>> table.loc[0, ["target", "feature"]].to_list()
    ['x2', 'x0']
    >>> table.pivot(index="target", columns="feature", values="importance").shape
    (3, 3)
    """
    values, names = feature_table(X, n_least=2)
    weight = check_positive_weight(sample_weight, len(values))
    _check_counts(n_forests=n_forests, n_repeats=n_repeats, max_samples=max_samples)
    rng = random_numbers(random_state)
    if max_samples is not None and len(values) > max_samples:
        rows = rng.choice(len(values), max_samples, replace=False)
        values, weight = values[rows], weight[rows]
    forest = _default_forest(for_labels=False) if forest is None else forest
    tasks = []
    for j, name in enumerate(names):
        events = _weighted(_Events(np.delete(values, j, axis=1), values[:, j], weight))
        if len(events.y) < _n_least(n_forests):
            raise ValueError(
                f"{name!r} is defined and has a weight in {len(events.y)} of {len(values)} events, and "
                f"{n_forests} forests need at least {_n_least(n_forests)}: leave it out"
            )
        tasks += _tasks(forest, events, n_forests, rng)
    answers = _in_threads(n_jobs)(delayed(_held_out)(*t, "r2", n_repeats) for t in tasks)
    parts = [
        _dependence_of(j, names, _gather(answers[j * n_forests : (j + 1) * n_forests]))
        for j in range(len(names))
    ]
    parts.sort(key=lambda part: -float(part["dependence"].iloc[0]))
    return pd.concat(parts, ignore_index=True)


def _default_forest(*, for_labels: bool) -> Any:
    """Return a small forest with leaves of several events, against overfitting."""
    options = {"n_estimators": 40, "min_samples_leaf": 3}
    # Half of the features at each split make trees differ. The regressor takes all of them: a
    # target that depends on one feature would be hidden from half of the splits.
    return (
        RandomForestClassifier(max_features=0.5, **options)
        if for_labels
        else RandomForestRegressor(**options)
    )


def _in_threads(n_jobs: int | None) -> Any:
    """Return workers in threads, which share the data: trees release Python's lock."""
    return Parallel(n_jobs=n_jobs, prefer="threads")


def _dependence_of(j: int, names: list[str], found: _HeldOut) -> pd.DataFrame:
    """Return the rows of the table for one target."""
    part = pd.DataFrame(
        {
            "target": names[j],
            "dependence": found.score.mean(),
            "dependence_error": _error(found.score),
            "feature": names[:j] + names[j + 1 :],
            "importance": found.importances.mean(axis=0),
            "importance_error": _error(found.importances),
        }
    )
    return part.sort_values("importance", ascending=False, kind="stable")


def _weighted(events: _Events) -> _Events:
    """Select rows with a positive weight and, for numbers, a defined target."""
    rows = events.weight > 0
    if events.y.dtype.kind == "f":
        rows &= ~np.isnan(events.y)
    return _Events(*(part[rows] for part in events))


def _tasks(
    forest: Any, events: _Events, n_forests: int, rng: np.random.RandomState
) -> list[tuple[Any, ...]]:
    """Return the arguments of each fit; seeds are drawn here so that results ignore the workers."""
    seeds = rng.randint(np.iinfo(np.int32).max, size=(n_forests, 2))
    folds = make_folds(
        len(events.X),
        n_forests,
        strata=events.y if is_classifier(forest) else None,
        classes=None,
        held_back=_HELD_BACK,
        seed=rng.randint(np.iinfo(np.int32).max),
    )
    return [(forest, events, *fold, *own) for fold, own in zip(folds, seeds.tolist(), strict=True)]


def _held_out(
    forest: Any,
    events: _Events,
    train: npt.NDArray[np.intp],
    test: npt.NDArray[np.intp],
    fit_seed: int,
    shuffle_seed: int,
    scoring: Any,
    n_repeats: int,
) -> _HeldOut:
    """Fit a forest on the training rows; score it on the test rows, and with each feature shuffled."""
    forest = clone(forest)
    if "random_state" in forest.get_params():
        forest.set_params(random_state=fit_seed)
    forest.fit(events.X[train], events.y[train], sample_weight=events.weight[train])
    X, y, weight = (part[test] for part in events)
    falls = permutation_importance(
        forest,
        X,
        y,
        scoring=scoring,
        n_repeats=n_repeats,
        random_state=shuffle_seed,
        sample_weight=weight,
    )
    score = check_scoring(forest, scoring)(forest, X, y, sample_weight=weight)
    return _HeldOut(float(score), falls.importances_mean)


def _gather(found: list[_HeldOut]) -> _HeldOut:
    """Stack the results of several forests."""
    return _HeldOut(*(np.array(part) for part in zip(*found, strict=True)))


def _error(values: FloatArray) -> Any:
    """Return the standard error of the mean over forests."""
    if len(values) < 2:
        return np.full(values.shape[1:], np.nan)
    return values.std(axis=0, ddof=1) / np.sqrt(len(values))


def _for_labels(y: npt.ArrayLike, forest: Any) -> bool:
    """Whether `y` holds classes."""
    return bool(type_of_target(y) != "continuous" if forest is None else is_classifier(forest))


def _n_least(n_forests: int) -> int:
    """Return the least number of rows: two to test each forest, as R2 needs more than one."""
    return max(2 * n_forests, 10)


def _check_counts(**counts: Any) -> None:
    """Refuse counts that are not integers of at least 1."""
    for name, value in counts.items():
        is_unlimited = value is None and name == "max_samples"
        if not (is_unlimited or is_count(value)):
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")
