"""Storage of fitted estimators without pickle."""

from __future__ import annotations

import json
import os
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from skhep_nn._version import __version__
from skhep_nn.io import stored_types
from skhep_nn.io.archive import DESCRIPTION, ChecksumError, archive, pack, unpack
from skhep_nn.io.loaded_checks import check_loaded
from skhep_nn.utils.optional import needs

__all__ = ["load", "save"]

# The first release of `save` used skops 0.16 and its protocol. skops reads older protocols by laxer rules.
_OLDEST_PROTOCOL = 2


def _import_skops_io() -> Any:
    with needs("skops", "store"):
        import skops.io
    return skops.io


def save(estimator: Any, path: str | os.PathLike[str]) -> None:
    """Store a fitted estimator in a file that needs no pickle.

    The file is a zip archive of numpy arrays and a description in JSON, written by skops. Unlike a pickle it
    cannot run code when it is loaded: it only names types, and `load` accepts types from a fixed list. A checksum
    of the content reveals damage. Before the file is put in place it is loaded once, so that every file that
    `save` writes can be read.

    Parameters
    ----------
    estimator : estimator
        Estimator of this package, or one of scikit-learn's that contains it, such as a Pipeline.
    path : path
        File to write, by convention with the ending ``.skops``. An existing file is replaced only after the new
        one is complete.

    Raises
    ------
    ImportError
        If skops is not installed.
    FileNotFoundError
        If the folder does not exist.
    TypeError
        If the estimator holds something that cannot be stored without pickle: a function that cannot be imported
        by name, such as a lambda; a dictionary with keys that are the same in JSON; or an object that refers to
        itself, such as scipy's ``randint(1, 4)``.

    See Also
    --------
    load : Loads the estimator again.
    to_onnx : Exports a network for prediction without Python.

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
            f"{_where(estimator, sio)}: {_reason(error)}. joblib.dump can store it, in a file that only "
            "people who trust you should load."
        )
        raise TypeError(msg) from error
    replace_file(path, stored)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside the given path, and move it there once it is complete.

    A full disk or a killed process leaves the old file as it was.
    """
    try:
        # A folder for each call keeps two processes that write to the same path apart.
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            complete = Path(folder) / path.name
            complete.write_bytes(content)
            complete.replace(path)
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written: {error.strerror}") from error


def writable(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a file to write, after a check that its folder exists."""
    path = Path(path).expanduser().resolve()
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    return path


def _stored(value: Any, sio: Any) -> bytes:
    """Return the content of a file that stores a value, after loading it once as a check."""
    entries = unpack(sio.dumps(value))
    # Without the blanks of skops, the description takes half of the memory.
    description = json.dumps(json.loads(entries[DESCRIPTION]), separators=(",", ":"))
    entries[DESCRIPTION] = description.encode()
    data, _ = _checked(entries)
    again = sio.loads(data, trusted=sio.get_untrusted_types(data=data))
    _check_keys(value, again, {})
    return pack(entries)


def _checked(entries: dict[str, bytes]) -> tuple[bytes, set[str]]:
    """Return an archive that is safe to give to skops, and the types in it that can crash at prediction."""
    try:
        description = json.loads(entries[DESCRIPTION])
    except ValueError as error:
        raise ValueError(f"a {DESCRIPTION} that is no JSON ({error})") from error
    if not isinstance(description, dict):
        raise ValueError(f"a {DESCRIPTION} that describes no object")  # noqa: TRY004 - of a file
    protocol = description.get("protocol")
    if isinstance(protocol, int) and protocol < _OLDEST_PROTOCOL:
        raise ValueError(f"protocol {protocol} of skops, which skhep_nn.save has never written")
    stored_types.rename(description)
    stored_types.check(description)
    content = entries | {DESCRIPTION: json.dumps(description).encode()}
    return archive(content), stored_types.crashing(description)


def _check_keys(one: Any, other: Any, seen: dict[int, Any]) -> None:
    """Check that a loaded object has the same dictionary keys as the stored one: JSON turns keys into text.

    `seen` holds the objects that are already checked, by `id`; holding them keeps Python from reusing an `id`.
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
            # An attribute that only one object has is temporary, such as a cache.
            a, b = (
                {name: part[name] for name in parts[0].keys() & parts[1].keys()} for part in parts
            )
            _check_keys(a, b, seen)


def _where(estimator: Any, sio: Any) -> str:
    """Return words that name the innermost parameter that cannot be stored; empty if there is none."""
    params = estimator.get_params() if hasattr(estimator, "get_params") else {}
    failing = []
    for name, value in params.items():
        try:
            _stored(value, sio)
        except Exception:  # noqa: BLE001 - any error marks the parameter
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

    Types of this package that `save` stores, and types of scikit-learn and numpy that are safe, are loaded without
    asking. All other types are named in an error; they are neither imported nor created unless they are listed as
    `trusted`.

    Parameters
    ----------
    path : path
        File to read.
    trusted : sequence of str, default=()
        Further types of other packages that may be loaded, as named in the error. A support vector machine, for
        instance, needs ``"sklearn.svm._classes.SVC"``: scikit-learn does not check its arrays, so that a forged file
        could crash Python. Trust such types only in files from people whom you trust. Trees, forests and gradient
        boosting of scikit-learn need no trust, as `load` checks their arrays.

    Returns
    -------
    estimator
        Estimator with the predictions of the stored one, on the devices of this machine.

    Raises
    ------
    ImportError
        If skops is not installed.
    FileNotFoundError
        If the file does not exist.
    TypeError
        If `trusted` is not a list of names.
    ValueError
        If the file was not written by `save`, if its checksum shows damage, or if it holds types that are not
        trusted or that this version does not store.

    See Also
    --------
    save : Stores an estimator.

    Notes
    -----
    Files of earlier versions of skhep_nn can be loaded. The attributes of scikit-learn's estimators may differ
    between its versions: load a file with the version that stored it.

    The checksum protects against damage. It is no signature: anyone who changes a file can also write a new
    checksum.

    Loading runs no code from the file, but the parameters are those that the file gives. Look at them before you
    fit an estimator of unknown origin again: ``Pipeline(memory=...)``, for instance, reads pickles from the folder
    that it names.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.svm import SVC
    >>> from skhep_nn import load, make_higgs_events, save
    >>> events = make_higgs_events(300, random_state=0)
    >>> X = events.data[["PRI_tau_pt", "PRI_lep_pt", "PRI_met"]]
    >>> machine = SVC(C=10.0).fit(X, events.target)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "machine.skops"
    ...     save(machine, path)
    ...     loaded = load(path, trusted=["sklearn.svm._classes.SVC"])
    >>> loaded.C
    10.0
    """
    sio = _import_skops_io()
    path = Path(path).expanduser()
    names: Any = [trusted] if isinstance(trusted, str) else trusted
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"trusted must be a list of names of types, got {trusted!r}.")
    if not zipfile.is_zipfile(path):
        with path.open("rb"):  # raises FileNotFoundError where there is no file
            raise ValueError(f"{path} was not written by skhep_nn.save.")
    data, crashing = _safe_archive(path)
    known = stored_types.STORED.keys() | stored_types.SAFE.keys() | stored_types.CHECKED_TREES
    try:
        named = set(sio.get_untrusted_types(data=data))
    except Exception as error:
        msg = f"{path} was not written by skhep_nn.save, is damaged, or is from another version: {error}"
        raise ValueError(msg) from error
    unknown = sorted((named | crashing) - known - set(names))
    if unknown:
        msg = (
            f"{path} holds {', '.join(unknown)}, which may run code or crash. If you trust the author of the "
            f"file: load(path, trusted={unknown})"
        )
        raise ValueError(msg)
    return _made(path, sio, data, named, names)


def _made(path: Path, sio: Any, data: bytes, named: set[str], trusted: Collection[str]) -> Any:
    """Return the object that an archive describes, after a check of its arrays."""
    try:
        model = sio.loads(data, trusted=sorted(named))
        check_loaded(model, trusted)
    except Exception as error:
        raise ValueError(f"{path} is damaged, or is from another version: {error}") from error
    return model


def _safe_archive(path: Path) -> tuple[bytes, set[str]]:
    """Return the archive of a file for skops, after all checks that need no object, and its crashing types."""
    try:
        entries = unpack(path)
    except ChecksumError as error:
        msg = (
            f"{path} is damaged, or was changed after skhep_nn.save wrote it: {error}. Get another copy of it, or "
            "store the model again."
        )
        raise ValueError(msg) from error
    except Exception as error:
        raise ValueError(f"{path} is damaged: {error}. Get another copy of it.") from error
    if DESCRIPTION not in entries:
        raise ValueError(f"{path} was not written by skhep_nn.save: it holds no {DESCRIPTION}.")
    try:
        return _checked(entries)
    except ValueError as error:
        msg = (
            f"{path} holds {error}. It is damaged, was made by other means, or is from a later version than "
            f"{__version__}: load it with the version that stored it. trusted= does not apply to types of skhep_nn."
        )
        raise ValueError(msg) from error
    except Exception as error:
        msg = f"{path} was not written by skhep_nn.save, or is damaged: {error!r}"
        raise ValueError(msg) from error
