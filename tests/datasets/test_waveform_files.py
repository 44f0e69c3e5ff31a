"""Traces of files: every format, memory maps, and error messages."""

import gzip
import sys
import zipfile

import h5py
import numpy as np
import pandas as pd
import pytest

from skhep_nn.datasets import load_waveforms
from skhep_nn.datasets.waveform_files import Waveforms


@pytest.fixture(scope="module")
def traces():
    return np.random.default_rng(0).integers(300, 9_000, (23, 60)).astype(np.uint16)


@pytest.fixture(scope="module")
def target():
    return np.random.default_rng(1).random(23)


def write_hdf5(path, arrays, **layout):
    userblock = layout.pop("userblock_size", 0)
    with h5py.File(path, "w", userblock_size=userblock) as file:
        for name, values in arrays.items():
            chunks = {"chunks": (7, *values.shape[1:])} if layout and values.ndim > 1 else {}
            file.create_dataset(name, data=values, **(chunks and layout | chunks))
    return path


WRITERS = {
    "npz": lambda path, arrays: np.savez(path, **arrays),
    "npz, compressed": lambda path, arrays: np.savez_compressed(path, **arrays),
    "npz, Fortran": lambda path, arrays: np.savez(
        path, **{k: v.T.copy().T for k, v in arrays.items()}
    ),
    "hdf5": write_hdf5,
    "hdf5, block of the user's": lambda path, arrays: write_hdf5(
        path, arrays, userblock_size=1_024
    ),
    "hdf5, chunks": lambda path, arrays: write_hdf5(path, arrays, fletcher32=True),
    "hdf5, gzip": lambda path, arrays: write_hdf5(path, arrays, compression="gzip"),
}
MAPPED = {"npz", "npz, Fortran", "hdf5", "hdf5, block of the user's"}


def write(folder, kind, arrays):
    path = folder / f"traces.{kind[:3].replace('hdf', 'hdf5')}"
    WRITERS[kind](path, arrays)
    return path


@pytest.mark.parametrize("memory_map", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("shape", [(23, 60), (23, 20, 3)])
def test_formats(tmp_path, traces, target, kind, memory_map, shape):
    values = traces.reshape(shape)
    path = write(tmp_path, kind, {"y": target, "X": values})
    loaded = load_waveforms(path, memory_map=memory_map)
    assert isinstance(loaded, Waveforms)
    assert isinstance(loaded.traces, np.memmap) is (memory_map and kind in MAPPED)
    assert loaded.traces.dtype == np.uint16
    np.testing.assert_array_equal(loaded.traces, values)
    assert loaded.target.dtype == np.float64
    np.testing.assert_array_equal(loaded.target, target)
    assert loaded.dropped.size == 0
    if memory_map and kind in MAPPED:
        assert not loaded.traces.flags.writeable


@pytest.mark.parametrize("kind", [">u2", "<i4", "f4", "f8", "i1", ">f4"])
def test_types_stay(tmp_path, traces, kind):
    values = (traces % 100).astype(kind)
    for name in ("npz", "hdf5", "hdf5, gzip"):
        loaded = load_waveforms(write(tmp_path, name, {"traces": values}))
        assert loaded.traces.dtype == np.dtype(kind)
        np.testing.assert_array_equal(loaded.traces, values)
        assert loaded.target is None


def test_npy(tmp_path, traces):
    path = tmp_path / "traces.npy"
    np.save(path, traces)
    mapped, read = (load_waveforms(path, memory_map=way).traces for way in (True, False))
    assert isinstance(mapped, np.memmap)
    assert not isinstance(read, np.memmap)
    np.testing.assert_array_equal(mapped, traces)
    np.testing.assert_array_equal(read, traces)
    np.save(path, np.asfortranarray(traces))
    np.testing.assert_array_equal(load_waveforms(str(path)).traces, traces)


def test_the_format_is_told_by_the_content(tmp_path, traces, target):
    path = tmp_path / "traces.dat"
    for kind in ("npz", "hdf5"):
        WRITERS[kind](tmp_path / "x", {"X": traces, "y": target})
        (tmp_path / ("x.npz" if kind == "npz" else "x")).replace(path)
        np.testing.assert_array_equal(load_waveforms(path).traces, traces)
    # A zip file without the suffix npz, with members that are not arrays.
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("README.txt", "hello")
        with archive.open("run/X.npy", "w") as member:
            np.save(member, traces)
    loaded = load_waveforms(path, traces_key="run/X")
    assert isinstance(loaded.traces, np.memmap)
    np.testing.assert_array_equal(loaded.traces, traces)


def test_keys(tmp_path, traces, target):
    other = traces[:, :30].copy()
    arrays = {"other": other, "waveforms": traces, "d": target, "e": 2 * target, "run": np.array(7)}
    for kind in ("npz", "hdf5"):
        path = write(tmp_path, kind, arrays)
        loaded = load_waveforms(path)
        np.testing.assert_array_equal(loaded.traces, traces)
        np.testing.assert_array_equal(loaded.target, target)
        loaded = load_waveforms(path, traces_key="other", target_key="e")
        np.testing.assert_array_equal(loaded.traces, other)
        np.testing.assert_array_equal(loaded.target, 2 * target)
        assert load_waveforms(path, target_key=None).target is None
        several = load_waveforms(path, target_key="other").target
        np.testing.assert_array_equal(several, other)
        with pytest.raises(
            ValueError, match=r"no array 'x' for traces_key.*'waveforms' \(23, 60\)"
        ):
            load_waveforms(path, traces_key="x")
        with pytest.raises(ValueError, match=r"no array 'y' for target_key.*'d' \(23,\) float64"):
            load_waveforms(path, target_key="y")
        with pytest.raises(ValueError, match=r"traces 'd' must have the shape.*got \(23,\)"):
            load_waveforms(path, traces_key="d")
        with pytest.raises(ValueError, match=r"target 'run' has the shape \(\)"):
            load_waveforms(path, target_key="run")


def test_the_automatic_choice(tmp_path, traces, target):
    column = target[:, None]
    path = write(tmp_path, "npz", {"input2S2_data": traces, "output2S2_data": column})
    loaded = load_waveforms(path)
    np.testing.assert_array_equal(loaded.target, target)
    path = write(tmp_path, "npz", {"X": traces, "energy": target, "time": target})
    with pytest.raises(
        ValueError, match=r"more than one array can be the target.*'energy' \(23,\)"
    ):
        load_waveforms(path)
    path = write(tmp_path, "npz", {"a": traces, "b": traces})
    with pytest.raises(ValueError, match=r"more than one array can be the traces.*'a' \(23, 60\)"):
        load_waveforms(path)
    path = write(tmp_path, "npz", {"a": target})
    with pytest.raises(ValueError, match=r"no array can be the traces.*'a' \(23,\)"):
        load_waveforms(path)
    path = write(tmp_path, "npz", {"X": traces, "y": target[:-1]})
    with pytest.raises(ValueError, match=r"target 'y' has the shape \(22,\).*the 23 traces 'X'"):
        load_waveforms(path)
    path = write(tmp_path, "npz", {"X": traces[:0]})
    with pytest.raises(ValueError, match=r"not be empty; got \(0, 60\)"):
        load_waveforms(path)


def test_groups_of_hdf5(tmp_path, traces, target):
    path = write_hdf5(tmp_path / "x.h5", {"run1/traces": traces, "run1/d": target})
    loaded = load_waveforms(path)
    np.testing.assert_array_equal(loaded.traces, traces)
    np.testing.assert_array_equal(loaded.target, target)
    path = write_hdf5(tmp_path / "y.h5", {"run1/traces": traces, "run2/traces": traces + 1})
    with pytest.raises(ValueError, match="more than one array can be the traces"):
        load_waveforms(path)
    loaded = load_waveforms(path, traces_key="run2/traces")
    np.testing.assert_array_equal(loaded.traces, traces + 1)


def test_hdf5_arrays_that_lie_elsewhere(tmp_path, traces):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        outside = [(str(tmp_path / "x.bin"), 0, traces.nbytes)]
        file.create_dataset("X", traces.shape, traces.dtype, external=outside)[:] = traces
        file.create_dataset("never", traces.shape, traces.dtype)
    loaded = load_waveforms(path)
    assert not isinstance(loaded.traces, np.memmap)
    np.testing.assert_array_equal(loaded.traces, traces)
    np.testing.assert_array_equal(load_waveforms(path, traces_key="never").traces, 0 * traces)


def test_a_target_of_another_group_is_no_target(tmp_path, traces, target):
    arrays = {"data/traces": traces, "mc/traces": traces + 1, "mc/energy": target, "y": target}
    path = write_hdf5(tmp_path / "x.h5", arrays)
    assert load_waveforms(path, traces_key="data/traces").target is None
    simulated = load_waveforms(path, traces_key="mc/traces")
    np.testing.assert_array_equal(simulated.traces, traces + 1)
    np.testing.assert_array_equal(simulated.target, target)
    asked = load_waveforms(path, traces_key="data/traces", target_key="mc/energy")
    np.testing.assert_array_equal(asked.target, target)
    # A well-known name goes before the only array that fits.
    path = write_hdf5(
        tmp_path / "y.h5", {"a/traces": traces, "a/energy": target, "a/y": 2 * target}
    )
    np.testing.assert_array_equal(load_waveforms(path).target, 2 * target)


def test_links_of_hdf5_are_followed(tmp_path, traces, target, monkeypatch):
    write_hdf5(tmp_path / "raw.h5", {"run1/adc": traces, "run1/truth": target})
    path = tmp_path / "links.h5"
    with h5py.File(path, "w") as file:
        file["traces"] = h5py.ExternalLink("raw.h5", "/run1/adc")
        file["truth"] = target
        file["y"] = h5py.SoftLink("/truth")
        file["up"] = h5py.SoftLink("/")
        file["again"] = file["truth"]
    monkeypatch.chdir("/")
    for memory_map in (True, False):
        loaded = load_waveforms(path, memory_map=memory_map)
        assert isinstance(loaded.traces, np.memmap) is memory_map
        np.testing.assert_array_equal(loaded.traces, traces)
        np.testing.assert_array_equal(loaded.target, target)
    np.testing.assert_array_equal(load_waveforms(path, target_key="again").target, target)
    with h5py.File(path, "a") as file:
        del file["y"]
    # Two names of one array are no two candidates.
    np.testing.assert_array_equal(load_waveforms(path).target, target)


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (h5py.SoftLink("/nowhere"), "is a soft link to '/nowhere', which cannot be opened"),
        (h5py.SoftLink("/lost"), "is a soft link to '/lost', which cannot be opened"),
        (h5py.ExternalLink("absent.h5", "/X"), "is a link to '/X' of the file 'absent.h5', which"),
    ],
    ids=["soft", "to itself", "external"],
)
def test_links_to_nothing_are_an_error_where_they_are_needed(
    tmp_path, traces, target, link, message
):
    path = write_hdf5(tmp_path / "x.h5", {"traces": traces, "y": target})
    with h5py.File(path, "a") as file:
        file["lost"] = link
    loaded = load_waveforms(path)
    np.testing.assert_array_equal(loaded.traces, traces)
    np.testing.assert_array_equal(loaded.target, target)
    for key in ("traces_key", "target_key"):
        with pytest.raises(ValueError, match=rf"x\.h5: array 'lost' {message}"):
            load_waveforms(path, **{key: "lost"})
    # No other array takes the place of one with a well-known name.
    with h5py.File(path, "a") as file:
        file.move("lost", "y2")
        del file["y"]
        file.move("y2", "y")
    with pytest.raises(ValueError, match=r"x\.h5: array 'y' is a (soft )?link"):
        load_waveforms(path)


def test_types_of_hdf5_that_numpy_lacks(tmp_path, traces, target):
    path = write_hdf5(tmp_path / "x.h5", {"traces": traces, "y": target})
    with h5py.File(path, "a") as file:
        space = h5py.h5s.create_simple((23,))
        h5py.h5d.create(file.id, b"time", h5py.h5t.UNIX_D32LE, space)
    for keys in ({}, {"traces_key": "traces", "target_key": "y"}):
        loaded = load_waveforms(path, **keys)
        np.testing.assert_array_equal(loaded.traces, traces)
        np.testing.assert_array_equal(loaded.target, target)
    with pytest.raises(ValueError, match=r"x\.h5: array 'time' has an HDF5 type that numpy lacks"):
        load_waveforms(path, target_key="time")


@pytest.mark.parametrize("layout", ["contiguous", "chunked", "gzip"])
@pytest.mark.parametrize("memory_map", [True, False])
def test_bits_in_the_upper_part_of_a_number(tmp_path, layout, memory_map):
    """A digitiser of 12 bits may write them shifted; the library moves them to their place."""
    values = np.random.default_rng(0).integers(0, 4_096, (20, 30)).astype(np.uint16)
    kind = h5py.h5t.NATIVE_UINT16.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if layout != "contiguous":
        plan.set_chunk((7, 30))
    if layout == "gzip":
        plan.set_deflate(3)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        h5py.Dataset(h5py.h5d.create(file.id, b"X", kind, space, plan))[:] = values
    loaded = load_waveforms(tmp_path / "x.h5", memory_map=memory_map).traces
    np.testing.assert_array_equal(loaded, values)


@pytest.mark.parametrize(
    ("number", "name"), [(32_001, "blosc"), (32_015, "zstd"), (333, "an unknown name")]
)
def test_a_filter_that_is_not_installed_is_named(tmp_path, number, name):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((5, 8))
    plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((5, 8))
        data = h5py.Dataset(h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_FLOAT, space, plan))
        data.id.write_direct_chunk((0, 0), np.ones((5, 8), "f4").tobytes(), 0)
    message = (
        rf"x\.h5: array 'X' is packed with the filter .*{name} \(number {number}\).*hdf5plugin"
    )
    with pytest.raises(ValueError, match=message):
        load_waveforms(tmp_path / "x.h5")


def test_raw_files_of_hdf5_that_are_missing_or_short(tmp_path, traces):
    raw = tmp_path / "x.bin"
    with h5py.File(tmp_path / "x.h5", "w") as file:
        outside = [(str(raw), 0, traces.nbytes)]
        file.create_dataset("X", traces.shape, traces.dtype, external=outside)[:] = traces
    raw.write_bytes(raw.read_bytes()[:-10])
    with pytest.raises(ValueError, match=r"x\.h5: array 'X' .*x\.bin' up to byte 2760, .* 2750"):
        load_waveforms(tmp_path / "x.h5")
    raw.unlink()
    with pytest.raises(ValueError, match=r"x\.h5: array 'X' .*x\.bin', which is not there"):
        load_waveforms(tmp_path / "x.h5")


def test_virtual_arrays_need_their_sources(tmp_path, traces):
    write_hdf5(tmp_path / "raw.h5", {"X": traces})
    layout = h5py.VirtualLayout(traces.shape, traces.dtype)
    layout[:] = h5py.VirtualSource("raw.h5", "X", traces.shape)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_virtual_dataset("X", layout, fillvalue=7)
    np.testing.assert_array_equal(load_waveforms(tmp_path / "x.h5").traces, traces)
    with h5py.File(tmp_path / "raw.h5", "a") as file:
        file.move("X", "Y")
    with pytest.raises(ValueError, match=r"x\.h5: array 'X' .*raw\.h5', which lacks it"):
        load_waveforms(tmp_path / "x.h5")
    (tmp_path / "raw.h5").rename(tmp_path / "moved.h5")
    with pytest.raises(ValueError, match=r"x\.h5: array 'X' .*raw\.h5', which is not there"):
        load_waveforms(tmp_path / "x.h5")


@pytest.mark.parametrize("separator", [",", ";", "\t", " ", ", "])
@pytest.mark.parametrize("packed", [False, True])
def test_text(tmp_path, traces, separator, packed):
    text = "\n".join(separator.join(map(str, row)) for row in traces) + "\n\n"
    path = tmp_path / "traces.csv"
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    loaded = load_waveforms(path)
    assert loaded.traces.dtype == np.float32
    np.testing.assert_array_equal(loaded.traces, traces)
    assert loaded.target is None
    loaded = load_waveforms(path, target_key=-1)
    np.testing.assert_array_equal(loaded.traces, traces[:, :-1])
    np.testing.assert_array_equal(loaded.target, traces[:, -1])
    assert loaded.target.dtype == np.int64


def test_the_mark_of_spreadsheets(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("1,2,3\n4,5,6\n", encoding="utf-8-sig")
    np.testing.assert_array_equal(load_waveforms(path).traces, [[1, 2, 3], [4, 5, 6]])


def test_text_with_names(tmp_path, traces, target):
    path = tmp_path / "traces.csv"
    table = pd.DataFrame(traces)
    for index in (True, False):
        table.to_csv(path, index=index)
        np.testing.assert_array_equal(load_waveforms(path).traces, traces)
        table.assign(d=target).to_csv(path, index=index)
        loaded = load_waveforms(path)
        np.testing.assert_array_equal(loaded.traces, traces)
        np.testing.assert_array_equal(loaded.target, target)
    # Many blocks of lines.
    many = np.tile(traces, (60, 1))
    header = ",".join(f"t{i}" for i in range(60))
    np.savetxt(path, many, "%d", ",", header=header)
    loaded = load_waveforms(path, target_key="t3")
    np.testing.assert_array_equal(loaded.traces, np.delete(many, 3, axis=1))
    np.testing.assert_array_equal(loaded.target, many[:, 3])
    with pytest.raises(
        ValueError, match=r"no column 'x' .*has 60 columns, 't0', 't1', .*'t9', \.\.\."
    ):
        load_waveforms(path, target_key="x")
    with pytest.raises(ValueError, match="traces_key must stay 'auto', got 't0'"):
        load_waveforms(path, traces_key="t0")


@pytest.mark.parametrize(
    "name", ["t{}", "{}", "sample_{:03d}", "t{} [ns]", "{}.5", "ch0_t{}"], ids=str
)
@pytest.mark.parametrize("place", [0, 30, 60])
def test_columns_that_are_no_points_are_left_out_by_name(tmp_path, traces, target, name, place):
    path = tmp_path / "x.csv"
    table = pd.DataFrame(traces, columns=[name.format(i) for i in range(60)])
    table.insert(place, "event", np.arange(23) + 100_000)
    table.insert(place, "energy", target)
    table.to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"x\.csv: left out the columns 'event', whose names"):
        loaded = load_waveforms(path, target_key="energy")
    np.testing.assert_array_equal(loaded.traces, traces)
    np.testing.assert_array_equal(loaded.target, target)
    with pytest.warns(UserWarning, match=r"left out the columns 'energy', 'event'"):
        loaded = load_waveforms(path)
    np.testing.assert_array_equal(loaded.traces, traces)
    assert loaded.target is None


def test_names_of_columns_that_look_like_a_mistake(tmp_path, traces):
    path = tmp_path / "x.csv"
    few = traces[:, :6]
    pd.DataFrame(few, columns=["t0", "t1", "t2", "event", "run", "energy"]).to_csv(
        path, index=False
    )
    with pytest.raises(ValueError, match=r"x\.csv: its columns, 't0', .*'energy', cannot all be"):
        load_waveforms(path)
    pd.DataFrame(few, columns=list("abcefg")).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"x\.csv: the names of its columns, 'a', .*'g', do not"):
        np.testing.assert_array_equal(load_waveforms(path).traces, few)
    pd.DataFrame(few, columns=[f"t{i}" for i in (0, 1, 10, 2, 3, 4)]).to_csv(path, index=False)
    with pytest.warns(UserWarning, match=r"x\.csv: the points, 't0' to 't4', do not lie in"):
        np.testing.assert_array_equal(load_waveforms(path).traces, few)


@pytest.mark.parametrize("missing", ["", "NA", "null", "-", "x"])
@pytest.mark.parametrize("column", [0, 7, 59])
def test_a_first_row_without_a_value_is_no_header(tmp_path, traces, missing, column):
    rows = [[str(value) for value in row] for row in traces]
    rows[0][column] = missing
    path = tmp_path / "x.csv"
    path.write_text("\n".join(map(",".join, rows)))
    with pytest.raises(ValueError, match=rf"x\.csv: row 0, column {column} holds '{missing}'"):
        load_waveforms(path)


def test_times_above_the_points_and_row_numbers_are_a_header(tmp_path, traces):
    path = tmp_path / "x.csv"
    pd.DataFrame(traces, columns=np.arange(60) * 0.5).to_csv(path)
    np.testing.assert_array_equal(load_waveforms(path).traces, traces)


def test_whole_numbers_that_are_too_large_stay(tmp_path):
    path = tmp_path / "x.csv"
    for text, expected in [("1e19", 1e19), ("1e300", 1e300), ("9007199254740993", 2.0**53)]:
        path.write_text(f"t0,t1,y\n1,2,{text}\n3,4,5\n")
        target = load_waveforms(path).target
        if expected > 2**53:
            assert target.dtype == np.float64
        np.testing.assert_array_equal(target, [expected, 5])
    path.write_text("t0,t1,y\n1,2,inf\n3,4,5\n")
    np.testing.assert_array_equal(load_waveforms(path, non_finite="keep").target, [np.inf, 5])


@pytest.mark.parametrize(("offset", "dtype"), [(1e3, np.float32), (1e9, np.float64)])
def test_pulses_on_a_large_offset_keep_their_shape(tmp_path, traces, offset, dtype):
    path = tmp_path / "x.csv"
    # The second block of lines has the offset.
    values = np.concatenate([np.tile(traces, (30, 1)), traces + offset])
    np.savetxt(path, values, "%d", ",")
    loaded = load_waveforms(path).traces
    np.testing.assert_array_equal(loaded, values)
    assert loaded.dtype == dtype


def test_a_constant_trace_needs_no_digits(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("0.1,0.1,0.1\n0,0,0\n")
    assert load_waveforms(path).traces.dtype == np.float32


def test_keys_of_other_types(tmp_path, traces):
    path = write(tmp_path, "npz", {"X": traces})
    for keys in ({"traces_key": ["X"]}, {"target_key": ["y"]}, {"target_key": 1.5}):
        with pytest.raises(TypeError, match=f"{next(iter(keys))} must be"):
            load_waveforms(path, **keys)
    with pytest.raises(TypeError, match="path must be a path or a list of paths, got ndarray"):
        load_waveforms(traces)
    np.testing.assert_array_equal(load_waveforms(tmp_path.glob("*.npz")).traces, traces)


def test_text_that_is_wrong(tmp_path):
    path = tmp_path / "traces.csv"
    good = "1,2,3\n" * 700
    for text, message in [
        (good + "1,2\n", r"traces.csv: row 700 has 2 values, the first line 3"),
        (good + "1,2,3,4\n" + good, r"row 700 has 4 values, the first line 3"),
        ("a,b,c\n" + good + "1,2\n", r"row 700 has 2 values"),
        (good[:3_000] + "1,2\n" * 500, r"row 500 has 2 values"),
        (good + "1,x,3\n", r"row 700, column 1 holds 'x' where a number"),
        (good + "1,,3\n", r"row 700, column 1 holds ''"),
        (good + "1,1_0,3\n", r"row 700, column 1 holds '1_0'"),
        ("a,b,c\n", r"traces.csv holds no traces"),
        ("", r"traces.csv is empty"),
        ("\n\n", r"traces.csv holds no traces"),
        ("y\n1\n", r"traces.csv holds no traces"),
        ("PK", r"traces.csv holds no traces"),
        ("#\n1,2\n", r"traces.csv: the first line, '#', holds neither names nor numbers"),
    ]:
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            load_waveforms(path)
    path.write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match="is no text, and neither npz, npy nor HDF5"):
        load_waveforms(path)
    path.write_bytes(gzip.compress(good.encode())[:-10])
    with pytest.raises(ValueError, match="damaged or cut off"):
        load_waveforms(path)


def test_files_that_are_damaged(tmp_path, traces, target):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz: no such file"):
        load_waveforms(tmp_path / "absent.npz")
    with pytest.raises(ValueError, match="at least one file"):
        load_waveforms([])
    path = tmp_path / "x.npy"
    np.save(path, traces)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(
        ValueError, match=r"x.npy is damaged or cut off: array 'array' .*ends at byte 2888.*2788"
    ):
        load_waveforms(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(ValueError, match=r"x.npy is damaged or cut off"):
        load_waveforms(path)
    arrays = {"X": traces, "y": target}
    for kind in WRITERS:
        path = write(tmp_path, kind, arrays)
        path.write_bytes(path.read_bytes()[:-700])
        with pytest.raises(ValueError, match=r"traces\.\w+ is .*damaged or cut off"):
            load_waveforms(path)
    path = write(tmp_path, "npz, compressed", {"X": np.tile(traces, (100, 1))})
    content = bytearray(path.read_bytes())
    content[-1_000:-900] = bytes(100)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"traces.npz: array 'X' is damaged or cut off"):
        load_waveforms(path)
    path = write(tmp_path, "hdf5, chunks", arrays)
    with h5py.File(path) as file:
        place = file["X"].id.get_chunk_info_by_coord((0, 0)).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"traces.hdf5: array 'X' is damaged"):
        load_waveforms(path)


def test_an_array_of_npz_is_not_left_out_because_its_entry_is_damaged(tmp_path, traces, target):
    path = write(tmp_path, "npz", {"X": traces, "y": target})
    intact = path.read_bytes()
    first, second = intact.index(b"PK\x01\x02"), intact.rindex(b"PK\x01\x02")
    for place, value, message in [
        (intact.rindex(b"y.npy") + 1, ord("h"), "File name in directory"),
        # A comment as long as the next entry.
        (
            first + 32,
            len(intact) - 22 - second,
            "the directory of the archive is broken behind 'X'",
        ),
    ]:
        content = bytearray(intact)
        content[place] = value
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"traces\.npz is damaged or cut off: {message}"):
            load_waveforms(path)


def test_traces_of_different_lengths(tmp_path):
    rows = np.empty(3, object)
    rows[:] = [np.arange(5), np.arange(5), np.arange(4)]
    np.savez(tmp_path / "x.npz", X=rows, allow_pickle=True)
    with pytest.raises(ValueError, match=r"x.npz: array 'X' holds objects.*different lengths"):
        load_waveforms(tmp_path / "x.npz", traces_key="X")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        data = file.create_dataset("X", (3,), h5py.vlen_dtype(np.int32))
        for i, row in enumerate(rows):
            data[i] = row
    with pytest.raises(ValueError, match=r"x.h5: array 'X'.*row 2 has \(4,\), row 0 \(5,\)"):
        load_waveforms(tmp_path / "x.h5")
    np.savez(tmp_path / "x.npz", X=np.array([["a", "b"]]))
    with pytest.raises(ValueError, match=r"array 'X' of type <U1 is not made of numbers"):
        load_waveforms(tmp_path / "x.npz")


@pytest.mark.parametrize("kind", ["npz", "npz, compressed", "hdf5", "hdf5, gzip"])
def test_values_that_are_not_finite(tmp_path, traces, target, kind, monkeypatch):
    values, labels = traces.astype(np.float32), target.copy()
    values[4, 7], values[20, 59], labels[9] = -np.inf, np.nan, np.nan
    path = write(tmp_path, kind, {"X": values, "y": labels})
    with pytest.raises(ValueError, match=r"traces\.\w+: 3 of 23 traces.* rows 4, 9, 20\. Give"):
        load_waveforms(path)
    monkeypatch.setattr("skhep_nn.datasets.waveform_files._BLOCK", 100)
    loaded = load_waveforms(path, non_finite="drop")
    np.testing.assert_array_equal(loaded.dropped, [4, 9, 20])
    rest = np.delete(np.arange(23), [4, 9, 20])
    np.testing.assert_array_equal(loaded.traces, traces[rest])
    np.testing.assert_array_equal(loaded.target, target[rest])
    loaded = load_waveforms(path, non_finite="keep")
    assert loaded.dropped.size == 0
    np.testing.assert_array_equal(loaded.traces, values)
    np.testing.assert_array_equal(loaded.target, labels)
    loaded = load_waveforms([path, path], non_finite="drop", target_key=None)
    np.testing.assert_array_equal(loaded.dropped, [4, 20, 27, 43])
    assert len(loaded.traces) == 42
    with pytest.raises(ValueError, match="'error', 'drop' or 'keep', got 'skip'"):
        load_waveforms(path, non_finite="skip")


def test_when_no_trace_is_finite(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.full((30, 5), np.nan))
    with pytest.raises(ValueError, match=r"30 of 30 .*rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        load_waveforms(path, non_finite="drop")


def test_several_files(tmp_path, traces, target):
    one, other = tmp_path / "one.npz", tmp_path / "other.npz"
    np.savez(one, X=traces[:9], y=target[:9])
    np.savez_compressed(other, X=traces[9:], y=target[9:])
    loaded = load_waveforms([one, str(other)])
    np.testing.assert_array_equal(loaded.traces, traces)
    np.testing.assert_array_equal(loaded.target, target)
    np.savez(other, X=traces[9:, 1:], y=target[9:])
    with pytest.raises(ValueError, match=r"other.npz holds traces of \(59,\) .*one.npz .*\(60,\)"):
        load_waveforms([one, other])
    np.savez(other, X=traces[9:].astype(float), y=target[9:])
    with pytest.raises(ValueError, match=r"other.npz holds traces of \(60,\) float64"):
        load_waveforms([one, other])
    np.savez(other, X=traces[9:])
    with pytest.raises(ValueError, match=r"other.npz holds .* no target"):
        load_waveforms([one, other])


def test_without_h5py(tmp_path, traces, monkeypatch):
    path = write_hdf5(tmp_path / "x.h5", {"X": traces})
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'skhep_nn\[hdf5\]'"):
        load_waveforms(path)


def test_dual_readout_traces(data_dir):
    path = data_dir / "dual_readout_waveforms.npz"
    if not path.is_file():
        pytest.skip("no dual-readout traces")
    with pytest.raises(
        ValueError, match=r"dual_readout_waveforms.npz: 2 of 159 traces.*rows \d+, \d+\."
    ):
        load_waveforms(path)
    loaded = load_waveforms(path, non_finite="drop")
    assert loaded.traces.shape == (157, 5_000, 4)
    assert loaded.traces.dtype == np.float16
    whole = load_waveforms(path, non_finite="keep")
    assert np.isneginf(whole.traces[loaded.dropped].min(axis=(1, 2))).all()
    np.testing.assert_array_equal(loaded.target, np.delete(whole.target, loaded.dropped))
    assert set(loaded.target) == {0, 1}


def test_germanium_traces(data_dir):
    path = data_dir / "legend_ge_waveforms.npz"
    if not path.is_file():
        pytest.skip("no germanium traces")
    with pytest.raises(ValueError, match=r"more than one array can be the target.*'energy_adc'"):
        load_waveforms(path)
    loaded = load_waveforms(path, target_key="energy_adc")
    assert loaded.traces.shape == (100, 5_592)
    assert loaded.traces.dtype == loaded.target.dtype == np.uint16
    height = loaded.traces[:, -2_000:-1_500].mean(axis=1) - loaded.traces[:, :500].mean(axis=1)
    assert np.corrcoef(height, loaded.target)[0, 1] > 0.9
