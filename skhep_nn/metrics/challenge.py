"""Scores of the HiggsML study and scorers of the AMS.

The scores follow section 2.5 of the study (arXiv:2002.01427), the choice of the cut its section
2.1.2. All functions depend on labels, scores and event weights only.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from sklearn.metrics import make_scorer
from sklearn.model_selection import StratifiedKFold

from skhep_nn.metrics.ams import ams_score, best_cut, check_b_reg
from skhep_nn.metrics.weights import class_totals, rescale_weights
from skhep_nn.utils.checks import is_number
from skhep_nn.utils.public import public
from skhep_nn.utils.validation import BoolArray, FloatArray, check_events, check_mask, check_score

__all__ = [
    "ChallengeScores",
    "SplitAMS",
    "ams_scorer",
    "challenge_scores",
    "make_ams_scorer",
    "mean_split_ams",
]

RandomState = int | np.random.RandomState | None


class SplitAMS(NamedTuple):
    """AMS of disjoint parts of a test set.

    Parameters
    ----------
    mean : float
        Mean over the parts.
    std_error : float
        Its standard error.
    values : ndarray of shape (n_splits,)
        AMS of each part.
    """

    mean: float
    std_error: float
    values: FloatArray


class ChallengeScores(NamedTuple):
    """The scores that the HiggsML study reports, for one training.

    Parameters
    ----------
    cut : float
        The cut that the validation set chose.
    mmva : float
        Maximal AMS on the validation set.
    mvac : float
        AMS on the validation set at the cut.
    mapa : float
        AMS at the cut, averaged over the splits of the public test set.
    mapa_error : float
        Standard error of `mapa` over the splits.
    public, private : float
        AMS at the cut on the whole public and private test set; `private` is NaN where no private
        events were given.
    """

    cut: float
    mmva: float
    mvac: float
    mapa: float
    mapa_error: float
    public: float
    private: float


def mean_split_ams(
    y: npt.ArrayLike,
    score: npt.ArrayLike,
    cut: float,
    sample_weight: npt.ArrayLike | None = None,
    n_splits: int = 10,
    *,
    totals: Mapping[Any, float] | None = None,
    b_reg: float = 10.0,
    pos_label: Any = None,
    random_state: RandomState = None,
) -> SplitAMS:
    """AMS at a cut, averaged over stratified splits of a test set.

    On the public test set of the challenge this is the MAPA of arXiv:2002.01427, section 2.5. The
    weights of each split are rescaled per class, so that every split stands for the whole set.

    Parameters
    ----------
    y, score, sample_weight, b_reg, pos_label
        As in :func:`ams_curve`.
    cut : float
        Events with ``score >= cut`` are selected.
    n_splits : int, default=10
        Number of disjoint splits, stratified by class.
    totals : mapping from label to float, default=None
        Sum of weights of each class in every split. None takes the sums over the whole set.
    random_state : int, RandomState instance or None, default=None
        Seed of the splitting; an int gives the same splits on every call.

    Returns
    -------
    SplitAMS
        Mean, its standard error, and the value of every split.

    Raises
    ------
    ValueError
        As :func:`ams_score` and :func:`rescale_weights`; also if `n_splits` is less than 2 or a class
        has fewer events than that, or `cut` is not a finite number.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.metrics import mean_split_ams
    >>> y = np.tile(["s", "b"], 50)
    >>> round(mean_split_ams(y, np.where(y == "s", 0.9, 0.1), 0.5, random_state=0).mean, 3)
    10.724
    """
    is_signal, weight = check_events(y, sample_weight, pos_label)
    if not is_number(cut):
        raise ValueError(f"cut={cut!r} must be a finite number")
    labels = np.asarray(y)
    passed = check_score(score, len(weight)) >= cut
    smallest = int(min(is_signal.sum(), (~is_signal).sum()))
    if not 2 <= n_splits <= smallest:
        raise ValueError(
            f"n_splits={n_splits} must be at least 2 and at most the number of events of the smaller "
            f"class, {smallest}"
        )
    if totals is None:
        totals = class_totals(labels, weight)
    splitter = StratifiedKFold(n_splits, shuffle=True, random_state=random_state)
    values = np.empty(n_splits)
    for i, (_, rows) in enumerate(splitter.split(passed, is_signal)):
        scaled = rescale_weights(labels[rows], weight[rows], totals)
        values[i] = ams_score(is_signal[rows], passed[rows], scaled, b_reg, pos_label=True)
    std_error = float(values.std(ddof=1) / np.sqrt(n_splits))
    return SplitAMS(float(values.mean()), std_error, values)


def challenge_scores(
    y_valid: npt.ArrayLike,
    p_valid: npt.ArrayLike,
    w_valid: npt.ArrayLike | None,
    y_test: npt.ArrayLike,
    p_test: npt.ArrayLike,
    w_test: npt.ArrayLike | None,
    *,
    public: npt.ArrayLike | None = None,
    totals: Mapping[Any, float] | None = None,
    n_splits: int = 10,
    fraction: float = 0.1,
    b_reg: float = 10.0,
    pos_label: Any = None,
    random_state: RandomState = None,
) -> ChallengeScores:
    """MMVA, MVAC, MAPA, public and private AMS of one training.

    The cut is chosen on the validation set by :func:`best_cut` and applied to the test set. The study
    averages each score over six trainings.

    Parameters
    ----------
    y_valid, p_valid, w_valid : array-like of shape (n_valid,)
        Labels, scores and event weights of the validation set.
    y_test, p_test, w_test : array-like of shape (n_test,)
        Labels, scores and event weights of the test set.
    public : array-like of bool of shape (n_test,), default=None
        True for the public part of the test set (``kaggle_set == "b"``), the rest is private. None
        takes all of it as public.
    totals : mapping from label to float, default=None
        Sum of weights of each class to which the validation set, the public and the private set are
        rescaled (``HIGGSML_TOTALS`` for the challenge). None keeps the weights unchanged.
    n_splits, random_state
        The splits of MAPA, as in :func:`mean_split_ams`.
    fraction, b_reg, pos_label
        As in :func:`best_cut`.

    Returns
    -------
    ChallengeScores
        The cut and the scores.

    Raises
    ------
    ValueError, TypeError
        As the functions it is built from; ValueError if `public` selects no event.

    References
    ----------
    G. C. Strong, arXiv:2002.01427, section 2.5.

    Examples
    --------
    >>> import numpy as np
    >>> from skhep_nn.metrics import challenge_scores
    >>> rng = np.random.default_rng(0)
    >>> y = rng.integers(0, 2, 400)
    >>> p = np.clip(0.5 + 0.2 * (y - 0.5) + 0.1 * rng.normal(size=400), 0, 1)
    >>> scores = challenge_scores(y, p, None, y, p, None, random_state=0)
    >>> scores.mmva >= scores.mvac == scores.public
    True
    """
    best = best_cut(
        y_valid,
        p_valid,
        w_valid if totals is None else rescale_weights(y_valid, w_valid, totals),
        fraction,
        b_reg=b_reg,
        pos_label=pos_label,
    )
    is_signal, weight = check_events(y_test, w_test, pos_label)
    labels, score = np.asarray(y_test), check_score(p_test, len(weight))
    part = np.full(len(weight), fill_value=True)
    if public is not None:
        part = check_mask(public, len(weight), name="public")

    def at_cut(rows: BoolArray) -> float:
        """AMS of one part of the test set at the chosen cut."""
        w = weight[rows] if totals is None else rescale_weights(labels[rows], weight[rows], totals)
        return ams_score(is_signal[rows], score[rows] >= best.cut, w, b_reg, pos_label=True)

    if not part.any():
        raise ValueError("public selects no event of the test set; pass None to take all as public")
    split = mean_split_ams(
        labels[part],
        score[part],
        best.cut,
        weight[part],
        n_splits,
        totals=totals,
        b_reg=b_reg,
        pos_label=pos_label,
        random_state=random_state,
    )
    private = float("nan") if part.all() else at_cut(~part)
    return ChallengeScores(
        best.cut, best.max_ams, best.ams, split.mean, split.std_error, at_cut(part), private
    )


def make_ams_scorer(
    *,
    b_reg: float = 10.0,
    cut: Literal["best", "max"] | float = "best",
    totals: Mapping[Any, float] | None = None,
    pos_label: Any = None,
) -> Any:
    """Make a scorer of the AMS for ``scoring=`` in cross-validation and searches.

    Parameters
    ----------
    b_reg : float, default=10.0
        Regularisation of :func:`ams_score`.
    cut : {"best", "max"} or float, default="best"
        ``"best"``: the AMS at the cut of :func:`best_cut`; ``"max"``: the maximal AMS, both on the
        events that are scored. A number: the AMS of the events with ``score >= cut``.
    totals : mapping from label to float, default=None
        Class totals to which the weights of every scored fold are rescaled, see
        :func:`rescale_weights`. Without it the AMS shrinks with the size of the fold.
    pos_label : label, default=None
        As in :func:`ams_score`.

    Returns
    -------
    callable
        A scikit-learn scorer that scores the signal column of ``predict_proba``, or
        ``decision_function`` if the classifier has no probabilities. Event weights reach it by metadata routing, see the
        example; without routing all events count once.

    Raises
    ------
    ValueError
        If `cut` is another value, or `b_reg` is negative or not finite.

    Examples
    --------
    >>> import numpy as np, sklearn
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skhep_nn.metrics import make_ams_scorer
    >>> rng = np.random.default_rng(0)
    >>> X, y, w = rng.normal(size=(200, 2)), np.tile(["s", "b"], 100), np.ones(200)
    >>> X[y == "s"] += 1.0
    >>> with sklearn.config_context(enable_metadata_routing=True):
    ...     search = GridSearchCV(
    ...         LogisticRegression().set_fit_request(sample_weight=True),
    ...         {"C": [0.01, 1.0]},
    ...         scoring=make_ams_scorer(totals={"s": 100.0, "b": 1000.0}).set_score_request(
    ...             sample_weight=True
    ...         ),
    ...     ).fit(X, y, sample_weight=w)
    >>> bool(search.best_score_ > 2)
    True
    """
    check_b_reg(b_reg)
    if not (cut in ("best", "max") if isinstance(cut, str) else is_number(cut)):
        raise ValueError(f"cut={cut!r} must be 'best', 'max' or a finite number")
    return make_scorer(
        ams_of_predictions,
        response_method=["predict_proba", "decision_function"],
        b_reg=b_reg,
        cut=cut,
        totals=totals,
        pos_label=pos_label,
    )


@public("skhep_nn.metrics")
def ams_of_predictions(
    y_true: npt.ArrayLike,
    y_pred: npt.ArrayLike,
    sample_weight: npt.ArrayLike | None = None,
    *,
    b_reg: float,
    cut: Literal["best", "max"] | float,
    totals: Mapping[Any, float] | None,
    pos_label: Any,
) -> float:
    """Score function behind the scorers: AMS of one fold."""
    if totals is not None:
        sample_weight = rescale_weights(y_true, sample_weight, totals)
    if not isinstance(cut, str):
        score = check_score(y_pred, len(np.asarray(y_true)))
        return ams_score(y_true, score >= cut, sample_weight, b_reg, pos_label=pos_label)
    best = best_cut(y_true, y_pred, sample_weight, b_reg=b_reg, pos_label=pos_label)
    return best.ams if cut == "best" else best.max_ams


ams_scorer = make_ams_scorer()
"""Scorer with the defaults. Set score requests on one of your own: ``make_ams_scorer()``."""
