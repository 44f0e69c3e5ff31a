"""The data of the 2014 ATLAS Higgs challenge: reading its files, downloading the public one."""

import csv
import gzip
import os
import zlib
from collections.abc import Collection, Iterable
from math import isfinite
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.utils import Bunch

from skhep_nn.datasets._download import cached_download
from skhep_nn.datasets._file_errors import errors_name_file

__all__ = ["HIGGSML_FEATURES", "HIGGSML_TOTALS", "HIGGSML_URL", "fetch_higgsml", "load_higgsml"]

HIGGSML_URL = "https://opendata.cern.ch/record/328/files/atlas-higgs-challenge-2014-v2.csv.gz"
"""The file on CERN Open Data, record 328, DOI 10.7483/OPENDATA.ATLAS.ZBP2.M5T8."""

HIGGSML_TOTALS = {"s": 691.9886, "b": 410999.8473}
"""Sum of the weights of each class in the 250,000 training events: expected events in 2012."""

HIGGSML_FEATURES = (
    "DER_mass_MMC",
    "DER_mass_transverse_met_lep",
    "DER_mass_vis",
    "DER_pt_h",
    "DER_deltaeta_jet_jet",
    "DER_mass_jet_jet",
    "DER_prodeta_jet_jet",
    "DER_deltar_tau_lep",
    "DER_pt_tot",
    "DER_sum_pt",
    "DER_pt_ratio_lep_tau",
    "DER_met_phi_centrality",
    "DER_lep_eta_centrality",
    "PRI_tau_pt",
    "PRI_tau_eta",
    "PRI_tau_phi",
    "PRI_lep_pt",
    "PRI_lep_eta",
    "PRI_lep_phi",
    "PRI_met",
    "PRI_met_phi",
    "PRI_met_sumet",
    "PRI_jet_num",
    "PRI_jet_leading_pt",
    "PRI_jet_leading_eta",
    "PRI_jet_leading_phi",
    "PRI_jet_subleading_pt",
    "PRI_jet_subleading_eta",
    "PRI_jet_subleading_phi",
    "PRI_jet_all_pt",
)
"""The 30 features in the order of the file; energies, momenta and masses in GeV, angles in rad."""

_MISSING = -999.0
_LETTERS = {"Label": ("s", "b"), "KaggleSet": ("t", "b", "v", "u")}
_NUMBERS = frozenset({"EventId", "Weight", "KaggleWeight", *HIGGSML_FEATURES})
_FILE_NAME = "atlas-higgs-challenge-2014-v2.csv.gz"
# Errors of pandas, gzip and zlib for files that are damaged or cut off.
_DAMAGED = (ValueError, EOFError, OSError, zlib.error, csv.Error)

_DESCR = """\
Simulated events of the 2014 ATLAS Higgs challenge: h -> tau tau (label s) against Z -> tau tau, top
pairs and W + jets (label b), with one tau decayed to hadrons and one to an electron or a muon.

data: 30 features (13 DER_ derived from 17 PRI_), GeV and rad, missing values NaN.
sample_weight: KaggleWeight, normalised within each KaggleSet, or Weight where the file has no other.
kaggle_set: t training, b public test, v private test, u unused.

The ATLAS collaboration, DOI 10.7483/OPENDATA.ATLAS.ZBP2.M5T8, CERN Open Data record 328.
"""


def load_higgsml(path: str | os.PathLike[str], *, subset: str | None = None) -> Bunch:
    r"""Read a file of the 2014 ATLAS Higgs challenge.

    It may be the csv of CERN Open Data (35 columns), ``training.csv`` or ``test.csv`` of Kaggle, or a
    parquet of the same columns; csv also compressed by gzip. The content determines the format, not
    the name. Further columns are ignored.

    Parameters
    ----------
    path : str or path-like
        The file.
    subset : str, default=None
        Letters of the ``KaggleSet`` to keep: ``"t"`` training, ``"b"`` public test, ``"v"`` private
        test, ``"u"`` unused; ``"bv"`` is the whole test set. None keeps all events.

    Returns
    -------
    Bunch
        - ``data``: DataFrame of shape (n_events, 30), float64 in GeV and rad, but int64
          ``PRI_jet_num``; -999.0 becomes NaN.
        - ``target``: str array of ``"s"`` and ``"b"``, None for ``test.csv``.
        - ``sample_weight``: the column ``KaggleWeight`` where there is one, else ``Weight``, else None.
          ``KaggleWeight`` is normalised within each set and is the weight that the AMS of the challenge needs.
        - ``kaggle_set``: str array of ``"t"``, ``"b"``, ``"v"``, ``"u"``, or None.
        - ``event_id``: int64 array.
        - ``feature_names``: list of the column names of ``data``.
        - ``DESCR``: description.

    Raises
    ------
    ValueError
        If columns are missing, a row has the wrong number of fields, a value does not fit its
        column, or the file is cut off or empty. The message names the row (0 is the first event) and the
        column. Also if a column is there twice, if `subset` is unknown or matches no event, or if the
        file has no ``KaggleSet``.
    OSError
        If there is no such file, or it cannot be opened.
    ImportError
        If the file is parquet and pyarrow is not installed.

    References
    ----------
    The ATLAS collaboration, DOI 10.7483/OPENDATA.ATLAS.ZBP2.M5T8; C. Adam-Bourdarios et al., "The
    Higgs boson machine learning challenge", PMLR 42 (2015); G. C. Strong, arXiv:2002.01427.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from skhep_nn.datasets.higgsml import HIGGSML_FEATURES, load_higgsml
    >>> header = ",".join(["EventId", *HIGGSML_FEATURES, "Weight", "Label"])
    >>> event = ",".join(["100000", "-999.0", *["1"] * 29, "0.5", "s"])
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "training.csv"
    ...     n_characters = path.write_text("\n".join([header, event]))
    ...     higgs = load_higgsml(path)
    >>> higgs.target, higgs.sample_weight
    (array(['s'], dtype='<U1'), array([0.5]))
    >>> higgs.data[["DER_mass_MMC", "PRI_tau_pt", "PRI_jet_num"]]
       DER_mass_MMC  PRI_tau_pt  PRI_jet_num
    0           NaN         1.0            1
    """
    path = Path(path).expanduser()
    known = isinstance(subset, str) and subset and set(subset) <= set(_LETTERS["KaggleSet"])
    if subset is not None and not known:
        raise ValueError(f"subset={subset!r} must be letters of 't', 'b', 'v', 'u', or None")
    with path.open("rb") as file:
        magic = file.read(4)
    with errors_name_file(path, " is damaged"):
        if magic == b"PAR1":
            frame = _read_parquet(path)
        else:
            frame = _read_csv(path, gzipped=magic[:2] == b"\x1f\x8b")
        if frame.empty:
            raise ValueError(f"{path} holds no events")
        return _select(_check_values(frame, path), subset, path)


def fetch_higgsml(
    *,
    data_home: str | os.PathLike[str] | None = None,
    force: bool = False,
    subset: str | None = None,
    url: str = HIGGSML_URL,
    known_hash: str | None = None,
    progressbar: bool = False,
) -> Bunch:
    """Download the data of the 2014 ATLAS Higgs challenge from CERN Open Data, once.

    The file holds 818,238 events. A download enters the cache only when it is complete: its gzip
    checksum is correct and all columns exist. A failed download leaves the cache unchanged.

    Parameters
    ----------
    data_home : str or path-like, default=None
        Folder of the cache. None takes the environment variable ``SKHEP_NN_DATA_HOME``, or the cache
        folder of the operating system.
    force : bool, default=False
        Download even if the file is in the cache.
    subset : str, default=None
        As in :func:`load_higgsml`.
    url : str, default=HIGGSML_URL
        Where to download from, for a mirror of the same file.
    known_hash : str, default=None
        Hash that the file must have, e.g. ``"sha256:..."``. By default only the
        gzip checksum and https protect the download. pooch logs the hash of every download made without one.
    progressbar : bool, default=False
        Show a progress bar, which needs tqdm.

    Returns
    -------
    Bunch
        As returned by :func:`load_higgsml`.

    Raises
    ------
    ImportError
        If pooch is not installed.
    OSError
        If the download fails, is cut off, or is another file.

    Examples
    --------
    >>> from skhep_nn.datasets.higgsml import fetch_higgsml
    >>> higgs = fetch_higgsml(subset="t")  # doctest: +SKIP
    >>> higgs.data.shape  # doctest: +SKIP
    (250000, 30)
    """
    path = cached_download(
        url,
        _FILE_NAME,
        check=_check_download,
        data_home=data_home,
        force=force,
        known_hash=known_hash,
        progressbar=progressbar,
    )
    return load_higgsml(path, subset=subset)


def _check_download(path: Path) -> None:
    """Refuse a download that is cut off, damaged or another file."""
    try:
        with gzip.open(path) as stream:
            header = stream.readline(1 << 16)
            while stream.read(1 << 20):
                pass
    except (EOFError, OSError, zlib.error) as error:
        raise ValueError(f"the download is cut off or not a gzip file ({error})") from error
    _check_columns(header.decode(errors="replace").strip().split(","), "the download")


def _check_columns(columns: Collection[str], source: str | Path) -> None:
    """Refuse a file without the columns that every file of the challenge has."""
    # pandas appends a number to the name of a column that it has read before.
    given = [str(name).removesuffix(".1") for name in columns]
    twice = [name for name in (*sorted(_NUMBERS), *_LETTERS) if given.count(name) > 1]
    if twice:
        raise ValueError(f"{source}: columns {twice} are there more than once; remove all but one")
    missing = [name for name in ("EventId", *HIGGSML_FEATURES) if name not in columns]
    weighted = "Weight" in columns or "KaggleWeight" in columns
    if weighted and "Label" not in columns:
        missing.append("Label")
    if "Label" in columns and not weighted:
        missing.append("Weight or KaggleWeight")
    if missing:
        raise ValueError(
            f"{source}: missing columns {missing}; expected EventId, the 30 features, and Label with "
            "Weight or KaggleWeight unless it is the unlabelled test.csv"
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    """Read a parquet file with the columns of the challenge."""
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ImportError("pyarrow is needed to read parquet: pip install pyarrow") from error
    except _DAMAGED as error:
        raise ValueError(f"{path} is cut off or no parquet file: {error}") from error
    _check_columns(frame.columns, path)
    return frame


def _read_csv(path: Path, *, gzipped: bool) -> pd.DataFrame:
    """Read a csv by pandas' fast engine; look for the broken row only where that fails."""
    compression: Any = "gzip" if gzipped else None
    try:
        columns = pd.read_csv(path, compression=compression, nrows=0).columns
    except _DAMAGED as error:
        reason = _find_broken_row(path, gzipped) or error
        raise ValueError(f"{path} is no readable csv, gzip or parquet file: {reason}") from error
    _check_columns(columns, path)
    types = {
        **{name: "float64" for name in columns if name in _NUMBERS},
        **{name: "category" for name in columns if name in _LETTERS},
    }
    try:
        # Without the NA filter an empty field, so also a short row, is an error instead of a NaN.
        frame = pd.read_csv(
            path, compression=compression, dtype=cast("Any", types), na_filter=False
        )
    except _DAMAGED as error:
        raise ValueError(f"{path}: {_find_broken_row(path, gzipped) or error}") from error
    if not frame.index.equals(pd.RangeIndex(len(frame))):
        # Rows longer than the header: pandas took their first fields for an index.
        raise ValueError(f"{path}: {_find_broken_row(path, gzipped)}")
    return frame


def _find_broken_row(path: Path, gzipped: bool) -> str:
    """Describe the first broken row of a csv; empty if all rows are good."""
    row = -1
    try:
        with gzip.open(path) if gzipped else path.open("rb") as stream:
            lines = (line.decode("utf-8-sig") for line in cast("Iterable[bytes]", stream))
            reader = csv.reader(lines)
            header = next(reader, [])
            for row, fields in enumerate(filter(None, reader)):
                problem = _row_problem(header, fields)
                if problem:
                    return f"row {row} (line {reader.line_num}) {problem}"
    except _DAMAGED as error:
        return f"cut off or damaged after {row + 1} whole rows: {error}"
    return ""


def _row_problem(header: list[str], fields: list[str]) -> str:
    """Describe the problem in the fields of one row; empty if they are good."""
    if len(fields) != len(header):
        return f"has {len(fields)} fields, expected {len(header)}"
    for name, text in zip(header, fields, strict=True):
        if name in _NUMBERS and not _is_number(text):
            return f"column {name!r}: {text!r} is not a number"
    return ""


def _is_number(text: str) -> bool:
    """Whether a field holds a finite number; Python's form 1_000 is not valid in a csv."""
    try:
        return isfinite(float(text)) and "_" not in text
    except ValueError:
        return False


def _check_values(frame: pd.DataFrame, path: Path) -> dict[str, Any]:
    """Turn the columns into checked arrays."""
    features = _numbers(frame, HIGGSML_FEATURES, path)
    _refuse(np.isinf(features), frame, HIGGSML_FEATURES, path, "a finite number")
    features[features == _MISSING] = np.nan
    data = pd.DataFrame(features, columns=list(HIGGSML_FEATURES))
    data["PRI_jet_num"] = _integers(frame, "PRI_jet_num", path)
    weight = next((name for name in ("KaggleWeight", "Weight") if name in frame), None)
    if weight is not None:
        weights = _numbers(frame, (weight,), path)
        _refuse(~np.isfinite(weights), frame, (weight,), path, "a finite number")
    return {
        "data": data,
        "target": _letters(frame, "Label", path),
        "sample_weight": None if weight is None else weights[:, 0],
        "kaggle_set": _letters(frame, "KaggleSet", path),
        "event_id": _integers(frame, "EventId", path),
    }


def _numbers(frame: pd.DataFrame, names: tuple[str, ...], path: Path) -> npt.NDArray[np.float64]:
    """Return columns as one float64 array."""
    columns = frame[list(names)]
    times = np.array([[dtype.kind in "mM" for dtype in columns.dtypes]])
    _refuse(times.repeat(len(frame), axis=0), frame, names, path, "a number")
    try:
        return columns.to_numpy(dtype=np.float64, na_value=np.nan, copy=True)
    except (TypeError, ValueError):
        numbers = columns.apply(pd.to_numeric, errors="coerce")
        _refuse((numbers.isna() & columns.notna()).to_numpy(), frame, names, path, "a number")
        raise


def _integers(frame: pd.DataFrame, name: str, path: Path) -> npt.NDArray[np.int64]:
    """Return a column of whole numbers as int64."""
    values = _numbers(frame, (name,), path)
    # Beyond 2**53, neighbouring whole numbers are one floating-point number.
    whole = (values == np.floor(values)) & (values >= 0) & (values < 2**53)
    _refuse(~whole, frame, (name,), path, "a whole number, zero or more, below 2**53")
    return values[:, 0].astype(np.int64)


def _letters(frame: pd.DataFrame, name: str, path: Path) -> npt.NDArray[np.str_] | None:
    """Return a column of known letters as a str array, None where there is no such column."""
    if name not in frame:
        return None
    allowed = _LETTERS[name]
    expected = " or ".join(map(repr, allowed))
    _refuse(~frame[[name]].isin(allowed).to_numpy(), frame, (name,), path, expected)
    return frame[name].to_numpy(dtype="U1")


def _refuse(
    bad: npt.NDArray[np.bool_],
    frame: pd.DataFrame,
    names: tuple[str, ...],
    path: Path,
    expected: str,
) -> None:
    """Raise an error that names the first bad value, if there is one."""
    if bad.any():
        row, column = np.argwhere(bad)[0]
        name = names[column]
        event = str(frame["EventId"].iloc[row]).removesuffix(".0")
        raise ValueError(
            f"{path}: row {row} (EventId {event}), column {name!r}: got "
            f"{frame[name].iloc[row]!r}, expected {expected}; {int(bad.any(axis=1).sum())} rows of "
            f"{len(frame)} are wrong"
        )


def _select(columns: dict[str, Any], subset: str | None, path: Path) -> Bunch:
    """Bundle the columns, restricted to some KaggleSets."""
    if subset is not None:
        if columns["kaggle_set"] is None:
            raise ValueError(f"{path} has no column KaggleSet to take subset={subset!r} from")
        rows = np.isin(columns["kaggle_set"], list(subset))
        if not rows.any():
            found = sorted(set(columns["kaggle_set"].tolist()))
            raise ValueError(f"{path} has no event of subset={subset!r}, only of {found}")
        columns = {
            name: None if values is None else values[rows] for name, values in columns.items()
        }
        columns["data"] = columns["data"].reset_index(drop=True)
    return Bunch(**columns, feature_names=list(HIGGSML_FEATURES), DESCR=_DESCR)
