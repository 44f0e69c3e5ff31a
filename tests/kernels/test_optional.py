"""The folder of kernels can be deleted: what is left is slower, and gives the same answers."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import skhep_nn
from skhep_nn import DenseNetClassifier, EventAugmenter, make_higgs_events
from skhep_nn.utils import optional

PACKAGE = Path(skhep_nn.__file__).parent

FITS = {
    "one member": {},
    "five members": {"n_members": 5},
    "dropout": {"n_members": 2, "dropout": 0.2},
    "views": {"augmentation": EventAugmenter()},
}

PROGRAM = """
import json, sys
import numpy as np
sys.path.insert(0, {folder!r})
import skhep_nn
from tests.kernels.test_optional import predictions
assert skhep_nn.__file__.startswith({folder!r})
np.savez({output!r}, **predictions())
print(json.dumps(sorted(name for name in sys.modules if name.startswith("skhep_nn.kernels"))))
"""


def predictions():
    """What small fits predict, for few rows and for more than a chunk."""
    events = make_higgs_events(1200, random_state=0)
    X = events.data[["PRI_tau_pt", "PRI_tau_eta", "PRI_tau_phi", "PRI_met", "PRI_met_phi"]]
    X = X.assign(jets=events.data["PRI_jet_num"])
    found = {}
    for name, params in FITS.items():
        model = DenseNetClassifier(
            max_epochs=3,
            batch_size=64,
            categorical_features=["jets"],
            device="cpu",
            random_state=0,
            **params,
        )
        model.fit(X, events.target, sample_weight=events.sample_weight)
        found[name] = model.predict_proba(X)
        found[name + ", one row"] = model.predict_proba(X[:1])
    return found


@pytest.mark.slow
def test_the_folder_of_kernels_can_be_deleted(tmp_path):
    copy = tmp_path / "without"
    shutil.copytree(
        PACKAGE, copy / "skhep_nn", ignore=shutil.ignore_patterns("kernels", "__pycache__")
    )
    shutil.copytree(Path(__file__).parent, copy / "tests" / "kernels")
    output = tmp_path / "found.npz"
    program = PROGRAM.format(folder=str(copy), output=str(output))
    run = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=copy,
        env=os.environ | {"PYTHONPATH": str(copy)},
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout.splitlines()[-1]) == []
    without = np.load(output)
    for name, expected in predictions().items():
        # Dropout draws its masks by another generator there, and the fits differ.
        tolerance = 0.15 if "dropout" in name else 1e-4
        np.testing.assert_allclose(without[name], expected, atol=tolerance, err_msg=name)


def test_kernels_are_found_and_what_they_lack_is_not_hidden(monkeypatch):
    assert optional.kernels("cpu_step").DenseStep
    optional.kernels.cache_clear()

    def lacking(name):
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(optional.importlib, "import_module", lacking)
    with pytest.raises(ModuleNotFoundError, match="torch"):
        optional.kernels("cpu_step")
    optional.kernels.cache_clear()
