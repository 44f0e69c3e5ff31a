"""Files that earlier versions stored load in this one and predict the same."""

import json
import warnings
import zipfile
import zlib
from pathlib import Path

import joblib
import numpy as np
import pytest
import sklearn
from numpy.testing import assert_allclose
from sklearn.base import clone

from skhep_nn import CartesianMomenta, EventAugmenter, load, save
from tests.io.write_stored_models import make_inputs, make_models

pytest.importorskip("skops.io")

STORED = Path(__file__).parent / "stored"
SKOPS = sorted(STORED.glob("*/*.skops"))
PICKLES = sorted(STORED.glob("*/*.joblib"))


def name_of(path):
    return f"{path.parent.name}-{path.name}"


@pytest.fixture(scope="module")
def inputs():
    return make_inputs()


def check_predictions(model, path, inputs):
    _, data, _, method = make_models()[path.stem]
    with np.load(path.parent / "predictions.npz") as predictions:
        expected = predictions[path.stem]
    found = np.asarray(getattr(model, method)(inputs[data]))
    # In units of the largest prediction: another chip rounds sums of large terms differently.
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("path", SKOPS, ids=name_of)
def test_files_of_save(path, inputs):
    check_predictions(load(path), path, inputs)


@pytest.mark.parametrize("path", PICKLES, ids=name_of)
def test_pickles(path, inputs):
    stored_by = json.loads((path.parent / "versions.json").read_text())["scikit-learn"]
    if stored_by != sklearn.__version__:
        pytest.skip(f"a pickle of scikit-learn {stored_by}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # names modules that have moved
        model = joblib.load(path)
    check_predictions(model, path, inputs)


def test_every_kind_of_model_is_there():
    for folder in STORED.iterdir():
        assert {path.stem for path in folder.glob("*.skops")} == set(make_models())
        assert {path.stem for path in folder.glob("*.joblib")} == set(make_models())


@pytest.mark.parametrize("path", sorted((STORED / "0.1").glob("*.skops")), ids=name_of)
def test_files_name_only_what_is_public(path):
    with zipfile.ZipFile(path) as archive:
        waiting = [json.loads(archive.read("schema.json"))]
        assert "checksum.sha256" in archive.namelist()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            if str(part.get("__module__")).startswith("skhep_nn"):
                names = f"{part['__module__']}.{part['__class__']}".split(".")
                assert not [name for name in names if name.startswith("_")]
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part


@pytest.mark.parametrize("path", sorted((STORED / "0.1").glob("*.joblib")), ids=name_of)
def test_pickles_name_only_what_is_public(path):
    content = zlib.decompress(path.read_bytes())
    assert b"skhep_nn" in content
    assert b"skhep_nn._" not in content


@pytest.mark.parametrize("path", [p for p in SKOPS if "augmenter" in p.stem], ids=name_of)
def test_old_files_have_the_defaults_of_new_parameters(path, inputs):
    model = load(path)
    assert repr(clone(model))
    if "objects" in model.get_params():
        assert model.get_params()["objects"] is None
        assert model.fit(inputs["events"]).objects_


def test_objects_that_users_name_are_stored(tmp_path, inputs):
    events = inputs["events"].rename(columns={"lep_pt": "a", "lep_eta": "b", "lep_phi": "c"})
    objects = {"lep": {"pt": "a", "eta": "b", "phi": 2}}
    for step in (
        EventAugmenter(objects=objects, random_state=0),
        CartesianMomenta(objects=objects),
    ):
        save(step.fit(events), tmp_path / "step.skops")
        loaded = load(tmp_path / "step.skops")
        assert loaded.get_params() == step.get_params()
        assert loaded.objects_ == step.objects_
        assert loaded.objects_["lep"] == {"pt": "a", "eta": "b", "phi": "c"}
        assert loaded.transform(events).equals(step.transform(events))
        with pytest.raises(ValueError, match="azimuth"):
            loaded.transform(events.assign(c=170.0))
