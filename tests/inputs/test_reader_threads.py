"""How many threads read: more while batches wait for them and reading becomes faster by it."""

import os
import threading
import time

import numpy as np
import pytest

from skhep_nn.inputs.shuffled_chunks import ArrayChunks, ReaderThreads, ShuffledChunks


@pytest.fixture(autouse=True)
def many_processors(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 16)


def judged(*told):
    """Numbers of threads after buffers of which rate and waiting are told; the number is as asked for."""
    threads = ReaderThreads(None)
    numbers = []
    for rate, waited in told:
        threads.judge(threads.n_threads, rate, waited=waited)
        numbers.append(threads.n_threads)
    return numbers


def test_one_is_enough_for_those_who_need_not_wait():
    assert judged((1.0, False), (1.0, False)) == [1, 1]


def test_twice_as_many_as_long_as_that_helps():
    assert judged((1, True), (2, True), (4, True), (8, True), (9, True)) == [2, 4, 8, 8, 8]
    assert judged((1, True), (1.9, True), (3.5, False), (3.5, False)) == [2, 4, 4, 4]


def test_back_to_fewer_for_good_if_it_does_not():
    assert judged((1.0, True), (1.2, True), (0.1, True)) == [2, 1, 1]
    assert judged((1.0, True), (2.0, True), (1.5, True), (1.5, True)) == [2, 4, 2, 2]


def test_what_was_read_by_another_number_tells_nothing():
    threads = ReaderThreads(None)
    threads.judge(1, 1.0, waited=True)
    threads.judge(1, 1.0, waited=True)  # was under way already
    assert threads.n_threads == 2
    threads.judge(2, 2.0, waited=False)
    assert threads.n_threads == 2


def test_a_number_that_is_given_stays():
    threads = ReaderThreads(3)
    for waited in (True, False):
        threads.judge(3, 1.0, waited=waited)
        assert threads.n_threads == threads.most == 3


@pytest.mark.parametrize(("processors", "most"), [(None, 1), (1, 1), (2, 1), (5, 4), (64, 8)])
def test_one_processor_is_left_to_others(monkeypatch, processors, most):
    monkeypatch.setattr(os, "cpu_count", lambda: processors)
    assert ReaderThreads(None).most == most


class Slow(ArrayChunks):
    """Rows that take their time, several chunks at once or one after the other."""

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


def test_who_is_slower_than_reading_has_one_thread():
    batches = ShuffledChunks(Slow(0.0), 400, buffer_size=800, random_state=0)
    for _ in batches:
        time.sleep(0.05)
    assert batches._readers.n_threads == 1


@pytest.mark.parametrize("buffer_size", [6_400, 3_200])
def test_few_buffers_adapt_from_pass_to_pass(buffer_size):
    batches = ShuffledChunks(Slow(0.0005), 50, buffer_size=buffer_size, random_state=0)
    for _ in range(4):
        for _ in batches:
            pass
    assert batches._readers.n_threads in {4, 8}
