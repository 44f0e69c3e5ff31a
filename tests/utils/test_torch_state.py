"""Global state of torch is changed for the time of a block only."""

import threading

import pytest
import torch

from skhep_nn.utils.torch_state import usual_defaults


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)


def test_the_usual_defaults_hold_inside_a_block():
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    with usual_defaults():
        made = torch.zeros(1)
    assert (made.dtype, made.device.type) == (torch.float32, "cpu")
    made = torch.zeros(1)
    assert (made.dtype, made.device.type) == (torch.float64, "meta")


def test_the_usual_defaults_are_restored_after_an_error():
    torch.set_default_dtype(torch.float64)
    with pytest.raises(ZeroDivisionError), usual_defaults():
        _ = 1 / 0
    assert torch.get_default_dtype() == torch.float64


def test_the_last_thread_restores_the_dtype():
    torch.set_default_dtype(torch.float64)
    entered, leave, found = threading.Event(), threading.Event(), []

    def work():
        with usual_defaults():
            entered.set()
            leave.wait(60)
            found.append(torch.get_default_dtype())

    thread = threading.Thread(target=work)
    with usual_defaults():
        thread.start()
        entered.wait(60)
    leave.set()
    thread.join()
    assert found == [torch.float32]
    assert torch.get_default_dtype() == torch.float64
