"""Storing of fitted estimators without pickle."""

from __future__ import annotations

import importlib
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skhep_nn._extras import needs
from skhep_nn._version import __version__

__all__ = ["load", "save"]

_OURS = "skhep_nn."


def _import_skops_io() -> Any:
    with needs("skops", "store"):
        import skops.io
    return skops.io


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Store a fitted estimator in a file that needs no pickle.

    The file is a zip archive of numpy arrays and a description in JSON, written by skops. Unlike a pickle it can
    make nothing but objects of classes that whoever loads it knows. It is loaded again before it is kept:
    what `save` accepts can be read.

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
    FileNotFoundError
        If there is no such folder.
    TypeError
        If something in the estimator cannot be stored so: functions without a name of their own, such as
        lambdas, dictionaries whose keys JSON cannot tell apart, objects that refer to themselves, such as scipy's
        ``randint(1, 4)``.

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
    path = writable(path)
    try:
        stored = _stored(estimator, sio)
    except Exception as error:
        msg = (
            f"{type(estimator).__name__} holds something that cannot be stored without pickle"
            f"{_where(estimator, sio)}: {_reason(error)}. joblib.dump can, for files that only people who "
            "trust you load."
        )
        raise TypeError(msg) from error
    # In a folder of its own: others may be storing to the same place.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
        complete = Path(folder) / path.name
        complete.write_bytes(stored)
        complete.replace(path)


def writable(path: str | os.PathLike[str]) -> Path:
    """Return where a file is to be written, in a folder that is there."""
    path = Path(path).expanduser().resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    return path


def _stored(value: Any, sio: Any) -> bytes:
    """Return what a file holds of a value, which comes back from it."""
    stored: bytes = sio.dumps(value, compression=zipfile.ZIP_DEFLATED)
    again = sio.loads(stored, trusted=sio.get_untrusted_types(data=stored))
    _check_keys(value, again, {})
    return stored


def _check_keys(one: Any, other: Any, seen: dict[int, Any]) -> None:
    """Check that what was loaded has the keys of what was stored: JSON knows text only.

    What has been `seen` is held, so that no other object gets its number.
    """
    if id(one) in seen or isinstance(one, type | np.ndarray | str | bytes):
        return
    seen[id(one)] = one
    if isinstance(one, dict):
        if one.keys() != other.keys():
            raise TypeError(
                f"a dictionary with the keys {list(one)} would come back with {list(other)}"
            )
        for key, value in one.items():
            _check_keys(value, other[key], seen)
    elif isinstance(one, list | tuple):
        for a, b in zip(one, other, strict=True):
            _check_keys(a, b, seen)
    elif hasattr(one, "__dict__"):
        parts = one.__getstate__(), other.__getstate__()
        if all(isinstance(part, dict) for part in parts):
            # What only one of them has is of the moment, such as a cache.
            a, b = (
                {name: part[name] for name in parts[0].keys() & parts[1].keys()} for part in parts
            )
            _check_keys(a, b, seen)


def _where(estimator: Any, sio: Any) -> str:
    """Name the innermost parameter that cannot be stored, if it is one."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    failing = []
    for name, value in params.items():
        try:
            _stored(value, sio)
        except Exception:  # noqa: BLE001 - whatever it is, it is the culprit
            failing.append(name)
    if not failing:
        return ""
    innermost = max(failing, key=len)
    return f", the parameter {innermost}={params[innermost]!r}"


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it refers to itself"
    return str(error)


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
    TypeError
        If `trusted` is no list of names.
    ValueError
        If the file was not written by `save`, is damaged, or holds types that are not trusted or that this
        version does not know.

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
    path = Path(path).expanduser()
    names: Any = [trusted] if isinstance(trusted, str) else trusted
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"trusted must be a list of names of types, got {trusted!r}.")
    if not zipfile.is_zipfile(path):
        # A missing file is told as such.
        with path.open("rb"):
            raise ValueError(f"{path} was not written by skhep_nn.save.")
    try:
        named = sio.get_untrusted_types(file=path)
    except Exception as error:
        msg = f"{path} was not written by skhep_nn.save, is damaged, or of another version: {error}"
        raise ValueError(msg) from error
    ours = [name for name in named if _is_our_class(name)]
    unknown = sorted(set(named) - set(ours) - set(names))
    if missing := [name for name in unknown if name.startswith(_OURS)]:
        msg = f"{path} holds {', '.join(missing)}, which skhep_nn {__version__} does not have: load it with the version that stored it."
        raise ValueError(msg)
    if unknown:
        msg = (
            f"{path} holds {', '.join(unknown)}, which may run code or crash. If you trust whoever wrote it: "
            f"load(path, trusted={unknown})"
        )
        raise ValueError(msg)
    try:
        return sio.load(path, trusted=[*ours, *names])
    except Exception as error:
        raise ValueError(f"{path} is damaged, or of another version: {error}") from error


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
