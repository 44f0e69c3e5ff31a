"""No public call changes what other code of the process relies on."""

import os
import random
import sys
import warnings

import numpy as np
import pytest
import torch
import torch._dynamo  # torch imports its compiler with the first optimizer, which sets a folder in the environment

from skhep_nn import load, save
from tests.io.write_stored_models import make_inputs, make_models

pytest.importorskip("skops.io")

MODELS = make_models()


def global_state():
    """Everything global that a fit, a prediction or a file could change."""
    numpy_state = np.random.get_state()  # noqa: NPY002 - the global state is what is tested
    return {
        "threads of torch": torch.get_num_threads(),
        "dtype of torch": torch.get_default_dtype(),
        "device of torch": torch.get_default_device(),
        "gradients": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision of products": torch.get_float32_matmul_precision(),
        "cuDNN": (torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_inference_mode_enabled()),
        "seed of torch": torch.get_rng_state().numpy().tobytes(),
        "seed of numpy": numpy_state[1].tobytes() + bytes(str(numpy_state[2:]), "ascii"),
        "seed of Python": random.getstate(),
        "errors of numpy": np.geterr(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "folder": os.getcwd(),  # noqa: PTH109
        "path": list(sys.path),
        "print": (sys.stdout, sys.stderr, sys.excepthook),
        "options of numpy": np.get_printoptions(),
    }


@pytest.mark.parametrize("name", MODELS)
def test_fits_predictions_and_files_leave_global_state_alone(name, tmp_path, capfd):
    model, data, target, method = MODELS[name]
    inputs = make_inputs()
    X, y = inputs[data], inputs[target]
    before = global_state()
    for step, call in {
        "fit": lambda: model.fit(X, y),
        method: lambda: getattr(model, method)(X),
        "save": lambda: save(model, tmp_path / "model.skops"),
        "load": lambda: load(tmp_path / "model.skops"),
    }.items():
        call()
        after = global_state()
        changed = [name for name in before if before[name] != after[name]]
        assert not changed, (step, changed)
    written = capfd.readouterr()
    assert (written.out, written.err) == ("", "")
