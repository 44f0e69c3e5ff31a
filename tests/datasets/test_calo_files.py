"""Files of calorimeter images: read at once, read lazily, and damaged files."""

import os
import pickle
import sys

import numpy as np
import pytest
from sklearn.model_selection import train_test_split

from skhep_nn.datasets import _hdf5_chunks, calo_files
from skhep_nn.datasets.calo_files import CALO_SPLITS, load_calo_hdf5
from skhep_nn.datasets.calo_showers import make_calo_showers
from skhep_nn.inputs.shuffled_chunks import ChunkSource, ShuffledChunks

h5py = pytest.importorskip("h5py")

LAYOUTS = {
    "published": {"chunks": (26, 8, 16, 1), "compression": "gzip", "compression_opts": 9},
    "contiguous": {},
    "long": {"chunks": (70, 2, 2, 1), "compression": "gzip"},
    "shuffled": {"chunks": (16, 32, 32, 2), "compression": "gzip", "shuffle": True},
}


def write(path, images, target, **layout):
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=images, **layout)
        file["y"] = np.asarray(target, dtype=np.float32)
    return path


@pytest.fixture(scope="module")
def images():
    return make_calo_showers(203, random_state=0).images


@pytest.fixture(params=LAYOUTS)
def paths(request, tmp_path, images):
    """Two files, photons and electrons, of 98 and 105 images."""
    layout = LAYOUTS[request.param]
    return [
        write(tmp_path / "photons.hdf5", images[:98], np.zeros(98), **layout),
        write(tmp_path / "electrons.hdf5", images[98:], np.ones(105), **layout),
    ]


def test_files_come_one_behind_the_other(paths, images):
    loaded = load_calo_hdf5(paths)
    np.testing.assert_array_equal(loaded.images, images)
    np.testing.assert_array_equal(loaded.target, np.arange(203) >= 98)
    assert loaded.target.dtype == np.int64
    assert type(loaded.images) is np.ndarray
    assert loaded.images.dtype == np.float32


def test_ranges_are_those_of_each_file(paths, images):
    expected = np.concatenate([images[20:61], images[118:159]])
    for lazy in (False, True):
        loaded = load_calo_hdf5(paths, 20, 61, lazy=lazy)
        np.testing.assert_array_equal(np.asarray(loaded.images), expected)
        np.testing.assert_array_equal(loaded.target, np.arange(82) >= 41)
    np.testing.assert_array_equal(load_calo_hdf5(paths[1], 100).images, images[198:])


@pytest.mark.parametrize(
    "key",
    [
        0,
        202,
        -1,
        np.int64(97),
        slice(None),
        slice(90, 110),
        slice(5, 5),
        slice(200, 2, -7),
        slice(0, 200, 3),
        [5, 150, 5, 98, 97],
        np.array([[1, 2], [150, -1]]),
        np.arange(203) % 5 == 0,
        np.zeros(203, dtype=bool),
        [],
        (slice(90, 110), slice(None), 3, 0),
        ([5, 150], ..., 1),
        (3, 4),
        ...,
        (..., 0),
    ],
    ids=str,
)
def test_indexing_is_that_of_an_array(paths, images, key):
    lazy = load_calo_hdf5(paths, lazy=True).images
    found = lazy[key]
    np.testing.assert_array_equal(found, images[key])
    assert isinstance(found, np.ndarray)
    assert found.dtype == images.dtype


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (203, "row 203 of 203"),
        (-204, "row -204 of 203"),
        ([0, 203], "rows from 0 to 203 of 203"),
        ([-204], "rows from -204"),
        (np.ones(5, dtype=bool), r"must have shape \(203,\), got \(5,\)"),
        ([0.5], "integers or booleans, got type float64"),
    ],
    ids=str,
)
def test_indices_that_are_none(paths, key, message):
    lazy = load_calo_hdf5(paths, lazy=True).images
    with pytest.raises(IndexError, match=message):
        lazy[key]


@pytest.mark.slow
def test_it_looks_like_an_array(paths, images):
    lazy = load_calo_hdf5(paths, lazy=True).images
    assert (lazy.shape, lazy.ndim, lazy.size, lazy.nbytes, lazy.dtype, len(lazy)) == (
        (images.shape, 4, images.size, images.nbytes, images.dtype, 203)
    )
    assert repr(lazy) == (
        "<CaloImages of photons.hdf5, electrons.hdf5: shape (203, 32, 32, 2), float32>"
    )
    np.testing.assert_array_equal(np.asarray(lazy, dtype=np.float64), images)
    with pytest.raises(ValueError, match="without being copied"):
        np.array(lazy, copy=False)
    parts = train_test_split(lazy, np.arange(203), random_state=0)
    np.testing.assert_array_equal(parts[0], images[parts[2]])
    np.testing.assert_array_equal(np.stack(list(lazy)), images)


def test_only_what_is_asked_for_is_read(paths, monkeypatch):
    lazy = load_calo_hdf5(paths, lazy=True).images
    reads = []
    read = type(lazy).read
    monkeypatch.setattr(
        type(lazy), "read", lambda self, a, b: reads.append((a, b)) or read(self, a, b)
    )
    lazy[[3, 4, 12, 150]]
    chunked = lazy._open(0).dataset.chunks is not None
    # Rows of one chunk come together; a contiguous file is read row by row.
    assert reads[-1] == (150, 151)
    assert sum(b - a for a, b in reads) == (11 if chunked else 4)


def test_chunk_bounds_are_those_of_the_files(tmp_path, images):
    layout = LAYOUTS["published"]
    paths = [write(tmp_path / f"{i}.h5", images[:60], np.zeros(60), **layout) for i in range(2)]
    lazy = load_calo_hdf5(paths, 20, 55, lazy=True).images
    np.testing.assert_array_equal(lazy.chunk_bounds, [0, 6, 32, 35, 41, 67, 70])
    whole = load_calo_hdf5(paths, 26, 52, lazy=True).images
    np.testing.assert_array_equal(whole.chunk_bounds, [0, 26, 52])
    path = write(tmp_path / "contiguous.h5", images, np.zeros(203))
    np.testing.assert_array_equal(load_calo_hdf5(path, lazy=True).images.chunk_bounds, [0, 203])


def test_shuffled_reading(paths, images):
    lazy = load_calo_hdf5(paths, lazy=True).images
    assert isinstance(lazy, ChunkSource)
    seen = []
    for values, rows in ShuffledChunks(lazy, 32, buffer_size=64, random_state=0):
        np.testing.assert_array_equal(values, images[rows])
        seen.extend(rows)
    assert sorted(seen) == list(range(203))


@pytest.mark.parametrize("name", [name for name, layout in LAYOUTS.items() if layout])
def test_chunks_are_unpacked_as_by_h5py(tmp_path, images, name, monkeypatch):
    """Chunks over the edge, chunks never written, and what h5py unpacks itself."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        chunks = tuple(map(min, LAYOUTS[name]["chunks"], (203, 20, 30, 2)))
        layout = LAYOUTS[name] | {"chunks": chunks}
        dataset = file.create_dataset("X", (203, 20, 30, 2), np.float32, **layout)
        dataset[30:120] = images[30:120, :20, :30]
        expected = dataset[:]
        file["y"] = np.zeros(203)
    calls = []
    unpack = _hdf5_chunks._unpack
    monkeypatch.setattr(_hdf5_chunks, "_unpack", lambda *key: calls.append(key[1]) or unpack(*key))
    lazy = load_calo_hdf5(path, lazy=True).images
    for start, stop in ((0, 203), (25, 77), (119, 120), (150, 203)):
        np.testing.assert_array_equal(lazy.read(start, stop), expected[start:stop])
    assert calls


@pytest.mark.parametrize("userblock", [0, 512])
@pytest.mark.parametrize("chunks", [None, (64, 20, 30, 2), (64, 10, 30, 2)])
def test_what_is_not_packed_is_read_past_the_library(
    tmp_path, images, chunks, userblock, monkeypatch
):
    """By the system, which lets other threads run, wherever rows lie in the file as in memory."""
    path = tmp_path / "x.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        dataset = file.create_dataset("X", (203, 20, 30, 2), np.float32, chunks=chunks, fillvalue=7)
        dataset[30:120] = images[30:120, :20, :30]  # the last chunks are never written
        expected = dataset[:]
        file["y"] = np.zeros(203)
    calls = []
    fill = _hdf5_chunks._fill
    monkeypatch.setattr(_hdf5_chunks, "_fill", lambda *key: calls.append(1) or fill(*key))
    lazy = load_calo_hdf5(path, lazy=True).images
    for start, stop in ((0, 203), (25, 77), (119, 120), (150, 203)):
        np.testing.assert_array_equal(lazy.read(start, stop), expected[start:stop])
    np.testing.assert_array_equal(load_calo_hdf5(path).images, expected)
    # In one piece, each of the five times. Of four chunks two were written: both are wanted twice and
    # once more for all images, then one of them, then none. Parts of images are left to the library.
    assert len(calls) == {None: 5, (64, 20, 30, 2): 2 + 2 + 2 + 1}.get(chunks, 0)


def test_an_array_that_was_never_written(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w", userblock_size=512) as file:
        file.create_dataset("X", (5, 3, 3, 1), np.float32, fillvalue=2)
        file["y"] = np.zeros(5)
    np.testing.assert_array_equal(load_calo_hdf5(tmp_path / "x.h5").images, 2)


def test_rows_beyond_the_end_of_a_file(tmp_path, images, monkeypatch):
    """Whoever cuts a file off while it is being read learns so, and gets no rows of nothing."""
    path = write(tmp_path / "x.h5", images, np.zeros(203), chunks=(7, *images.shape[1:]))
    lazy = load_calo_hdf5(path, lazy=True).images
    lazy[0]
    with h5py.File(path) as file:
        place = file["X"].id.get_chunk_info_by_coord((70, 0, 0, 0)).byte_offset
    os.truncate(path, place + 100)
    # Cut off between the check and the reading.
    states = {state.path: state for state in lazy._parts[0].states}
    monkeypatch.setattr(calo_files, "state_of", states.get)
    with pytest.raises(
        OSError, match=r"x.h5 is damaged in images 70 to 77: the file ends \d+ bytes"
    ):
        lazy.read(70, 77)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("change", ["overwrite", "replace", "remove"])
def test_a_file_that_was_rewritten_is_an_error(tmp_path, images, opened, change):
    """Its labels were read before, and may belong to other images."""
    path = write(tmp_path / "x.h5", images[:60], np.zeros(60))
    other = write(tmp_path / "other.h5", images[60:120], np.ones(60))
    lazy = load_calo_hdf5(path, lazy=True).images
    pickled = pickle.dumps(lazy)
    if opened:
        np.testing.assert_array_equal(lazy[0], images[0])
    if change == "replace":
        other.replace(path)
    elif change == "overwrite":
        path.write_bytes(other.read_bytes())
    else:
        path.unlink()
    message = r"No such file.*x\.h5" if change == "remove" else r"x\.h5 was changed after.*again"
    for stale in (lazy, pickle.loads(pickled)):
        with pytest.raises(OSError, match=message):
            stale[0]
    if change != "remove":
        np.testing.assert_array_equal(load_calo_hdf5(path, lazy=True).images[0], images[60])


def test_a_rewritten_file_behind_a_link_is_an_error(tmp_path, images):
    raw = write(tmp_path / "raw.h5", images[:20], np.zeros(20))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"], file["y"] = h5py.ExternalLink("raw.h5", "/X"), h5py.SoftLink("/labels")
        file["labels"] = np.arange(20)
    loaded = load_calo_hdf5(tmp_path / "x.h5", 2, 9, lazy=True)
    np.testing.assert_array_equal(loaded.target, np.arange(2, 9))
    np.testing.assert_array_equal(loaded.images[:], images[2:9])
    write(tmp_path / "new.h5", images[20:40], np.zeros(20)).replace(raw)
    with pytest.raises(OSError, match=r"x\.h5: .*raw\.h5 was changed after"):
        loaded.images[:]


@pytest.mark.parametrize(
    ("link", "message"),
    [
        (h5py.SoftLink("/nowhere"), "is a soft link to '/nowhere', which cannot be opened"),
        (h5py.ExternalLink("absent.h5", "/X"), "is a link to '/X' of the file 'absent.h5', which"),
    ],
    ids=["soft", "external"],
)
@pytest.mark.parametrize("key", ["X", "y"])
def test_links_to_nothing(tmp_path, images, link, message, key):
    path = write(tmp_path / "x.h5", images[:5], np.zeros(5))
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = link
    with pytest.raises(ValueError, match=rf"x\.h5: array '{key}' {message}"):
        load_calo_hdf5(path)


@pytest.mark.parametrize("key", ["X", "y"])
def test_types_that_are_no_numbers(tmp_path, images, key):
    path = write(tmp_path / "x.h5", images[:5], np.zeros(5))
    shape = images[:5].shape if key == "X" else (5,)
    with h5py.File(path, "a") as file:
        del file[key]
        file[key] = np.zeros(shape, [("energy", "f4"), ("time", "f4")])
    with pytest.raises(
        ValueError, match=rf"x\.h5: array '{key}' of type .* is not made of numbers"
    ):
        load_calo_hdf5(path)
    with h5py.File(path, "a") as file:
        del file[key]
        space = h5py.h5s.create_simple(shape)
        h5py.h5d.create(file.id, key.encode(), h5py.h5t.UNIX_D32LE, space)
    with pytest.raises(
        ValueError, match=rf"x\.h5: array '{key}' has an HDF5 type that numpy lacks"
    ):
        load_calo_hdf5(path)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_filter_that_is_not_installed_is_named(tmp_path, lazy):
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_chunk((5, 8, 8))
    plan.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple((5, 8, 8))
        data = h5py.Dataset(h5py.h5d.create(file.id, b"X", h5py.h5t.NATIVE_FLOAT, space, plan))
        data.id.write_direct_chunk((0, 0, 0), np.zeros((5, 8, 8), "f4").tobytes(), 0)
        file["y"] = np.arange(5)
    with pytest.raises(OSError, match=r"x\.h5: array 'X' is packed with the filter blosc .*plugin"):
        load_calo_hdf5(tmp_path / "x.h5", lazy=lazy).images[:]


@pytest.mark.parametrize("chunks", [None, (7, 6, 6)])
def test_bits_in_the_upper_part_of_a_number(tmp_path, chunks):
    values = np.random.default_rng(0).integers(0, 4_096, (20, 6, 6)).astype(np.uint16)
    kind = h5py.h5t.NATIVE_UINT16.copy()
    kind.set_precision(12)
    kind.set_offset(4)
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    if chunks:
        plan.set_chunk(chunks)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        space = h5py.h5s.create_simple(values.shape)
        h5py.Dataset(h5py.h5d.create(file.id, b"X", kind, space, plan))[:] = values
        file["y"] = np.zeros(20)
    np.testing.assert_array_equal(load_calo_hdf5(tmp_path / "x.h5").images, values)


@pytest.mark.parametrize("layout", [{"dtype": ">f4"}, {"fletcher32": True}, {"dtype": "u1"}])
def test_other_types_and_filters(tmp_path, layout):
    data = np.random.default_rng(0).integers(0, 200, (50, 6, 6, 1))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        kind = layout.pop("dtype", "f8")
        file.create_dataset(
            "X", data=data.astype(kind), chunks=(7, 4, 4, 1), compression="gzip", **layout
        )
        file["y"] = np.zeros(50)
    loaded = load_calo_hdf5(tmp_path / "x.h5").images
    np.testing.assert_array_equal(loaded, data)
    assert loaded.dtype == np.dtype(kind)


def test_a_damaged_chunk_is_an_error(tmp_path, images):
    path = write(tmp_path / "x.h5", images[:60], np.zeros(60), **LAYOUTS["published"])
    with h5py.File(path) as file:
        place = file["X"].id.get_chunk_info_by_coord((0, 0, 16, 0)).byte_offset
    content = bytearray(path.read_bytes())
    content[place : place + 40] = bytes(40)
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"x.h5 is damaged in images 0 to 60: .*filter"):
        load_calo_hdf5(path)


def test_pickles_hold_paths(paths, images):
    lazy = load_calo_hdf5(paths, lazy=True).images
    lazy[0]
    text = pickle.dumps(lazy)
    assert len(text) < 2_000
    np.testing.assert_array_equal(pickle.loads(text)[90:110], images[90:110])


@pytest.mark.skipif(sys.platform == "win32", reason="no fork")
def test_a_forked_process_opens_the_files_anew(paths, images, monkeypatch):
    lazy = load_calo_hdf5(paths, lazy=True).images
    lazy[0]
    before = lazy._files[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    np.testing.assert_array_equal(lazy[0], images[0])
    assert lazy._files[0] is not before


def test_the_published_split():
    assert CALO_SPLITS["train"] == (0, 160_000)
    sizes = [stop - start for start, stop in CALO_SPLITS.values()]
    assert sizes == [160_000, 25_600, 25_600]
    starts = [start for start, _ in CALO_SPLITS.values()]
    assert starts == [0, 160_000, 185_600]


def test_splits_by_name(tmp_path):
    path = tmp_path / "sparse.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", (211_200, 2, 2, 1), np.uint8, chunks=(1_000, 2, 2, 1))
        file["X"][160_000] = 7
        file["y"] = np.arange(211_200)
    for name, (start, stop) in CALO_SPLITS.items():
        loaded = load_calo_hdf5([path, path], split=name, lazy=True)
        assert loaded.images.shape == (2 * (stop - start), 2, 2, 1)
        assert loaded.target[0] == start
    validation = load_calo_hdf5(path, split="validation")
    assert validation.images[0].max() == 7
    assert validation.images.dtype == np.uint8


def test_splits_that_are_none(paths):
    with pytest.raises(ValueError, match=r"one of 'train', 'validation', 'test'.*got split='tset'"):
        load_calo_hdf5(paths, split="tset")
    with pytest.raises(ValueError, match="without start and stop"):
        load_calo_hdf5(paths, 5, split="train")
    with pytest.raises(ValueError, match=r"rows 0 to 160000 asked for.*its 98 images"):
        load_calo_hdf5(paths, split="train")


@pytest.mark.parametrize(("start", "stop"), [(5, 5), (10, 5), (-3, 5), (0, 99), (98, None)])
def test_ranges_that_are_not_in_the_file(paths, start, stop):
    with pytest.raises(ValueError, match=r"photons.hdf5: rows .* of its 98 images"):
        load_calo_hdf5(paths, start, stop)


def test_labels_that_are_no_whole_numbers_stay(tmp_path, images):
    path = write(tmp_path / "x.h5", images[:2], [0.5, 1.0])
    assert load_calo_hdf5(path).target.dtype == np.float32


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (np.array([1.0, np.inf]), np.float64),
        (np.array([1.0, np.nan]), np.float64),
        (np.array([1e19, 2e19]), np.float64),
        (np.array([-1e19, 3]), np.float64),
        (np.array([1e30, 2], np.float32), np.float32),
        (np.array([1, 2**64 - 1], np.uint64), np.uint64),
        (np.array([1, 2**63 - 1], np.uint64), np.int64),
        (np.array([-(2.0**53), 2.0**53]), np.int64),
        (np.array([1, 3], np.float16), np.int64),
        (np.array([True, False]), np.bool_),
    ],
    ids=str,
)
def test_whole_numbers_that_int64_cannot_hold_stay(tmp_path, images, labels, expected):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["X"], file["y"] = images[:2], labels
    target = load_calo_hdf5(tmp_path / "x.h5").target
    np.testing.assert_array_equal(target, labels)
    assert target.dtype == expected


def test_labels_of_text_and_of_numbers_do_not_mix(tmp_path, images):
    numbers = write(tmp_path / "numbers.h5", images[:2], np.zeros(2))
    text = write_text_labels(tmp_path / "text.h5", images[:2], np.array(["a", "b"]))
    with pytest.raises(ValueError, match=r"text\.h5: labels are of type object, .*numbers\.h5"):
        load_calo_hdf5([numbers, text])


def test_ranges_are_whole_numbers(paths):
    with pytest.raises(TypeError, match=r"start must be an integer or None, got 1\.5"):
        load_calo_hdf5(paths, 1.5)
    with pytest.raises(TypeError, match="paths must be a path or a list of paths, got int"):
        load_calo_hdf5(3)


def test_files_that_are_wrong(tmp_path, images):
    with pytest.raises(FileNotFoundError, match=r"absent\.h5: no such file"):
        load_calo_hdf5(tmp_path / "absent.h5")
    with pytest.raises(ValueError, match="at least one file"):
        load_calo_hdf5([])
    text = tmp_path / "text.h5"
    text.write_text("not at all")
    with pytest.raises(ValueError, match=r"text.h5 is not an HDF5 file"):
        load_calo_hdf5(text)
    whole = write(tmp_path / "whole.h5", images[:50], np.zeros(50))
    cut = tmp_path / "cut.h5"
    cut.write_bytes(whole.read_bytes()[:5_000])
    with pytest.raises(ValueError, match=r"cut.h5 is .*damaged or cut off"):
        load_calo_hdf5(cut)
    with h5py.File(tmp_path / "keys.h5", "w") as file:
        file["images"] = images[:2]
    with pytest.raises(ValueError, match=r"keys.h5: needs the arrays X and y, holds \['images'\]"):
        load_calo_hdf5(tmp_path / "keys.h5")
    short = write(tmp_path / "short.h5", images[:50], np.zeros(49))
    with pytest.raises(ValueError, match=r"short.h5: expected X .*\(50, 32, 32, 2\) and \(49,\)"):
        load_calo_hdf5(short)
    small = write(tmp_path / "small.h5", images[:50, :16], np.zeros(50))
    with pytest.raises(ValueError, match=r"small.h5: images are \(16, 32, 2\).*\(32, 32, 2\)"):
        load_calo_hdf5([whole, small])
    double = write(tmp_path / "double.h5", images[:50].astype(float), np.zeros(50))
    with pytest.raises(ValueError, match=r"double.h5: images are .* of float64"):
        load_calo_hdf5([whole, double])


def test_without_h5py(monkeypatch, paths):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(
        ImportError, match=r"h5py is needed for this: pip install 'skhep_nn\[hdf5\]'"
    ):
        load_calo_hdf5(paths)


def test_the_public_files(data_dir):
    paths = [data_dir / f"Single{name}Pt50_excerpt.hdf5" for name in ("Photon", "Electron")]
    if not all(path.is_file() for path in paths):
        pytest.skip("no excerpt of the electron and photon images")
    loaded = load_calo_hdf5(paths)
    assert loaded.images.shape == (200, 32, 32, 2)
    np.testing.assert_array_equal(loaded.target, np.arange(200) >= 98)
    lazy = load_calo_hdf5(paths, 10, 90, lazy=True).images
    np.testing.assert_array_equal(lazy[[3, 100]], loaded.images[[13, 128]])


def test_labels_of_text(tmp_path, images):
    kinds = np.array(["electron", "photon"] * 5)
    path = write_text_labels(tmp_path / "x.h5", images[:10], kinds)
    np.testing.assert_array_equal(load_calo_hdf5(path, 1, 9).target, kinds[1:9])


def write_text_labels(path, images, kinds):
    with h5py.File(path, "w") as file:
        file["X"] = images
        file.create_dataset("y", data=kinds.astype(object), dtype=h5py.string_dtype())
    return path
