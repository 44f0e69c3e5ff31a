"""Files made by other means than `save` cannot run code, import a module or crash a prediction."""

import importlib
import inspect
import json
import os
import pickle
import pkgutil
import sys
import zipfile

import numpy as np
import pytest
from scipy import sparse
from sklearn.svm import SVC

import skhep_nn
from skhep_nn import load, save
from skhep_nn.io.stored_types import FORMER, FORMER_TUPLES, STORED

skops = pytest.importorskip("skops")
pytest.importorskip("skops.io")

PROTOCOL = 2


def node(module, name, loader, **more):
    return {"__class__": name, "__module__": module, "__loader__": loader, **more}


def text(value):
    return node("builtins", "str", "JsonNode", content=json.dumps(value), is_json=True)


def listed(*content):
    return node("builtins", "list", "ListNode", content=list(content))


def table(content, key=None):
    """A dictionary with keys of one type, by default text."""
    key = node("builtins", "str", "TypeNode") if key is None else key
    return node(
        "builtins", "dict", "DictNode", content=content, key_types=listed(*[key] * len(content))
    )


class Forger:
    """Writes files, and checks that loading them neither runs the code in them nor imports a module."""

    def __init__(self, folder):
        self.path, self.made = folder / "model.skops", folder / "made_by_the_file"
        self.payload = pickle.dumps(self)

    def __reduce__(self):
        return os.mkdir, (str(self.made),)

    def load(self, description, **options):
        description = {**description} if isinstance(description, dict) else description
        description.setdefault("protocol", PROTOCOL)
        description["_skops_version"] = skops.__version__
        with zipfile.ZipFile(self.path, "w") as archive:
            archive.writestr("part.bin", self.payload)
            archive.writestr("schema.json", json.dumps(description))
        before = set(sys.modules)
        try:
            return load(self.path, **options)
        finally:
            assert not self.made.exists(), "code was executed"
            imported = set(sys.modules) - before
            # zipfile imports this encoding when it reads its first archive.
            assert imported <= {"encodings.cp437"}, "a module was imported"


@pytest.fixture
def forger(tmp_path):
    return Forger(tmp_path)


def state():
    """Attributes that would make skorch's net unpickle, or that hide methods of an object."""
    part = node("builtins", "bytes", "BytesNode", file="part.bin", __id__=1)
    names = ("__cuda_dependent_attributes__", "__dict__", "__class__", "__reduce__", "fit")
    return table({"device": text("cpu")} | dict.fromkeys(names, part))


def everything():
    """Yield every class and function of the package under all of its names there."""
    modules = [skhep_nn]
    for found in pkgutil.walk_packages(skhep_nn.__path__, "skhep_nn."):
        try:
            modules.append(importlib.import_module(found.name))
        except ImportError:  # an optional package is missing
            continue
    for module in modules:
        for name, value in vars(module).items():
            if inspect.isclass(value) or inspect.isfunction(value):
                yield module.__name__, name, value


def may_be_made(module, name, loader):
    former = f"{module}.{name}"
    if former in FORMER_TUPLES:
        return loader == "TupleNode"
    return STORED.get(FORMER.get(former, former)) == loader


def test_only_listed_types_of_the_package_are_created(forger):
    """Names that a module of the package imports from elsewhere cannot be used either."""
    made = set()
    n_refused = 0
    for module, name, value in list(everything()):
        parts = {
            "ObjectNode": {"content": state()},
            "TupleNode": {"content": [text(1)] * 3},
            "TypeNode": {},
            "FunctionNode": {},
        }
        own = value.__module__.startswith("skhep_nn")
        for loader in parts if own else ["TypeNode"]:
            forged = node(module, name, loader, **parts[loader])
            if may_be_made(module, name, loader):
                if loader == "ObjectNode":
                    with pytest.raises(ValueError, match="in place of its method"):
                        forger.load(forged)
                else:
                    forger.load(forged)
                made.add(FORMER.get(f"{module}.{name}", f"{module}.{name}"))
            else:
                with pytest.raises(ValueError, match=r"model\.skops holds skhep_nn"):
                    forger.load(forged)
                n_refused += 1
    assert made - FORMER_TUPLES == set(STORED)
    assert n_refused > 1000


def test_listed_names_are_public_and_made_by_our_own_code():
    for name, loader in STORED.items():
        module, _, attribute = name.rpartition(".")
        found = getattr(importlib.import_module(module), attribute)
        assert (found.__module__, found.__name__) == (module, attribute)
        assert not [part for part in name.split(".") if part.startswith("_")]
        if loader == "ObjectNode":
            makers = [k for k in found.__mro__ if {"__setstate__", "__new__"} & vars(k).keys()]
            ours_or_known = [
                k for k in makers if k.__module__.startswith(("skhep_nn", "sklearn.base"))
            ]
            assert [k for k in makers if k not in ours_or_known] in ([], [object])
    assert set(FORMER.values()) <= set(STORED)
    classes = {name for name in skhep_nn.__all__ if inspect.isclass(getattr(skhep_nn, name))}
    assert classes == {n.rpartition(".")[2] for n, k in STORED.items() if k == "ObjectNode"}


NET = ("skhep_nn.training.net", "MemberNet")
NETWORK = node("skhep_nn.networks", "DenseNet", "TypeNode")
OURS = ("skhep_nn", "DenseNetClassifier")
FUNCTION = node("skhep_nn.io", "load", "FunctionNode")
FORGED = {
    "net": node(*NET, "ObjectNode", content=state()),
    "net in a list": listed(node(*NET, "ObjectNode", content=state())),
    "net in an object": node(*OURS, "ObjectNode", content=table({"a": node(*NET, "TypeNode")})),
    "net by its constructor": node(*NET, "ConstructorFromReduceNode", content=listed()),
    "ours by its constructor": node(*OURS, "ConstructorFromReduceNode", content=listed(text(1))),
    "ours without a state": node(*OURS, "ObjectNode"),
    "ours with a list as its state": node(*OURS, "ObjectNode", content=listed()),
    "ours as a loss": node(*OURS, "LossNode", content=table({}), __reduce__={"args": listed()}),
    "ours as an array": node(*OURS, "NdArrayNode", type="json", content=[], shape=listed(text(0))),
    "ours as a dictionary": node(*OURS, "DictNode", content={}, key_types=listed()),
    "ours as a list": node(*OURS, "ListNode", content=[text("a")]),
    "ours as a seed": node(*OURS, "RandomStateNode", content=table({})),
    "ours as text": node(*OURS, "JsonNode", content="1"),
    "ours as a slice": node(*OURS, "SliceNode", content={"start": 0, "stop": 1, "step": 1}),
    "method of ours": node(
        *OURS,
        "MethodNode",
        content={"func": "fit", "obj": node(*OURS, "ObjectNode", content=state())},
    ),
    "function": FUNCTION,
    "partial": node(
        "functools",
        "partial",
        "PartialNode",
        content={"func": FUNCTION, "args": listed(), "kwds": table({}), "namespace": table({})},
    ),
    "operator": node("operator", "attrgetter", "OperatorFuncNode", attrs=listed(FUNCTION)),
    "module in a module": node("skhep_nn.io.persistence", "os", "TypeNode"),
    "no module of ours": node("skhep_nn.nowhere", "Thing", "ObjectNode"),
    "package itself": node("skhep_nn", "io", "TypeNode"),
    "dots": node("skhep_nn", "networks.DenseNet", "TypeNode"),
    "network as a type of keys": table({"a": text(1)}, NETWORK),
    "network as default value": node(
        "collections",
        "defaultdict",
        "DefaultDictNode",
        content={"main": table({}), "default_factory": NETWORK},
    ),
    "no text as a name": node("skhep_nn", 7, "TypeNode"),
    "no name": {"__loader__": "TypeNode"},
    "another kind": node("builtins", "str", "EvalNode"),
    "no text as a kind": node("builtins", "str", ["TypeNode"]),
    "part elsewhere": node("builtins", "str", "CachedNode", __id__=1),
    "older protocol": {**text("a"), "protocol": 0},
}


@pytest.mark.parametrize("description", FORGED.values(), ids=FORGED)
def test_forged_files_are_refused(description, forger):
    trusted = [
        ".".join(NET),
        "skhep_nn.DenseNetClassifier.fit",
        "skhep_nn.io.load",
        "skhep_nn.io.persistence.os",
        "functools.partial",
        "operator.attrgetter",
    ]
    for options in ({}, {"trusted": trusted}):
        with pytest.raises(
            ValueError, match=r"model\.skops holds .*trusted= does not apply to types of skhep_nn"
        ):
            forger.load(description, **options)


def test_repeated_number_does_not_turn_a_network_into_a_type_of_keys(forger):
    """skops replaces a part by an earlier one of the same number."""
    network, harmless = {**NETWORK, "__id__": 5}, node("builtins", "str", "TypeNode", __id__=5)
    assert forger.load(listed(network, table({"a": text(1)}, harmless)))[1] == {"a": 1}
    keys = {**listed(harmless), "__id__": 6}
    shared = node("builtins", "dict", "DictNode", content={"a": text(1)}, key_types=keys)
    assert forger.load(listed({**listed(network), "__id__": 6}, shared))[1] == {"a": 1}


def test_repeated_number_does_not_replace_the_state_of_an_object(forger):
    other = {**listed(listed(text("depth"), text(7))), "__id__": 8}
    ours = node(*OURS, "ObjectNode", content={**table({"depth": text(2)}), "__id__": 8})
    assert forger.load(listed(other, ours))[1].depth == 2


@pytest.mark.parametrize("base", [sparse.spmatrix, sparse.sparray])
def test_sparse_matrices_under_an_abstract_name_are_refused(forger, tmp_path, base):
    """skops trusts the abstract classes, and scipy does not check indices when it multiplies."""
    matrix = sparse.csr_matrix(np.ones((1, 3)))
    matrix.indices[:] = 10**9
    sparse.save_npz(tmp_path / "matrix.npz", matrix)
    forger.payload = (tmp_path / "matrix.npz").read_bytes()
    options = {"type": "scipy", "file": "part.bin"}
    forged = node(base.__module__, base.__name__, "SparseMatrixNode", **options)
    with pytest.raises(ValueError, match="a sparse matrix of the abstract class scipy"):
        forger.load(forged)
    honest = node("scipy.sparse._csr", "csr_matrix", "SparseMatrixNode", **options)
    with pytest.raises(ValueError, match="csr_matrix, which may run code or crash"):
        forger.load(honest)


def test_support_vector_machines_need_trust(tmp_path):
    """libsvm reads arrays of a file without checks of their lengths."""
    path = tmp_path / "model.skops"
    X = np.eye(3)
    model = SVC().fit(X, [0, 0, 1])
    save(model, path)
    with pytest.raises(
        ValueError, match=r"sklearn\.svm\._classes\.SVC, which may run code or crash"
    ):
        load(path)
    loaded = load(path, trusted=["sklearn.svm._classes.SVC"])
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))


def test_part_that_contains_itself_is_refused(forger):
    inner = {**listed(), "__id__": 3}
    with pytest.raises(ValueError, match="is damaged"):
        forger.load({**listed(inner), "__id__": 3})


def test_modules_that_a_file_names_are_not_imported(forger, tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"import os\nos.mkdir({str(forger.made)!r})\n")
    for loader in ("TypeNode", "FunctionNode", "ObjectNode", "ConstructorFromReduceNode"):
        forged = node("evil_module", "Thing", loader, content=listed())
        for description in (forged, node(*OURS, "ObjectNode", content=table({"a": forged}))):
            with pytest.raises(ValueError, match=r"evil_module\.Thing, which may run code"):
                forger.load(description)
