"""Ctrl-C is noted, and held back."""

import signal
import threading

import pytest

from skhep_nn.utils.interrupts import interrupts_held, interrupts_noted


@pytest.fixture(autouse=True)
def answered():
    """Answer Ctrl-C also where a shell started the tests in the background, which ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def press():
    signal.raise_signal(signal.SIGINT)


def test_ctrl_c_is_told_from_other_interrupts():
    with pytest.raises(KeyboardInterrupt), interrupts_noted() as ours:
        raise KeyboardInterrupt
    assert not ours.seen
    with pytest.raises(KeyboardInterrupt), interrupts_noted() as ours, interrupts_noted() as inner:
        press()
    assert ours.seen
    assert inner.seen


def test_a_handler_that_does_not_interrupt_is_no_interrupt():
    calls = []
    signal.signal(signal.SIGINT, lambda *args: calls.append(args))
    with interrupts_noted() as ours:
        press()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert len(calls) == 1
    assert not ours.seen


def test_ctrl_c_waits_for_the_end_of_a_block():
    done = []

    def work():
        with interrupts_held():
            press()
            done.append("block")
        done.append("more")

    with interrupts_noted() as ours, pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["block"]
    assert ours.seen


def test_ctrl_c_waits_for_the_outermost_block():
    done = []

    @interrupts_held()
    def work():
        with interrupts_held():
            press()
        done.append("inner")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["inner"]


def test_a_second_ctrl_c_does_not_wait():
    done = []

    @interrupts_held()
    def work():
        press()
        done.append("first")
        press()
        done.append("second")

    with pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["first"]


def test_ctrl_c_is_not_lost_where_a_block_fails():
    @interrupts_held()
    def work():
        press()
        raise ValueError

    with pytest.raises(KeyboardInterrupt):
        work()


def test_other_threads_are_left_alone():
    found = []

    def work():
        with interrupts_noted() as ours, interrupts_held():
            found.append((ours.seen, signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, signal.default_int_handler)]


def test_ignored_interrupts_stay_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts_noted() as ours, interrupts_held():
        press()
    assert signal.signal(signal.SIGINT, signal.default_int_handler) == signal.SIG_IGN
    assert not ours.seen
