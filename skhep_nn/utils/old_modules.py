"""Old names of modules, so that imports and pickles of earlier versions still work."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import warnings
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

__all__ = ["MOVED", "RENAMED", "former_names", "register"]

MOVED: dict[str, str] = {
    "skhep_nn._ams": "skhep_nn.metrics.ams",
    "skhep_nn._ams_display": "skhep_nn.plotting.ams",
    "skhep_nn._architecture_search": "skhep_nn.tuning.architecture_search",
    "skhep_nn._averaging_runs": "skhep_nn.training.checkpoints",
    "skhep_nn._base": "skhep_nn.estimators.base",
    "skhep_nn._batches": "skhep_nn.training.batches",
    "skhep_nn._best": "skhep_nn.training.checkpoints",
    "skhep_nn._binned": "skhep_nn.metrics.classification",
    "skhep_nn._binned_display": "skhep_nn.plotting.binned_scores",
    "skhep_nn._block_display": "skhep_nn.plotting.blocks",
    "skhep_nn._block_reliance": "skhep_nn.inspection.blocks",
    "skhep_nn._callbacks": "skhep_nn.training.sklearn_callbacks",
    "skhep_nn._calo_cnn": "skhep_nn.networks.calo",
    "skhep_nn._calo_layers": "skhep_nn.networks.conv_layers",
    "skhep_nn._conv_net": "skhep_nn.networks.conv_base",
    "skhep_nn._corner_plot": "skhep_nn.plotting.search_dependence",
    "skhep_nn._cuda": "skhep_nn.training.cuda_graphs",
    "skhep_nn._cuda_rows": "skhep_nn.training.cuda_loader",
    "skhep_nn._decorrelation": "skhep_nn.metrics.correlation",
    "skhep_nn._dense_chain": "skhep_nn.networks.dense_chain",
    "skhep_nn._dense_forward": "skhep_nn.kernels.cpu_forward",
    "skhep_nn._dense_kernels": "skhep_nn.kernels.gpu",
    "skhep_nn._dense_layers": "skhep_nn.networks.dense_layers",
    "skhep_nn._dense_layout": "skhep_nn.kernels.gpu_layout",
    "skhep_nn._dense_step": "skhep_nn.kernels.cpu_step",
    "skhep_nn._dense_triton": "skhep_nn.kernels.triton_kernels",
    "skhep_nn._drawing": "skhep_nn.plotting.axes",
    "skhep_nn._embedding_display": "skhep_nn.plotting.embedding",
    "skhep_nn._events": "skhep_nn.inputs.events",
    "skhep_nn._extras": "skhep_nn.utils.optional",
    "skhep_nn._feature_maps": "skhep_nn.inspection.maps",
    "skhep_nn._feature_study": "skhep_nn.inspection.feature_importance",
    "skhep_nn._feature_study_display": "skhep_nn.plotting.feature_importance",
    "skhep_nn._feature_table": "skhep_nn.inspection.feature_table",
    "skhep_nn._folds": "skhep_nn.utils.folds",
    "skhep_nn._grid_estimator": "skhep_nn.estimators.grids",
    "skhep_nn._grids": "skhep_nn.inputs.transformers",
    "skhep_nn._heatmap": "skhep_nn.plotting.heatmap",
    "skhep_nn._held_states": "skhep_nn.training.batch_norm",
    "skhep_nn._history_display": "skhep_nn.plotting.history",
    "skhep_nn._hyper_candidates": "skhep_nn.tuning.ensemble_selection",
    "skhep_nn._image_augmentation": "skhep_nn.augmentation.images",
    "skhep_nn._image_display": "skhep_nn.plotting.images",
    "skhep_nn._image_drawing": "skhep_nn.plotting.image_grid",
    "skhep_nn._image_preprocessing": "skhep_nn.preprocessing.images",
    "skhep_nn._images": "skhep_nn.inputs.images",
    "skhep_nn._inner_splits": "skhep_nn.estimators.augmented",
    "skhep_nn._losses": "skhep_nn.networks.losses",
    "skhep_nn._lr_range": "skhep_nn.tuning.lr_range",
    "skhep_nn._lr_range_display": "skhep_nn.plotting.lr_range",
    "skhep_nn._mass_penalty": "skhep_nn.estimators.decorrelation",
    "skhep_nn._member_groups": "skhep_nn.training.cpu_parallel",
    "skhep_nn._member_layers": "skhep_nn.networks.member_layers",
    "skhep_nn._member_settings": "skhep_nn.training.member_hyperparameters",
    "skhep_nn._momenta": "skhep_nn.kinematics.momenta",
    "skhep_nn._outcome": "skhep_nn.training.run",
    "skhep_nn._params": "skhep_nn.estimators.parameters",
    "skhep_nn._prediction": "skhep_nn.ensemble.prediction",
    "skhep_nn._prediction_display": "skhep_nn.plotting.predictions",
    "skhep_nn._rank_correlation": "skhep_nn.inspection.rank_correlation",
    "skhep_nn._reader_threads": "skhep_nn.inputs.shuffled_chunks",
    "skhep_nn._reliability_display": "skhep_nn.plotting.reliability",
    "skhep_nn._schedule_display": "skhep_nn.plotting.schedule",
    "skhep_nn._score_display": "skhep_nn.plotting.scores",
    "skhep_nn._sculpting": "skhep_nn.metrics.sculpting",
    "skhep_nn._sculpting_display": "skhep_nn.plotting.mass_sculpting",
    "skhep_nn._search_axes": "skhep_nn.tuning.axes",
    "skhep_nn._search_candidates": "skhep_nn.tuning.candidates",
    "skhep_nn._search_display": "skhep_nn.plotting.search_heatmap",
    "skhep_nn._search_model": "skhep_nn.tuning.surrogate",
    "skhep_nn._search_model_display": "skhep_nn.plotting.search_dependence",
    "skhep_nn._search_progress_display": "skhep_nn.plotting.search_progress",
    "skhep_nn._search_proposals": "skhep_nn.tuning.proposals",
    "skhep_nn._seeds": "skhep_nn.utils.random",
    "skhep_nn._shuffled_chunks": "skhep_nn.inputs.shuffled_chunks",
    "skhep_nn._split_dense_net": "skhep_nn.networks.split_dense",
    "skhep_nn._step_rates": "skhep_nn.training.optimizers",
    "skhep_nn._stored_frames": "skhep_nn.utils.stored_frames",
    "skhep_nn._streams": "skhep_nn.training.streamed_batches",
    "skhep_nn._tables": "skhep_nn.estimators.tables",
    "skhep_nn._tasks": "skhep_nn.estimators.targets",
    "skhep_nn._together": "skhep_nn.tuning.joint_fit",
    "skhep_nn._tolerance": "skhep_nn.metrics.tolerance",
    "skhep_nn._torch_state": "skhep_nn.utils.torch_state",
    "skhep_nn._training": "skhep_nn.training.net",
    "skhep_nn._waveform_augmentation": "skhep_nn.augmentation.waveforms",
    "skhep_nn._waveform_cnn": "skhep_nn.networks.waveform",
    "skhep_nn._waveform_layers": "skhep_nn.networks.waveform_layers",
    "skhep_nn._waveform_preprocessing": "skhep_nn.preprocessing.waveforms",
    "skhep_nn._waveforms": "skhep_nn.inputs.waveforms",
    "skhep_nn._weights": "skhep_nn.utils.validation",
    "skhep_nn._workers": "skhep_nn.utils.parallel",
    "skhep_nn.architecture_search": "skhep_nn.tuning",
    "skhep_nn.augmented": "skhep_nn.estimators",
    "skhep_nn.averaging": "skhep_nn.training",
    "skhep_nn.calo": "skhep_nn.estimators",
    "skhep_nn.datasets._random": "skhep_nn.utils.random",
    "skhep_nn.dense": "skhep_nn.estimators",
    "skhep_nn.export": "skhep_nn.io",
    "skhep_nn.hyper_ensemble": "skhep_nn.tuning",
    "skhep_nn.persistence": "skhep_nn.io",
    "skhep_nn.schedules": "skhep_nn.training",
    "skhep_nn.stacking": "skhep_nn.estimators",
    "skhep_nn.waveform": "skhep_nn.estimators",
}
"""Full name of an old module, and of the module that holds its contents today."""

RENAMED: dict[str, str] = {
    "skhep_nn.ensemble.Views": "skhep_nn.ensemble.prediction.Views",
    "skhep_nn.ensemble.apply_link": "skhep_nn.ensemble.prediction.apply_link",
    "skhep_nn.ensemble.separate_members": "skhep_nn.networks.stacks.separate_members",
    "skhep_nn.ensemble.stacked_state": "skhep_nn.networks.stacks.stacked_state",
    "skhep_nn.kinematics.CartesianMomenta": "skhep_nn.preprocessing.CartesianMomenta",
    "skhep_nn.kinematics.EventAligner": "skhep_nn.preprocessing.EventAligner",
    "skhep_nn.metrics._ams_of_predictions": "skhep_nn.metrics.ams_of_predictions",
}
"""Old place of a name whose module still exists, and its place today."""


class _MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import hook for the old names. It is the last finder, so that it sees only names not found elsewhere."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002 - the signature of importlib
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Return a specification for modules in the table, None for all others."""
        if fullname not in MOVED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, origin=f"moved to {MOVED[fullname]}")

    def exec_module(self, module: ModuleType) -> None:
        """Give the old module a `__getattr__` that imports the new module on first use."""
        vars(module)["__getattr__"] = former_names(module.__name__)


def former_names(module: str) -> Callable[[str], Any]:
    """Return the `__getattr__` of a module whose names have moved.

    Parameters
    ----------
    module : str
        Full name of a module in `MOVED`, or of an existing module with names in `RENAMED`.
    """

    def find(name: str) -> Any:
        # Tools look up names such as __path__ and __file__ on any module without using it.
        place = None if name.startswith("__") else _place(module, name)
        if place is None:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, _, attribute = place.rpartition(".")
        found = getattr(importlib.import_module(new), attribute)
        warnings.warn(
            f"{module}.{name} has moved to {place}: import it from there, and save models again "
            "that were stored under the old name.",
            DeprecationWarning,
            stacklevel=2,
        )
        return found

    return find


def _place(module: str, name: str) -> str | None:
    """Return the full name today of a name in an old module, or None."""
    if module in MOVED:
        return f"{MOVED[module]}.{name}"
    return RENAMED.get(f"{module}.{name}")


_FINDER = _MovedModules()


def register() -> None:
    """Add the import hook; a second call changes nothing."""
    if _FINDER not in sys.meta_path:
        sys.meta_path.append(_FINDER)


# On import, as the files `__init__.py` hold imports only.
register()
