"""What every test shares: one thread, no window, and the excerpts of public data."""

import os

# Before torch, scipy and matplotlib are imported anywhere: they read these only once. The
# conformance suites are many tiny fits, which several threads make slower, and scikit-learn's
# array-API check runs only where SciPy was told to accept other arrays.
for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("SCIPY_ARRAY_API", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked ``cuda`` where torch sees no GPU."""
    cuda_items = [item for item in items if item.get_closest_marker("cuda")]
    if not cuda_items:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, torch sees none")
        for item in cuda_items:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of the real-data excerpts; the test is skipped where it is absent."""
    default = PROJECT_ROOT.parent / "shared" / "data"
    folder = Path(os.environ.get("SKHEP_NN_DATA", default))
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} is not a folder; set SKHEP_NN_DATA to where it is")
    return folder


@pytest.fixture(scope="session")
def higgsml_excerpt(data_dir: Path) -> Iterator[pd.DataFrame]:
    """Real ATLAS events of the 2014 Higgs challenge, raw columns, -999.0 read as NaN.

    All tests get the same frame: take a ``.copy()`` before changing it. A test that does not
    is found out at the end of the session.
    """
    path = data_dir / "higgsml_excerpt.csv.gz"
    if not path.is_file():
        pytest.skip(f"no real data: {path} is absent")
    frame = pd.read_csv(path).replace(-999.0, np.nan)
    shared = frame.copy()
    yield shared
    pd.testing.assert_frame_equal(shared, frame)


@pytest.fixture(scope="session")
def calo_simulator() -> ModuleType:
    """The benchmark's own module: its shapes and distances are the ones that the docs print."""
    return importlib.import_module("benchmarks.images.simulator")
