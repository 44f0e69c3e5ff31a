"""Work side by side on threads."""

import os
import signal
import threading
import time

import pytest

from skhep_nn.utils.parallel import side_by_side


def test_ctrl_c_while_threads_start_waits_for_their_end(monkeypatch):
    """A pool forgets a thread whose start is interrupted: it would go on training while the fit already ends."""
    start, started, ended = threading.Thread.start, [], []

    def interrupted_start(thread):
        start(thread)
        started.append(thread)
        if len(started) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def task(stop):
        assert stop.wait(10)
        time.sleep(0.1)  # a step that is under way
        ended.append(threading.current_thread())

    monkeypatch.setattr(threading.Thread, "start", interrupted_start)
    with pytest.raises(KeyboardInterrupt):
        side_by_side([task, task])
    assert len(ended) == len(started) == 2
    assert not any(thread.is_alive() for thread in started)
