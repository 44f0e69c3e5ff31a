"""`load` makes what `save` writes and nothing else, whatever a file says."""

import importlib
import inspect
import json
import pickle
import pkgutil
import sys
import zipfile
from pathlib import Path

import pytest

import skhep_nn
from skhep_nn import DenseNetClassifier, load, save
from skhep_nn._stored_types import FORMER, FORMER_TUPLES, STORED

skops = pytest.importorskip("skops")
protocol = pytest.importorskip("skops.io._protocol").PROTOCOL

LOADERS = ("ObjectNode", "TupleNode", "TypeNode", "FunctionNode", "ListNode", "DictNode")


class Payload:
    """Unpickling it makes a folder, which shows that code of the file was run."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return Path.mkdir, (Path(self.folder),)


def node(name, loader, module="builtins", **more):
    return {"__class__": name, "__module__": module, "__loader__": loader, **more}


def text(value):
    return node("str", "JsonNode", content=json.dumps(value), is_json=True)


def mapping(state):
    keys = node("list", "ListNode", content=[node("str", "TypeNode") for _ in state])
    return node("dict", "DictNode", content=state, key_types=keys)


def names_of_the_package():
    """Every class and function that any module of the package holds, with its own place and where it was found."""
    found = set()
    for module in pkgutil.walk_packages(skhep_nn.__path__, "skhep_nn."):
        if module.name.endswith("triton_kernels") or module.name.endswith("_dense_triton"):
            continue  # needs Triton, and holds kernels only
        loaded = importlib.import_module(module.name)
        for name, value in vars(loaded).items():
            if inspect.isclass(value) or inspect.isroutine(value) or inspect.ismodule(value):
                found.add((module.name, name))
                if getattr(value, "__module__", "").startswith("skhep_nn"):
                    found.add((value.__module__, value.__name__))
    return sorted(found)


def write(path, description, payload):
    """Write a file whose description names what it likes; the payload is what some classes would unpickle."""
    description = description | {"protocol": protocol, "_skops_version": skops.__version__}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("part.bin", pickle.dumps(payload))
        file.writestr("schema.json", json.dumps(description))


def forged(module, name, loader, folder):
    """Describe a part of some kind that claims to be of a type."""
    state = {
        "device": text("cpu"),
        "__cuda_dependent_attributes__": node("bytes", "BytesNode", file="part.bin"),
    }
    content = {
        "ObjectNode": mapping(state),
        "TupleNode": [text(str(folder))],
        "ListNode": [text(str(folder))],
        "DictNode": {"a": text("b")},
        "TypeNode": None,
        "FunctionNode": None,
    }[loader]
    more = {"key_types": mapping(state)["key_types"]} if loader == "DictNode" else {}
    return node(name, loader, module, content=content, **more)


@pytest.mark.parametrize("loader", LOADERS)
def test_nothing_of_the_package_is_made_but_what_is_listed(loader, tmp_path):
    """Each class, function and module in turn: refused, unless the table has it in this kind."""
    made = tmp_path / "made_by_the_file"
    path = tmp_path / "model.skops"
    names = names_of_the_package()
    before = set(sys.modules)
    n_refused = 0
    for module, name in names:
        stored = f"{module}.{name}"
        if STORED.get(FORMER.get(stored, stored)) == loader:
            continue
        if stored in FORMER_TUPLES and loader == "TupleNode":
            continue  # read as a plain tuple
        write(path, forged(module, name, loader, made), Payload(made))
        with pytest.raises(ValueError, match=r"model\.skops"):
            # Not even where the user trusts the name: no type that is not stored can be let in.
            load(path, trusted=[stored] if stored.startswith("skhep_nn") else [])
        assert not made.exists(), stored
        n_refused += 1
    assert n_refused > 800
    assert not {name for name in set(sys.modules) - before if name.startswith("skhep_nn")}


@pytest.mark.parametrize("module", ["antigravity", "skhep_nn.nowhere", "this", "lib2to3.main"])
def test_no_module_that_a_file_names_is_imported(module, tmp_path):
    path = tmp_path / "model.skops"
    write(path, forged(module, "Thing", "ObjectNode", tmp_path), None)
    with pytest.raises(ValueError, match=r"holds .*Thing"):
        load(path)
    assert module not in sys.modules


@pytest.mark.parametrize(
    "description",
    [
        node("fit", "MethodNode", "skhep_nn.DenseNetClassifier", content={"func": "fit"}),
        node("DenseNetClassifier", "ReduceNode", "skhep_nn", content={}),
        node("DenseNetClassifier", "CachedNode", "skhep_nn", __id__=1),
        node("DenseNetClassifier", "ObjectNode", "skhep_nn", content=text("no state")),
        node("dict", "DictNode", content={"1": text("a")},
             key_types=node("list", "ListNode", content=[
                 node("DenseNet", "TypeNode", "skhep_nn.networks")])),
        node("a b", "ObjectNode", "skhep_nn", content=mapping({})),
        node("x", "ObjectNode", None, content=mapping({})),
    ],
    ids=["method", "reduce", "cached", "state", "keys", "blank", "module"],
)  # fmt: skip
def test_other_ways_in_are_refused(description, tmp_path):
    path = tmp_path / "model.skops"
    write(path, description, None)
    with pytest.raises(ValueError, match=r"model\.skops"):
        load(path)


def changed(path, change):
    """Rewrite the archive with one entry changed, and nothing else."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def test_any_change_is_found_by_the_checksum(tmp_path):
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(max_epochs=1).fit([[0.0], [1.0]] * 20, [0, 1] * 20), path)
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    assert "checksum.sha256" in names
    for name in names:
        path.write_bytes(good)
        changed(path, lambda entries, name=name: entries.update({name: entries[name][:-1] + b"#"}))
        with pytest.raises(ValueError, match=r"model\.skops is damaged, .*checksum"):
            load(path)
    path.write_bytes(good)
    changed(path, lambda entries: entries.update({"more.npy": b""}))
    with pytest.raises(ValueError, match="checksum"):
        load(path)


def test_files_without_a_checksum_load(tmp_path):
    """The first version wrote none."""
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(n_members=4), path)
    changed(path, lambda entries: entries.pop("checksum.sha256"))
    assert load(path).n_members == 4


def test_an_entry_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "model.skops"
    save(DenseNetClassifier(), path)
    with pytest.warns(UserWarning, match="Duplicate name"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("schema.json", "{}")
    with pytest.raises(ValueError, match=r"schema\.json more than once"):
        load(path)
