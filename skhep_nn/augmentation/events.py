"""Augmentation of events: rotations and reflections, for training and for prediction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from skhep_nn.inputs.events import EventTransformer
from skhep_nn.kinematics.momenta import Array, MomentumColumns, Turn
from skhep_nn.kinematics.momentum_finder import MomentumFinder
from skhep_nn.utils.checks import is_count
from skhep_nn.utils.public import public
from skhep_nn.utils.random import random_numbers
from skhep_nn.utils.stored_frames import PlainState, Rebuilds, each, one

__all__ = ["EventAugmenter"]


@public("skhep_nn")
class EventAugmenter(MomentumFinder, PlainState, EventTransformer):
    r"""Rotate collider events in azimuth and reflect them in y and z.

    Collisions of unpolarised beams in a symmetric detector have no preferred azimuth and no preferred
    end of the detector, so that rotated and reflected events are equally likely, with the same class [1]_.
    Momenta are found by the names of their columns: ``<object>_px``, ``_py`` and ``_pz``, or
    ``<object>_pt``, ``_eta`` and ``_phi``, also in other common spellings, such as ``Jet_pt_0``, ``Jet.PT``,
    ``Jet_pt[0]``, ``met_et`` or ``px_jet``. A transverse momentum (such as missing momentum) lacks
    ``_pz`` or ``_eta``, and its modulus may be ``<object>`` itself. All momenta of an event turn
    together. Scalars, such as masses, stay unchanged, and so do undefined (NaN) and zero momenta.
    A warning names columns that look like parts of momenta and stay unchanged.

    Parameters
    ----------
    rotate : bool, default=True
        Rotate by a random angle, uniform in a full turn.
    flip_y : bool, default=True
        Change the sign of y (of phi) in half of the copies.
    flip_z : bool, default=True
        Change the sign of z (of the pseudorapidity) in half of the copies.
    n_orientations : int, default=2
        Number of azimuthal orientations among the views, at angles :math:`2 \pi k / n`.
    columns : sequence of str, default=None
        Names of the columns, if X is an array. A DataFrame already has names.
    objects : dict, default=None
        Momenta that names alone do not tell: for each object its columns by component, such as
        ``{"jet": {"pt": "a", "eta": "b", "phi": "c"}}`` or ``{"met": {"px": 3, "py": 4}}``, or a tuple of
        columns if their names tell the components. All other columns are searched as usual.
    random_state : int, RandomState instance or None, default=None
        Seed of `transform`. With an int, every call draws the same numbers.

    Attributes
    ----------
    n_views_ : int
        Number of test-time views: orientations times flips, eight by default.
    objects_ : dict
        For each object that was found or given, its columns by component.
    n_features_in_ : int
        Number of columns seen in `fit`.
    feature_names_in_ : ndarray of str
        Names of the columns seen in `fit`, if X had names.

    See Also
    --------
    EventAligner : The opposite: one orientation for all events.
    AugmentedClassifier : Augmentation around any scikit-learn classifier.

    Notes
    -----
    As a step of a Pipeline an augmenter acts both at fit and at predict. The parameter
    ``augmentation=`` of the networks draws new copies for every batch and averages over the views at
    predict; `AugmentedClassifier` does so for other estimators.

    References
    ----------
    .. [1] G. C. Strong, "On the impact of selected modern deep-learning techniques to the
       performance and celerity of classification models in an experimental high-energy physics
       use case", section 3.4.3, arXiv:2002.01427.

    Examples
    --------
    >>> import pandas as pd
    >>> from skhep_nn.augmentation import EventAugmenter
    >>> events = pd.DataFrame({"lep_px": [30.0], "lep_py": [0.0], "lep_pz": [5.0], "mass": [91.0]})
    >>> augmenter = EventAugmenter(random_state=0).fit(events)
    >>> augmenter.transform(events).round(1)
       lep_px  lep_py  lep_pz  mass
    0   -28.6    -9.1     5.0  91.0
    >>> augmenter.n_views_
    8
    >>> [view["lep_px"].item() for view in augmenter.views(events)]
    [30.0, 30.0, 30.0, 30.0, -30.0, -30.0, -30.0, -30.0]
    """

    _rebuild: ClassVar[Rebuilds] = {"_columns": one(MomentumColumns), "_views": each(Turn)}

    def __init__(
        self,
        *,
        rotate: bool = True,
        flip_y: bool = True,
        flip_z: bool = True,
        n_orientations: int = 2,
        columns: Sequence[str] | None = None,
        objects: Mapping[str, Any] | None = None,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.rotate = rotate
        self.flip_y = flip_y
        self.flip_z = flip_z
        self.n_orientations = n_orientations
        self.columns = columns
        self.objects = objects
        self.random_state = random_state

    def _prepare(self, names: list[str]) -> None:
        """Check the parameters and find the columns to turn and the views."""
        given: Any = self.n_orientations
        if not is_count(given):
            raise ValueError(f"n_orientations must be an integer of at least 1, got {given!r}.")
        self._find(names, self.n_features_in_)
        self._indices = self._columns.indices()
        self._indices_on: dict[torch.device, torch.Tensor] = {}
        n_angles = int(given) if self.rotate else 1
        self._views = [
            # Rounded so that half a turn is exactly (-1, 0) and its view an exact reflection.
            Turn(angle, round(math.cos(angle), 15), round(math.sin(angle), 15), y_sign, z_sign)
            for angle in (2 * math.pi * k / n_angles for k in range(n_angles))
            for y_sign in ((1.0, -1.0) if self.flip_y else (1.0,))
            for z_sign in ((1.0, -1.0) if self.flip_z else (1.0,))
        ]
        self.n_views_ = len(self._views)

    def _problems(self, names: list[str], values: NDArray[Any]) -> list[str]:
        # Networks turn tensors, which are not checked any more.
        self.check(values)
        return super()._problems(names, values)

    def transform(self, X: Any) -> Any:
        """Rotate and reflect every event at random.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events, momenta in any unit, angles in radians. NaN marks a missing object.

        Returns
        -------
        DataFrame or ndarray of shape (n_samples, n_features)
            One copy of every event, in the container of X.
        """
        table, values = self.read(X)
        self.check(values)
        uniform = random_numbers(self.random_state).uniform(size=(3, len(values)))
        return self._columns.turn_table(table, values, self._random_turn(np, uniform))

    def views(self, X: Any) -> Iterator[Any]:
        """Yield the fixed views of the events, over which predictions are averaged.

        Parameters
        ----------
        X : DataFrame or array of shape (n_samples, n_features)
            Events.

        Yields
        ------
        DataFrame or ndarray of shape (n_samples, n_features)
            All events in one orientation, `n_views_` times; the first view is unchanged.
        """
        table, values = self.read(X)
        self.check(values)
        return (self._columns.turn_table(table, values, turn) for turn in self._views)

    def transform_tensor(self, X: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Rotate and reflect every event of a batch at random, on its device.

        Has no synchronisation and no data-dependent step. It can be captured in a CUDA graph after
        a first call on the device, which copies the column numbers there. Register the generator
        with the graph, so that each replay draws new numbers.

        Parameters
        ----------
        X : floating-point Tensor of shape (..., n_features)
            Events, with any number of leading dimensions. Not changed in place.
        generator : torch.Generator
            Source of random numbers, on the device of X.

        Returns
        -------
        Tensor of shape (..., n_features)
            One copy of every event.
        """
        indices = self._tensor_indices(X)
        shape = (3, *X.shape[:-1])
        uniform = torch.rand(shape, generator=generator, dtype=X.dtype, device=X.device)
        turned: torch.Tensor = self._columns.turn_array(
            X, self._random_turn(torch, uniform), indices
        )
        return turned

    def view_tensor(self, X: torch.Tensor, index: int) -> torch.Tensor:
        """Return one of the fixed views of a batch, on its device.

        Parameters
        ----------
        X : floating-point Tensor of shape (..., n_features)
            Events. Not changed in place.
        index : int
            Number of the view, from 0 (the unchanged events) to ``n_views_ - 1``.

        Returns
        -------
        Tensor of shape (..., n_features)
            All events in this orientation.
        """
        indices = self._tensor_indices(X)
        if not 0 <= index < self.n_views_:
            raise IndexError(f"There are {self.n_views_} views, from 0 on; got index {index}.")
        view: torch.Tensor = self._columns.turn_array(X, self._views[index], indices)
        return view

    def views_tensor(self, X: torch.Tensor) -> torch.Tensor:
        """Return all fixed views of a batch at once, on its device.

        Parameters
        ----------
        X : floating-point Tensor of shape (n_samples, n_features)
            Events. Not changed in place.

        Returns
        -------
        Tensor of shape (n_views * n_samples, n_features)
            The views of `view_tensor`, concatenated.
        """
        indices = self._tensor_indices(X)
        parts = (
            torch.tensor(part, dtype=X.dtype, device=X.device)
            for part in zip(*self._views, strict=True)
        )
        turn = Turn(*(part.unsqueeze(-1) for part in parts))
        copies = X.expand(self.n_views_, *X.shape)
        views: torch.Tensor = self._columns.turn_array(copies, turn, indices)
        return views.flatten(0, 1)

    def _random_turn(self, xp: Any, uniform: Array) -> Turn:
        """Return a turn for every event from three numbers uniform in [0, 1), of shape (3, ...)."""
        signs = 2 * xp.floor(2 * uniform[1:]) - 1
        y_sign = signs[0] if self.flip_y else 1.0
        z_sign = signs[1] if self.flip_z else 1.0
        if not self.rotate:
            return Turn(0.0, 1.0, 0.0, y_sign, z_sign)
        return Turn.by(xp, 2 * math.pi * uniform[0], y_sign, z_sign)

    def _tensor_indices(self, X: torch.Tensor) -> torch.Tensor:
        """Return the numbers of the columns to turn, on the device of X and cached there."""
        if X.shape[-1] != self.n_features_in_:
            raise ValueError(
                f"X has {X.shape[-1]} features, but {type(self).__name__} is expecting "
                f"{self.n_features_in_} features as input."
            )
        indices = self._indices_on.get(X.device)
        if indices is None:
            indices = torch.as_tensor(self._indices, device=X.device)
            self._indices_on[X.device] = indices
        return indices

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        return {**state, "_indices_on": {}} if "_indices_on" in state else dict(state)
