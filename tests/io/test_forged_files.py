"""Files made by other means than `save`: none of them has code executed or a module imported."""

import importlib
import inspect
import json
import os
import pickle
import pkgutil
import sys
import zipfile

import pytest

import skhep_nn
from skhep_nn import load
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
    """A dictionary whose keys are of a type, by default text."""
    key = node("builtins", "str", "TypeNode") if key is None else key
    return node(
        "builtins", "dict", "DictNode", content=content, key_types=listed(*[key] * len(content))
    )


class Forger:
    """Writes files, and knows whether loading one of them has executed the code in it."""

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
            # How zipfile reads names, when it does so for the first time.
            assert imported <= {"encodings.cp437"}, "a module was imported"


@pytest.fixture
def forger(tmp_path):
    return Forger(tmp_path)


def state():
    """Attributes that have skorch's net unpickle, and that stand in the way of methods of any object."""
    part = node("builtins", "bytes", "BytesNode", file="part.bin")
    names = ("__cuda_dependent_attributes__", "__dict__", "__class__", "__reduce__", "fit")
    return table({"device": text("cpu")} | dict.fromkeys(names, part))


def everything():
    """Every class and function of the package, under all names that it has there."""
    modules = [skhep_nn]
    for found in pkgutil.walk_packages(skhep_nn.__path__, "skhep_nn."):
        try:
            modules.append(importlib.import_module(found.name))
        except ImportError:  # of an optional package
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


def test_nothing_of_the_package_is_made_but_what_is_listed(forger):
    """Also what modules import, from other packages too, cannot be named as ours."""
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
    "network as what is made by default": node(
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
            ValueError, match=r"model\.skops holds .*trusted= does not apply to skhep_nn"
        ):
            forger.load(description, **options)


def test_a_number_that_repeats_does_not_bring_a_network_among_the_types_of_keys(forger):
    """For skops, a part with the number of an earlier one is that one."""
    network, harmless = {**NETWORK, "__id__": 5}, node("builtins", "str", "TypeNode", __id__=5)
    assert forger.load(listed(network, table({"a": text(1)}, harmless)))[1] == {"a": 1}
    keys = {**listed(harmless), "__id__": 6}
    shared = node("builtins", "dict", "DictNode", content={"a": text(1)}, key_types=keys)
    assert forger.load(listed({**listed(network), "__id__": 6}, shared))[1] == {"a": 1}


def test_what_contains_itself_is_refused(forger):
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
