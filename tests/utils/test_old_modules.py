"""Names of modules that have moved are still found, by imports and by pickles, with a warning."""

import importlib
import importlib.util
import pickle
import sys

import pytest

from skhep_nn import DenseNetClassifier
from skhep_nn.kinematics.momenta import Turn
from skhep_nn.utils import old_modules

OLD = "skhep_nn._a_module_that_was"


@pytest.fixture
def moved(monkeypatch):
    """A module that was where there is none now, and an unused one that it is said to have become."""
    monkeypatch.setitem(old_modules.MOVED, OLD, "skhep_nn.kinematics.momenta")
    yield
    sys.modules.pop(OLD, None)
    vars(sys.modules["skhep_nn"]).pop(OLD.rpartition(".")[2], None)


def test_what_has_moved_is_found_with_a_warning(moved):
    module = importlib.import_module(OLD)
    with pytest.warns(DeprecationWarning, match=r"_a_module_that_was\.Turn has moved to .*momenta"):
        assert module.Turn is Turn
    with pytest.raises(AttributeError, match="Nothing"):
        _ = module.Nothing


def test_pickles_that_name_it_load(moved):
    data = pickle.dumps(Turn(0.0, 1.0, 0.0, 1.0, 1.0), protocol=2)
    old = data.replace(b"cskhep_nn.kinematics.momenta\n", f"c{OLD}\n".encode())
    assert old != data
    with pytest.warns(DeprecationWarning, match="has moved"):
        assert pickle.loads(old) == Turn(0.0, 1.0, 0.0, 1.0, 1.0)


def test_nothing_is_imported_before_it_is_asked_for(monkeypatch):
    monkeypatch.setitem(old_modules.MOVED, OLD, "skhep_nn._never_imported")
    module = importlib.import_module(OLD)
    for name in ("__path__", "__file__", "__wrapped__"):
        assert not hasattr(module, name)
    with pytest.raises(ModuleNotFoundError, match="_never_imported"):
        _ = module.Turn
    del sys.modules[OLD]


def test_other_modules_are_not_served():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("skhep_nn._no_such_module")


def test_registered_once():
    before = list(sys.meta_path)
    old_modules.register()
    assert sys.meta_path == before
    assert [type(finder).__name__ for finder in before].count("_MovedModules") == 1


def test_classes_name_their_public_place():
    assert DenseNetClassifier.__module__ == "skhep_nn"


def test_every_module_of_the_flat_folder_leads_somewhere():
    for old, new in old_modules.MOVED.items():
        assert importlib.util.find_spec(new), f"{old} is said to be in {new}"
        with pytest.raises(ImportError):
            importlib.import_module(new + "._no_such_module")


@pytest.mark.parametrize("old", old_modules.RENAMED)
def test_names_that_left_a_module_that_is_still_there(old):
    module, _, name = old.rpartition(".")
    new, _, attribute = old_modules.RENAMED[old].rpartition(".")
    with pytest.warns(DeprecationWarning, match="has moved to"):
        found = getattr(importlib.import_module(module), name)
    assert found is getattr(importlib.import_module(new), attribute)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = importlib.import_module(module).nothing
