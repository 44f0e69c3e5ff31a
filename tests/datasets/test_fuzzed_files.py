"""Loaders and 2,000 damaged files: the right numbers, or an error that names the file.

Files are damaged with fixed seeds: bytes changed, the end cut off, arrays and columns removed, added, renamed
or of another type. Flipped bytes in formats without checksums can give other values, and a text that is
cut off between two lines has fewer rows; everything else is held here.
"""

import gzip
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import pytest

from skhep_nn.datasets import load_calo_hdf5, load_higgsml, load_waveforms, make_higgs_events

N_ROWS, N_POINTS = 40, 12
N_MUTATIONS, N_SEEDS = 42, 4

TRACES = np.random.default_rng(0).normal(100, 20, (N_ROWS, N_POINTS)).round(2).astype(np.float32)
TARGET = np.random.default_rng(1).uniform(0, 1, N_ROWS).round(3)
IMAGES = np.random.default_rng(2).random((N_ROWS, 6, 5), np.float32)
LABELS = np.arange(N_ROWS) % 2
ARRAYS = {"traces": TRACES, "y": TARGET}
CALO = {"X": IMAGES, "y": LABELS}

Arrays = dict[str, Any]


class Kind(NamedTuple):
    """A format: how a file is written from its arrays or columns, and how it is read."""

    write: Callable[[Path, Arrays], object]
    load: Callable[[Path], Any]
    arrays: Arrays
    checked: bool = False  # whether checksums protect every byte
    is_table: bool = False  # whether all arrays are columns of one text


def as_text(path: Path, arrays: Arrays, *, names: bool = True) -> None:
    columns = {}
    for name, values in arrays.items():
        if np.ndim(values) == 2:
            columns |= {f"{name[0]}{i}": values[:, i] for i in range(values.shape[1])}
        else:
            columns[name] = values
    pd.DataFrame(columns).to_csv(path, index=False, header=names)


def as_packed_text(path: Path, arrays: Arrays) -> None:
    as_text(path, arrays)
    path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def as_npy(path: Path, arrays: Arrays) -> None:
    with path.open("wb") as file:
        np.save(file, next(iter(arrays.values()), np.zeros(0)))


def as_npz(path: Path, arrays: Arrays, save: Any = np.savez) -> None:
    with path.open("wb") as file:
        save(file, **arrays)


def as_hdf5(path: Path, arrays: Arrays, libver: str = "earliest", **layout: Any) -> None:
    with h5py.File(path, "w", libver=libver) as file:
        for name, values in arrays.items():
            stored = np.asarray(values)
            chunks = {"chunks": (7, *stored.shape[1:]), **layout} if layout and stored.ndim else {}
            data = stored.astype("S") if stored.dtype.kind == "U" else stored
            file.create_dataset(name, data=data, **chunks)


def higgs_columns() -> Arrays:
    events = make_higgs_events(N_ROWS, random_state=0)
    table = events.data.fillna(-999.0).round(3)
    table.insert(0, "EventId", np.arange(N_ROWS) + 100_000)
    return dict(table.assign(Weight=events.sample_weight.round(4), Label=events.target))


def read_waveforms(path: Path, *, memory_map: bool = False) -> Arrays:
    waveforms = load_waveforms(path, memory_map=memory_map)
    return {"traces": waveforms.traces, "y": waveforms.target}


def read_calo(path: Path, *, lazy: bool = False) -> Arrays:
    loaded = load_calo_hdf5(path, lazy=lazy)
    return {"X": np.asarray(loaded.images), "y": loaded.target}


def read_higgs(path: Path) -> Arrays:
    loaded = load_higgsml(path)
    return {
        **{name: loaded.data[name].to_numpy() for name in loaded.data},
        "EventId": loaded.event_id,
        "Weight": loaded.sample_weight,
        "Label": loaded.target,
    }


def mapped(path: Path) -> Arrays:
    return read_waveforms(path, memory_map=True)


KINDS = {
    "csv": Kind(as_text, read_waveforms, ARRAYS, is_table=True),
    "csv, no names": Kind(
        lambda path, arrays: as_text(path, arrays, names=False),
        read_waveforms,
        {"traces": TRACES},
        is_table=True,
    ),
    "csv, gzip": Kind(as_packed_text, read_waveforms, ARRAYS, checked=True, is_table=True),
    "npy": Kind(as_npy, mapped, {"traces": TRACES}),
    "npz, mapped": Kind(as_npz, mapped, ARRAYS),
    "npz": Kind(as_npz, read_waveforms, ARRAYS, checked=True),
    "npz, compressed": Kind(
        lambda path, arrays: as_npz(path, arrays, np.savez_compressed), mapped, ARRAYS, checked=True
    ),
    "hdf5": Kind(as_hdf5, mapped, ARRAYS),
    "hdf5, gzip": Kind(
        lambda path, arrays: as_hdf5(path, arrays, compression="gzip"), read_waveforms, ARRAYS
    ),
    "hdf5, checksums": Kind(
        lambda path, arrays: as_hdf5(path, arrays, "latest", fletcher32=True),
        read_waveforms,
        ARRAYS,
        checked=True,
    ),
    "calo": Kind(as_hdf5, read_calo, CALO),
    "calo, lazy": Kind(
        lambda path, arrays: as_hdf5(path, arrays, compression="gzip", shuffle=True),
        lambda path: read_calo(path, lazy=True),
        CALO,
    ),
    "HiggsML": Kind(as_text, read_higgs, higgs_columns(), is_table=True),
    "HiggsML, gzip": Kind(as_packed_text, read_higgs, higgs_columns(), checked=True, is_table=True),
}


class Mutation(NamedTuple):
    """A damaged file: what was done to it, and its content as bytes or as arrays."""

    what: str
    content: bytes | Arrays


def mutations(kind: Kind, intact: bytes, rng: np.random.Generator) -> Iterator[Mutation]:
    """Yield damaged files: of every three, one has changed bytes, one its end cut off, one other arrays."""
    for number in range(N_MUTATIONS):
        if number % 3 == 0:
            content = bytearray(intact)
            places = rng.choice(len(intact), rng.integers(1, 4), replace=False)
            for place in places:
                content[place] ^= int(rng.integers(1, 256))
            yield Mutation(f"flipped {sorted(places.tolist())}", bytes(content))
        elif number % 3 == 1:
            end = int(rng.integers(0, len(intact)))
            yield Mutation(f"cut at {end}", intact[:end])
        else:
            yield changed_arrays(kind, rng)


WRONG_TYPES = {
    "text": lambda values: np.full(values.shape, "electron"),
    "complex": lambda values: np.ones(values.shape) * 1j,
    "infinite": lambda values: np.full(values.shape, np.inf),
    "missing": lambda values: np.full(values.shape, np.nan),
    "swapped": lambda values: values.astype(values.dtype.newbyteorder("S")),
}
CHANGES = ["remove", "add", "rename", "reverse", *WRONG_TYPES]


def changed_arrays(kind: Kind, rng: np.random.Generator) -> Mutation:
    """Remove, add, rename, reorder, shorten or convert one of the arrays of a file."""
    arrays = dict(kind.arrays)
    name = str(rng.choice(list(arrays)))
    # A text has no columns of different lengths, and without names an added column is one more point.
    several = [] if len(arrays) == 1 or kind.is_table else ["shorten"]
    change = str(rng.choice(CHANGES + several))
    values = np.asarray(arrays[name])
    if change == "remove":
        del arrays[name]
    elif change == "add" and len(arrays) > 1:
        arrays["event"] = np.arange(N_ROWS) + 7
    elif change == "rename":
        arrays = {("renamed" if key == name else key): value for key, value in arrays.items()}
    elif change == "reverse":
        arrays = dict(reversed(arrays.items()))
    elif change == "shorten":
        arrays[name] = values[:-1]
    elif change in WRONG_TYPES:
        arrays[name] = WRONG_TYPES[change](values)
    return Mutation(f"{change} {name}", arrays)


def outcome(kind: Kind, path: Path, what: str) -> Arrays | None:
    """Return what was read, None for an error of a documented type; errors and warnings name the file."""
    messages, found = [], None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            found = kind.load(path)
        except (ValueError, OSError) as error:
            messages.append(repr(error))
    messages += [str(warning.message) for warning in caught]
    assert all(str(path) in message for message in messages), f"{what}: {messages}"
    return found


def check(kind: Kind, found: Arrays, mutation: Mutation) -> None:
    """Compare what was read from a damaged file with what the file was to hold."""
    what, content = mutation
    # A text that is cut off may be a smaller one, whose last number may have lost digits.
    is_cut = what.startswith("cut") and kind.is_table and not kind.checked
    n_rows = {len(values) for values in found.values() if values is not None}
    assert len(n_rows) == 1, f"{what}: {n_rows} rows"
    if not is_cut:
        assert n_rows == {N_ROWS}, f"{what}: {n_rows} rows"
    if (what.startswith("flipped") and not kind.checked) or (is_cut and n_rows == {1}):
        return
    written = kind.arrays if isinstance(content, bytes) else content
    whole = slice(0, min(n_rows) - 1 if is_cut else None)
    for name, values in found.items():
        if values is None:
            assert name not in written, f"{what}: no {name}"
            continue
        alike = [np.asarray(array) for array in written.values() if np.ndim(array) == values.ndim]
        wanted = [np.asarray(written[name])] if name in written else alike
        assert any(equal(values[whole], array[: len(values)][whole]) for array in wanted), what


def equal(values: Any, wanted: Any) -> bool:
    """Whether all values are equal, where -999 in the data of the challenge is a missing value."""
    if wanted.dtype.kind == "f" and values.dtype.kind == "f":
        return np.array_equal(values, np.where(wanted == -999, np.nan, wanted), equal_nan=True)
    return np.array_equal(values, wanted)


@pytest.mark.parametrize("seed", range(N_SEEDS))
@pytest.mark.parametrize("name", KINDS)
def test_damaged_files_are_read_right_or_refused_by_name(tmp_path, name, seed):
    kind = KINDS[name]
    path = tmp_path / "file.dat"
    kind.write(path, kind.arrays)
    intact = path.read_bytes()
    rng = np.random.default_rng([seed, list(KINDS).index(name)])
    for mutation in mutations(kind, intact, rng):
        if isinstance(mutation.content, bytes):
            path.write_bytes(mutation.content)
        else:
            kind.write(path, mutation.content)
        found = outcome(kind, path, mutation.what)
        if found is not None:
            check(kind, found, mutation)


def test_the_files_are_two_thousand():
    assert len(KINDS) * N_SEEDS * N_MUTATIONS >= 2_000


@pytest.mark.parametrize("name", KINDS)
def test_intact_files_are_read_unchanged(tmp_path, name):
    kind = KINDS[name]
    path = tmp_path / "file.dat"
    kind.write(path, kind.arrays)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kind.load(path)
    check(kind, found, Mutation("intact", kind.arrays))
