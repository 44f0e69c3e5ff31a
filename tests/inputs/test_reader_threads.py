"""Number of reading threads: more while batches wait and reading becomes faster."""

import os
import threading
import time

import numpy as np
import pytest

from skhep_nn.inputs.shuffled_chunks import ArrayChunks, ReaderThreads, ShuffledChunks


@pytest.fixture(autouse=True)
def many_processors(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


def threads_after(*buffers):
    """Return the number of threads after each buffer, given its rate and whether it was waited for."""
    threads = ReaderThreads(None)
    numbers = []
    for rate, waited in buffers:
        threads.judge(threads.n_threads, rate, waited=waited)
        numbers.append(threads.n_threads)
    return numbers


def test_one_thread_if_nothing_waits():
    assert threads_after((1.0, False), (1.0, False)) == [1, 1]


def test_threads_double_while_that_helps():
    assert threads_after((1, True), (2, True), (4, True), (8, True), (9, True)) == [2, 4, 8, 8, 8]
    assert threads_after((1, True), (1.9, True), (3.5, False), (3.5, False)) == [2, 4, 4, 4]


def test_fewer_threads_for_good_if_more_do_not_help():
    assert threads_after((1.0, True), (1.2, True), (0.1, True)) == [2, 1, 1]
    assert threads_after((1.0, True), (2.0, True), (1.5, True), (1.5, True)) == [2, 4, 2, 2]


def test_buffers_read_by_another_number_of_threads_are_ignored():
    threads = ReaderThreads(None)
    threads.judge(1, 1.0, waited=True)
    threads.judge(1, 1.0, waited=True)  # was being read before the number changed
    assert threads.n_threads == 2
    threads.judge(2, 2.0, waited=False)
    assert threads.n_threads == 2


def test_a_given_number_of_threads_stays():
    threads = ReaderThreads(3)
    for waited in (True, False):
        threads.judge(3, 1.0, waited=waited)
        assert threads.n_threads == threads.most == 3


@pytest.mark.parametrize(("processors", "most"), [(None, 1), (1, 1), (2, 1), (5, 4), (64, 8)])
def test_one_processor_stays_free(monkeypatch, processors, most):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert ReaderThreads(None).most == most


class Slow(ArrayChunks):
    """Slow source, which reads several chunks at once or one after the other."""

    def __init__(self, seconds, *, at_once=True):
        super().__init__(np.arange(6_400), 10)
        self.seconds = seconds
        self.permits = threading.Semaphore(64 if at_once else 1)

    def read(self, start, stop):
        with self.permits:
            time.sleep(self.seconds)
        return super().read(start, stop)


@pytest.mark.parametrize(("at_once", "numbers"), [(True, {4, 8}), (False, {1})])
def test_reading_adapts_to_its_source(at_once, numbers):
    source = Slow(0.002, at_once=at_once)
    batches = ShuffledChunks(source, 50, buffer_size=320, random_state=0)
    seen = np.concatenate([rows for _, rows in batches])
    np.testing.assert_array_equal(np.sort(seen), np.arange(6_400))
    assert batches._readers.n_threads in numbers


def test_a_slow_consumer_gets_one_thread():
    batches = ShuffledChunks(Slow(0.0), 400, buffer_size=800, random_state=0)
    for _ in batches:
        time.sleep(0.05)
    assert batches._readers.n_threads == 1


@pytest.mark.parametrize("buffer_size", [6_400, 3_200])
def test_few_buffers_adapt_between_epochs(buffer_size):
    batches = ShuffledChunks(Slow(0.0005), 50, buffer_size=buffer_size, random_state=0)
    for _ in range(4):
        for _ in batches:
            pass
    assert batches._readers.n_threads in {4, 8}
