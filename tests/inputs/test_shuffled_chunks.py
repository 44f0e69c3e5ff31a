"""Shuffled chunks: every row once, each chunk read once, well mixed, the same for a seed."""

import itertools
import threading
import time

import numpy as np
import pytest

from skhep_nn.inputs.shuffled_chunks import ArrayChunks, ShuffledChunks, even_bounds


class Recorded(ArrayChunks):
    """Source whose rows hold their own numbers; records the rows read and the thread that read them."""

    def __init__(self, n, chunk_size, delay=0.0):
        super().__init__(np.arange(n, dtype=np.int64), chunk_size)
        self.reads, self.threads, self.delay = [], set(), delay

    def read(self, start, stop):
        self.reads.append((start, stop))
        self.threads.add(threading.get_ident())
        time.sleep(self.delay)
        return super().read(start, stop)


def order_of(batches):
    return np.concatenate([rows for _, rows in batches])


@pytest.mark.parametrize("n", [1, 7, 100, 1_003])
@pytest.mark.parametrize("chunk_size", [1, 10, 64, 5_000])
@pytest.mark.parametrize("batch_size", [1, 13, 2_000])
def test_an_epoch_has_every_row_once_with_its_values(n, chunk_size, batch_size):
    batches = ShuffledChunks(Recorded(n, chunk_size), batch_size, buffer_size=50, random_state=0)
    seen = list(batches)
    for values, rows in seen:
        np.testing.assert_array_equal(values, rows)
    assert len(seen) == len(batches)
    assert {len(rows) for _, rows in seen[:-1]} <= {batch_size}
    np.testing.assert_array_equal(np.sort(order_of(seen)), np.arange(n))


def test_every_chunk_is_read_once_an_epoch_by_another_thread():
    source = Recorded(1_000, 64)
    batches = ShuffledChunks(source, 32, buffer_size=256, random_state=0)
    source.reads.clear()
    source.threads.clear()
    list(batches)
    bounds = even_bounds(1_000, 64)
    assert sorted(source.reads) == list(itertools.pairwise(bounds))
    assert source.reads != sorted(source.reads)
    assert threading.get_ident() not in source.threads


def test_several_threads_read_at_once_and_change_nothing():
    def epoch(n_threads):
        source = Recorded(400, 10, delay=0.01)
        batches = ShuffledChunks(source, 50, buffer_size=400, n_threads=n_threads, random_state=0)
        start = time.perf_counter()
        return order_of(batches), time.perf_counter() - start

    (alone, alone_seconds), (together, together_seconds) = epoch(1), epoch(8)
    np.testing.assert_array_equal(alone, together)
    assert together_seconds < 0.5 * alone_seconds


def test_the_next_buffer_is_read_while_this_one_is_used():
    source = Recorded(400, 10, delay=0.02)
    batches = ShuffledChunks(source, 100, buffer_size=100, n_threads=1, random_state=0)
    start = time.perf_counter()
    for _ in batches:
        time.sleep(0.2)
    # One after the other takes 0.8 s of reading and 0.8 s of use.
    assert time.perf_counter() - start < 1.35


def test_only_chosen_rows_and_their_chunks_are_read():
    source = Recorded(1_000, 100)
    rows = np.array([905, 3, 7, 910, 450])
    batches = ShuffledChunks(source, 2, rows=rows, random_state=0)
    source.reads.clear()
    seen = list(batches)
    np.testing.assert_array_equal(np.sort(order_of(seen)), np.sort(rows))
    assert sorted(source.reads) == [(3, 8), (450, 451), (905, 911)]
    assert len(batches) == len(seen) == 3
    for values, numbers in seen:
        np.testing.assert_array_equal(values, numbers)


def test_no_rows_give_no_batches():
    assert list(ShuffledChunks(np.zeros((0, 3)), 4)) == []
    assert list(ShuffledChunks(np.zeros((5, 3)), 4, rows=[])) == []


def test_the_last_batch_can_be_dropped():
    batches = ShuffledChunks(np.arange(105), 10, drop_last=True, buffer_size=20, random_state=0)
    assert [len(rows) for _, rows in batches] == [10] * 10 == [10] * len(batches)


def test_a_seed_gives_the_same_epochs_which_differ_from_each_other():
    def two_epochs(delay):
        batches = ShuffledChunks(Recorded(500, 20, delay), 64, buffer_size=100, random_state=3)
        return [order_of(batches) for _ in range(2)]

    first, second = two_epochs(0.0), two_epochs(0.001)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(*first)


def test_epochs_do_not_depend_on_whether_previous_ones_were_finished():
    finished, left = (ShuffledChunks(np.arange(300), 10, random_state=5) for _ in range(2))
    list(finished)
    next(iter(left))
    np.testing.assert_array_equal(order_of(finished), order_of(left))


@pytest.mark.parametrize(("chunk_size", "largest"), [(26, 0.026), (1_000, 0.09)])
def test_sorted_classes_are_mixed_in_every_batch(chunk_size, largest):
    """Share of a class in batches of 500, for two published files of one class each."""
    n, batch_size = 100_000, 500
    source = ArrayChunks(np.arange(n) >= n // 2, chunk_size)
    batches = ShuffledChunks(source, batch_size, buffer_size=8_000, random_state=0)
    share = [values.mean() for values, _ in batches]
    # A full shuffle has 0.0224; eight chunks of 1,000 rows taken anywhere would have 0.18.
    assert np.std(share) < largest
    assert np.mean(share) == pytest.approx(0.5)


def test_order_of_rows_differs_from_the_file():
    n = 100_000
    batches = ShuffledChunks(ArrayChunks(np.arange(n), 500), 256, buffer_size=8_000, random_state=1)
    order = order_of(batches)
    correlation = np.corrcoef(order, np.arange(n))[0, 1]
    assert abs(correlation) < 5 / np.sqrt(n)
    # Neighbours in the file are not beside each other in a buffer.
    place = np.argsort(order)
    assert np.mean(np.abs(np.diff(place)) < 256) < 0.1


def test_memory_maps_and_their_pieces(tmp_path):
    data = np.random.default_rng(0).normal(size=(600, 4)).astype(np.float32)
    np.save(tmp_path / "x.npy", data)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for values, rows in ShuffledChunks(mapped, 100, random_state=0):
        assert type(values) is np.ndarray
        np.testing.assert_array_equal(values, data[rows])


def test_an_unfinished_epoch_stops_reading():
    source = Recorded(10_000, 10, delay=0.002)
    epoch = iter(ShuffledChunks(source, 10, buffer_size=5_000, random_state=0))
    next(epoch)
    before = time.perf_counter()
    epoch.close()
    assert time.perf_counter() - before < 0.3
    assert len(source.reads) < 700


def test_errors_of_the_source_reach_the_caller():
    class Broken(Recorded):
        def read(self, start, stop):
            if start > 0:
                raise OSError("disk on fire")
            return super().read(start, stop)

    with pytest.raises(OSError, match="disk on fire"):
        list(ShuffledChunks(Broken(100, 10), 10, random_state=0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"batch_size": 2.5}, "batch_size must be an integer of at least 1, got 2.5"),
        ({"buffer_size": -1}, "buffer_size must be"),
        ({"n_threads": 0}, "n_threads must be"),
        ({"rows": [0, 0]}, "numbers from 0 to 9, each once, got 2 of them from 0 to 0, 1 diff"),
        ({"rows": [10]}, "numbers from 0 to 9"),
        ({"rows": [-1]}, "numbers from 0 to 9"),
        ({"rows": [0.5]}, "rows must be a list of row numbers"),
        ({"rows": [[1, 2]]}, r"got an array of shape \(1, 2\)"),
    ],
)
def test_bad_parameters(changes, message):
    parameters = {"batch_size": 2} | changes
    with pytest.raises(ValueError, match=message):
        ShuffledChunks(np.arange(10), **parameters)


def test_bad_sources():
    with pytest.raises(TypeError, match=r"read.*chunk_bounds.* got list"):
        ShuffledChunks([1, 2, 3], 2)
    source = ArrayChunks(np.arange(10))
    source.__class__ = type("Wrong", (ArrayChunks,), {"chunk_bounds": np.array([0, 4])})
    with pytest.raises(ValueError, match="ascend from 0 to the number of rows, 10"):
        ShuffledChunks(source, 2)
    with pytest.raises(ValueError, match="chunk_size must be"):
        ArrayChunks(np.arange(3), 0)


@pytest.mark.parametrize(
    ("change", "got"),
    [
        (lambda values: values[:-1], r"\(\d+, 3\) of float64"),
        (lambda values: np.concatenate([values, values[:1]]), r"\(\d+, 3\) of float64"),
        (lambda values: values[:, :2], r"\(\d+, 2\) of float64"),
        (lambda values: values.astype(np.int64), r"\(\d+, 3\) of int64"),
    ],
    ids=["fewer", "more", "other shape", "other type"],
)
@pytest.mark.parametrize("rows", [None, np.arange(1, 40, 2)], ids=["all", "every other"])
def test_rows_unlike_the_first_are_an_error(change, got, rows):
    """A file that changes while it is read must not give repeated or rounded rows."""

    class Changing(ArrayChunks):
        def read(self, start, stop):
            values = super().read(start, stop)
            return change(values) if start > 8 else values

    source = Changing(np.random.default_rng(0).random((40, 3)), chunk_size=8)
    message = rf"source\.read\(\d+, \d+\) must return rows like the first.* got {got}"
    with pytest.raises(ValueError, match=message):
        list(ShuffledChunks(source, 5, rows=rows, random_state=0))
