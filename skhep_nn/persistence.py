"""Storing of fitted estimators without pickle."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["load", "save"]

_OURS = "skhep_nn."


def _import_skops_io() -> Any:
    try:
        import skops.io
    except ImportError as error:
        raise ImportError("skops is needed for this: pip install 'skhep_nn[store]'") from error
    return skops.io


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Store a fitted estimator in a file that needs no pickle.

    The file is a zip archive of numpy arrays and a description in JSON, written by skops. Unlike a pickle it
    runs no code of its own when it is loaded.

    Parameters
    ----------
    estimator : estimator
        One of this package, a Pipeline or any other estimator of scikit-learn's around it.
    path : path
        File to write, by custom with the ending ``.skops``. One that exists is replaced once the new one is
        complete.

    Raises
    ------
    ImportError
        If skops is not installed.
    TypeError
        If something in the estimator cannot be stored so, such as a lambda.

    See Also
    --------
    load : The way back.
    to_onnx : For prediction without Python.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skhep_nn import DenseNetClassifier, load, make_higgs_events, save
    >>> events = make_higgs_events(300, random_state=0)
    >>> X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    >>> model = DenseNetClassifier(max_epochs=2, random_state=0).fit(X, events.target)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, Path(folder) / "model.skops")
    ...     loaded = load(Path(folder) / "model.skops")
    >>> bool((loaded.predict_proba(X) == model.predict_proba(X)).all())
    True
    """
    sio = _import_skops_io()
    try:
        stored = sio.dumps(estimator, compression=zipfile.ZIP_DEFLATED)
    except Exception as error:
        msg = (
            f"{type(estimator).__name__} holds something that cannot be stored without pickle ({error}). "
            "joblib.dump can, for files that only people who trust you load."
        )
        raise TypeError(msg) from error
    path = Path(path)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_bytes(stored)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def load(path: str | os.PathLike[str], *, trusted: Sequence[str] = ()) -> Any:
    """Load an estimator that `save` has stored.

    Classes of this package, and of scikit-learn and numpy those that skops takes for safe, are made without
    asking. Others are named in an error, and nothing is made of them unless they are listed as `trusted`.

    Parameters
    ----------
    path : path
        File to read.
    trusted : sequence of str, default=()
        Further types that may be made, as the error names them. A forest, for instance, needs
        ``"sklearn.tree._tree.Tree"``, whose arrays scikit-learn does not check: trust it in files of
        people whom you trust.

    Returns
    -------
    estimator
        Predicts as the stored one does, on the devices of this machine.

    Raises
    ------
    ImportError
        If skops is not installed.
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no estimator, or types that are not trusted.

    See Also
    --------
    save : The way there.

    Notes
    -----
    Private attributes may differ between versions: load with the versions of skhep_nn and scikit-learn that
    stored the file.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.ensemble import RandomForestClassifier
    >>> from skhep_nn import load, make_higgs_events, save
    >>> events = make_higgs_events(300, random_state=0)
    >>> X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    >>> forest = RandomForestClassifier(n_estimators=3, random_state=0).fit(X, events.target)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "forest.skops"
    ...     save(forest, path)
    ...     loaded = load(path, trusted=["sklearn.tree._tree.Tree"])
    >>> loaded.n_estimators
    3
    """
    sio = _import_skops_io()
    path = Path(path)
    if not zipfile.is_zipfile(path):
        # A missing file is told as such.
        with path.open("rb"):
            raise ValueError(f"{path} was not written by skhep_nn.save.")
    try:
        named = sio.get_untrusted_types(file=path)
    except Exception as error:
        raise ValueError(f"{path} was not written by skhep_nn.save, or is damaged.") from error
    ours = [name for name in named if _is_our_class(name)]
    unknown = sorted(set(named) - set(ours) - set(trusted))
    if unknown:
        msg = (
            f"{path} holds {', '.join(unknown)}, which may run code or crash. If you trust whoever wrote it: "
            f"load(path, trusted={unknown})"
        )
        raise ValueError(msg)
    return sio.load(path, trusted=[*ours, *trusted])


def _is_our_class(name: str) -> bool:
    """Whether a name is that of a class of this package, not of something that a module imports."""
    if not name.startswith(_OURS):
        return False
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError):
        return False
    return isinstance(found, type) and found.__module__ == module
