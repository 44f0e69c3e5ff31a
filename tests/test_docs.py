"""README and docs say what is so: their code runs, their messages are raised, their options exist."""

import ast
import re
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

import h5py
import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC
from skorch.callbacks import Callback, EarlyStopping

from skhep_nn import (
    AugmentedClassifier,
    CaloCNNClassifier,
    CartesianMomenta,
    Constant,
    DenseNetClassifier,
    EventAligner,
    EventAugmenter,
    ImageAugmenter,
    WaveformClassifier,
    ams_score,
    best_cut,
    load,
    load_calo_hdf5,
    load_higgsml,
    load_waveforms,
    make_ams_scorer,
    make_higgs_events,
    save,
    to_onnx,
)
from skhep_nn.metrics import rescale_weights

PROJECT_ROOT = Path(__file__).resolve().parents[1]
DOCS = PROJECT_ROOT / "docs"
PAGES = [PROJECT_ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

_BLOCK = re.compile(
    r"(?:^<!-- not run: (?P<reason>[^\n]+) -->\n\n?)?^```python\n(?P<source>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_NEEDS = re.compile(r"^<!-- needs: (?P<names>.+) -->$", re.MULTILINE)
_RESULT = re.compile(r"  # -> (?P<shown>.+)$")


class Block(NamedTuple):
    """A piece of Python on a page; `reason` says why it is not run, if it is not."""

    source: str
    line: int
    reason: str | None


def blocks_of(text: str) -> list[Block]:
    return [
        Block(m["source"], text.count("\n", 0, m.start("source")), m["reason"])
        for m in _BLOCK.finditer(text)
    ]


def run_block(block: Block, page: str, namespace: dict[str, Any]) -> None:
    """Run a block as if the page were the program; `expression  # -> result` is checked."""
    lines = block.source.splitlines()
    # Line numbers of errors are then those of the page.
    for node in ast.parse("\n" * block.line + block.source).body:
        shown = _RESULT.search(lines[node.end_lineno - block.line - 1])
        if shown is None:
            exec(compile(ast.Module([node], []), page, "exec"), namespace)  # noqa: S102 - our pages
            continue
        assert isinstance(node, ast.Expr), f"{page}:{node.lineno}: only an expression has a result"
        found = eval(compile(ast.Expression(node.value), page, "eval"), namespace)
        # As str, since numpy writes np.True_ where a reader expects True.
        assert str(found) == shown["shown"], f"{page}:{node.lineno}: gives {found}"


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Folder for what a page writes; scikit-learn's settings and figures are put back."""
    monkeypatch.chdir(tmp_path)
    with sklearn.config_context():
        yield tmp_path
    from matplotlib import pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_runs(page: Path, workplace: Path, request: pytest.FixtureRequest) -> None:
    text = page.read_text()
    needs = _NEEDS.search(text)
    for name in re.split(r",\s*", needs["names"]) if needs else []:
        if "." not in name:
            if find_spec(name) is None:
                pytest.skip(f"needs {name}, which is not installed")
            continue
        file = request.getfixturevalue("data_dir") / name
        if not file.is_file():
            pytest.skip(f"no real data: {file} is absent")
        (workplace / name).symlink_to(file)
    namespace: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks_of(text):
        if block.reason is None:
            run_block(block, page.name, namespace)
        else:
            ast.parse(block.source)


def test_reading_of_pages() -> None:
    """The test above stands on this reading of pages."""
    text = (
        "a\n\n```python\nx = 1\nx + 1  # -> 2\n```\n\n<!-- not run: why -->\n\n```python\ny\n```\n"
    )
    first, second = blocks_of(text)
    assert (first.line, first.reason) == (3, None)
    assert (second.source, second.line, second.reason) == ("y\n", 10, "why")
    assert text.splitlines()[second.line] == "y"
    run_block(first, "page", {})
    with pytest.raises(AssertionError, match=r"page:5: gives 2"):
        run_block(first._replace(source="x = 1\nx + 1  # -> 3"), "page", {})
    with pytest.raises(ZeroDivisionError):
        run_block(first._replace(source="1 / 0"), "page", {})


def test_all_python_is_found() -> None:
    """No block escapes by another way of writing its fence."""
    for page in PAGES:
        text = page.read_text()
        fences = re.findall(
            r"^[ \t]*(?:```|~~~|:::)[ \t]*\{?(?:python|py|pycon)\b", text, re.MULTILINE
        )
        assert len(fences) == len(blocks_of(text)), page.name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


# -- docs/benchmarks.md ---------------------------------------------------------------------------


def test_options_of_the_benchmarks() -> None:
    """Every script has its section, with all of its options and no others."""
    parts = re.split(r"^## `([\w.]+)`", (DOCS / "benchmarks.md").read_text(), flags=re.MULTILINE)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    sources = {
        ".".join(path.relative_to(PROJECT_ROOT).with_suffix("").parts): path.read_text()
        for path in (PROJECT_ROOT / "benchmarks").rglob("*.py")
    }
    programs = {name for name, text in sources.items() if '__name__ == "__main__"' in text}
    assert set(sections) == programs
    for name, section in sections.items():
        told = set(re.findall(r"^\| `(--[a-z-]+)", section, flags=re.MULTILINE))
        assert told == set(re.findall(r'add_argument\("(--[a-z-]+)"', sources[name])), name


# -- docs/errors.md -------------------------------------------------------------------------------


class _Interrupt(Callback):
    """Ends training at the start of an epoch as callbacks do, and at its end as Ctrl-C does."""

    def __init__(self, method: str) -> None:
        self.method = method

    def notify(self, method: str, net: Any) -> None:
        if method == self.method:
            net.interrupts_.seen = method == "on_epoch_end"
            raise KeyboardInterrupt

    def on_epoch_begin(self, net: Any, **kwargs: Any) -> None:
        self.notify("on_epoch_begin", net)

    def on_epoch_end(self, net: Any, **kwargs: Any) -> None:
        self.notify("on_epoch_end", net)


def _raised(actions: dict[str, Callable[[], object]]) -> list[str]:
    """What each action complains of, in one line."""
    messages = []
    for name, action in actions.items():
        try:
            action()
        except (
            ValueError,
            TypeError,
            OSError,
            RuntimeError,
            UserWarning,
            KeyboardInterrupt,
        ) as error:
            messages.append(" ".join(str(error).split()))
        else:
            pytest.fail(f"nothing is wrong with: {name}")
    return messages


def _bad_events() -> dict[str, Callable[[], object]]:
    events = make_higgs_events(200, random_state=0)
    X, y = events.data, events.target
    table = CartesianMomenta().fit_transform(X)
    net = DenseNetClassifier(max_epochs=1, random_state=0)
    fitted = DenseNetClassifier(max_epochs=1, random_state=0).fit(table, y)
    trace_net = WaveformClassifier(max_epochs=1)
    traces = np.random.default_rng(0).normal(size=(200, 64))
    spoilt = np.concatenate([np.full((1, 64), 1e30), traces[1:]])
    with_jets = DenseNetClassifier(categorical_features=["PRI_jet_num"], max_epochs=1)
    with_jets.fit(table, y)
    channel = pd.Series(["e", None] * 100)
    named = DenseNetClassifier(categorical_features=["channel"])
    both = X.assign(PRI_tau_px=0.0)
    aligned = EventAligner().fit_transform(table)
    stopping = HistGradientBoostingClassifier(max_iter=2, early_stopping=True)
    return {
        "NaN": lambda: net.fit(X, y),
        "infinity": lambda: net.fit(table.assign(PRI_met=np.inf), y),
        "text": lambda: net.fit(table.assign(channel="e"), y),
        "missing category": lambda: named.fit(table.assign(channel=channel), y),
        "unknown categories": lambda: with_jets.predict(table.assign(PRI_jet_num="many")),
        "a spoilt trace": lambda: trace_net.fit(spoilt, y),
        "tiny traces": lambda: trace_net.fit(1e-43 * traces, y),
        "-999 trained on": lambda: net.fit(X.fillna(-999.0), y),
        "unknown column": lambda: named.fit(table, y),
        "order": lambda: fitted.predict(table[table.columns[::-1]]),
        "-999": lambda: CartesianMomenta().fit_transform(X.fillna(-999.0)),
        "-999 turned": lambda: EventAugmenter().fit_transform(X.fillna(-999.0)),
        "degrees": lambda: CartesianMomenta().fit_transform(
            X.assign(PRI_lep_phi=np.rad2deg(X["PRI_lep_phi"]))
        ),
        "-999 in Cartesian components": lambda: EventAugmenter().fit(
            table.assign(PRI_tau_px=-999.0, PRI_tau_py=-999.0)
        ),
        "a scaler": lambda: EventAugmenter().fit((X - X.mean()) / X.std()),
        "a scaler without negative values": lambda: EventAugmenter().fit(X / X.abs().max()),
        "a direction": lambda: EventAugmenter().fit(table.assign(thrust_phi=1.0)),
        "unclear objects": lambda: EventAugmenter(objects={"jet": ("PRI_met", "DER_pt_h")}).fit(X),
        "an array": lambda: DenseNetClassifier(augmentation=EventAugmenter()).fit(
            table.to_numpy(), y
        ),
        "early stopping": lambda: AugmentedClassifier(stopping).fit(X, y),
        "no schedule": lambda: net.set_params(schedule__max_lr=0.1),
        "text in a transformer": lambda: CartesianMomenta().fit(X.assign(channel="e")),
        "two representations": lambda: CartesianMomenta().fit(both),
        "half a momentum": lambda: EventAugmenter().fit(aligned),
        "no names": lambda: EventAugmenter().fit(table.to_numpy()),
        "no reference": lambda: EventAligner(reference="lep").fit(X),
    }


def _bad_targets_and_weights() -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    folds = DenseNetClassifier(n_members=4, max_epochs=1, random_state=0)
    wild = DenseNetClassifier(schedule=Constant(lr=1e3), max_epochs=20, random_state=0)
    X, y = np.eye(4), np.array(["b", "s", "b", "s"])
    net, balanced = DenseNetClassifier(), DenseNetClassifier(class_weight="balanced")
    actions: dict[str, Callable[[], object]] = {
        "one class": lambda: net.fit(X, ["s"] * 4),
        "fewer rows than folds": lambda: DenseNetClassifier(n_members=10).fit(X, y),
        "wrong length": lambda: net.fit(X, y, sample_weight=[1.0, 1.0, 1.0]),
        "zeros": lambda: net.fit(X, y, sample_weight=np.zeros(4)),
        "negative total": lambda: net.fit(X, y, sample_weight=[1.0, -2.0, 0.5, -1.0]),
        "negative class": lambda: balanced.fit(X, y, sample_weight=[1.0, -2.0, 0.5, 1.0]),
        "Ctrl-C": lambda: DenseNetClassifier(callbacks=[_Interrupt("on_epoch_end")]).fit(X, y),
        "rare class": lambda: folds.fit(rng.normal(size=(40, 2)), np.r_[0, np.ones(39)]),
        "nothing learned": lambda: wild.fit(rng.normal(size=(400, 2)), np.tile([0, 1], 200)),
        "stop at once": lambda: DenseNetClassifier(callbacks=[_Interrupt("on_epoch_begin")]).fit(
            X, y
        ),
    }
    if not torch.cuda.is_available():
        actions["no GPU"] = lambda: DenseNetClassifier(device="cuda").fit(X, y)
    return actions


def _bad_routing() -> dict[str, Callable[[], object]]:
    rng = np.random.default_rng(0)
    X, y, w = rng.normal(size=(40, 2)), np.tile(["b", "s"], 20), np.ones(40)
    pipeline = make_pipeline(DenseNetClassifier())

    def not_requested() -> None:
        with sklearn.config_context(enable_metadata_routing=True):
            model = HistGradientBoostingClassifier(max_iter=2).set_fit_request(sample_weight=True)
            weights = {"sample_weight": w}
            cross_validate(model, X, y, params=weights, scoring=make_ams_scorer())

    return {
        "weights to a pipeline": lambda: pipeline.fit(X, y, sample_weight=w),
        "no request": not_requested,
    }


def _bad_significance() -> dict[str, Callable[[], object]]:
    y, w = np.array(["b", "s"]), np.ones(2)
    return {
        "two columns": lambda: best_cut(y, np.eye(2)),
        "score for a selection": lambda: ams_score(y, [0.1, 0.9]),
        "negative yield": lambda: ams_score(y, [True, True], -w),
        "other labels": lambda: rescale_weights(y, w, {0: 1.0, 1: 1.0}),
    }


def _bad_files(folder: Path) -> dict[str, Callable[[], object]]:
    events = make_higgs_events(20, random_state=0)
    table = events.data.fillna(-999.0).assign(Weight=events.sample_weight, Label=events.target)
    table.insert(0, "EventId", np.arange(20))
    files = {
        "lacking": table.drop(columns="PRI_met"),
        "label": table.assign(Label="x"),
        "number": table.astype({"PRI_tau_pt": object}).assign(PRI_tau_pt="a"),
    }
    for name, content in files.items():
        content.to_csv(folder / f"{name}.csv", index=False)
    text = (folder / "label.csv").read_text()
    (folder / "cut.csv").write_text(text[: len(text) - 20])
    return {
        name: lambda name=name: load_higgsml(folder / f"{name}.csv") for name in [*files, "cut"]
    }


def _bad_arrays(folder: Path) -> dict[str, Callable[[], object]]:
    (folder / "extra.csv").write_text("t0,t1,event\n1,2,3\n")
    (folder / "missing.csv").write_text(",2,1\n4,5,6\n")
    images = np.zeros((4, 3, 3), np.float32)
    for name in ("packed", "linked", "raw", "rewritten"):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["y"] = np.arange(4)
            if name == "packed":
                plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                plan.set_chunk(images.shape)
                plan.set_filter(32_001, h5py.h5z.FLAG_OPTIONAL)
                space, kind = h5py.h5s.create_simple(images.shape), h5py.h5t.NATIVE_FLOAT
                data = h5py.Dataset(h5py.h5d.create(file.id, b"X", kind, space, plan))
                data.id.write_direct_chunk((0, 0, 0), images.tobytes(), 0)
            elif name == "linked":
                file["X"] = h5py.ExternalLink("absent.h5", "/X")
            else:
                raw = [(str(folder / "absent.bin"), 0, images.nbytes)] if name == "raw" else None
                file.create_dataset("X", images.shape, images.dtype, external=raw)
    lazy = load_calo_hdf5(folder / "rewritten.h5", lazy=True).images
    (folder / "rewritten.h5").write_bytes(b"")
    return {
        "columns that are no points": lambda: load_waveforms(folder / "extra.csv"),
        "a first row without a value": lambda: load_waveforms(folder / "missing.csv"),
        "a filter": lambda: load_calo_hdf5(folder / "packed.h5"),
        "a link": lambda: load_calo_hdf5(folder / "linked.h5"),
        "a raw file": lambda: load_calo_hdf5(folder / "raw.h5"),
        "a rewritten file": lambda: lazy[0],
    }


def _bad_kinds() -> dict[str, Callable[[], object]]:
    draw = np.random.default_rng(0)
    rows, y = draw.normal(size=(40, 32)), np.arange(40) % 2
    images = draw.normal(size=(40, 2, 16, 16)).astype(np.float32)
    fast: dict[str, Any] = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    around = AugmentedClassifier(LogisticRegression(), augmenter=ImageAugmenter())
    return {
        "images in a table": lambda: DenseNetClassifier(augmentation=ImageAugmenter(), **fast).fit(
            rows, y
        ),
        "rows without a shape": lambda: around.fit(rows, y),
        "channels first": lambda: CaloCNNClassifier(**fast).fit(images, y),
    }


def _bad_stores(folder: Path) -> dict[str, Callable[[], object]]:
    X = np.random.default_rng(0).normal(size=(40, 2))
    y = np.arange(40) % 2
    fast: dict[str, Any] = {"max_epochs": 1, "device": "cpu", "random_state": 0}
    save(SVC().fit(X, y), folder / "machine.skops")
    save(DenseNetClassifier(), folder / "network.skops")
    entries = {"schema.json": b"{}", "zeros.npy": bytes(100 * 2**20)}
    with ZipFile(folder / "bomb.skops", "w", ZIP_DEFLATED) as bomb:
        for name, content in entries.items():
            bomb.writestr(name, content)
    wide = RandomForestClassifier(n_estimators=1).fit(np.c_[X, X], y)
    wide.n_features_in_ = wide.estimators_[0].n_features_in_ = 0
    save(wide, folder / "forest.skops")
    with (
        ZipFile(folder / "network.skops") as stored,
        ZipFile(folder / "later.skops", "w") as later,
        ZipFile(folder / "damaged.skops", "w") as damaged,
    ):
        content = stored.read("schema.json").replace(b"DenseNetC", b"SparseNetC")
        later.writestr("schema.json", content)
        damaged.writestr("schema.json", content)
        damaged.writestr("checksum.sha256", stored.read("checksum.sha256"))
    (folder / "text.skops").write_text("no archive")
    scaled = make_pipeline(StandardScaler(), DenseNetClassifier(**fast)).fit(X, y)

    def with_categories(a: Any, b: Any) -> DenseNetClassifier:
        table = pd.DataFrame({"x": X[:, 0], "kind": np.array([a, b], dtype=object)[y]})
        return DenseNetClassifier(categorical_features=["kind"], **fast).fit(table, y)

    return {
        "a callback without validation": lambda: DenseNetClassifier(
            callbacks=[EarlyStopping()], **fast
        ).fit(X, y),
        "a function without a name": lambda: save(
            FunctionTransformer(lambda X: X), folder / "function.skops"
        ),
        "a forest": lambda: load(folder / "forest.skops"),
        "too much memory": lambda: load(folder / "bomb.skops"),
        "a support vector machine": lambda: load(folder / "machine.skops"),
        "another version": lambda: load(folder / "later.skops"),
        "damaged": lambda: load(folder / "damaged.skops"),
        "no archive": lambda: load(folder / "text.skops"),
        "another transformer": lambda: to_onnx(scaled),
        "text as a category": lambda: to_onnx(with_categories("ee", "mumu")),
        "large categories": lambda: to_onnx(with_categories(1, 2**24 + 1)),
    }


def test_messages(tmp_path: Path) -> None:
    """Each message that docs/errors.md quotes is raised, and each that is raised here is quoted."""
    page = (DOCS / "errors.md").read_text()
    quoted = re.findall(r"^\| `([^`]+)` +\|", page, flags=re.MULTILINE)
    raised = _raised(
        _bad_events()
        | _bad_targets_and_weights()
        | _bad_routing()
        | _bad_significance()
        | _bad_files(tmp_path)
        | _bad_arrays(tmp_path)
        | _bad_kinds()
        | _bad_stores(tmp_path)
    )
    patterns = {q: re.compile(".*".join(re.escape(p) for p in q.split("…"))) for q in quoted}
    unexplained = [m for m in raised if not any(p.search(m) for p in patterns.values())]
    assert not unexplained
    never = [q for q, p in patterns.items() if not any(p.search(m) for m in raised)]
    # With a GPU, asking for one is no error.
    assert not [q for q in never if not (torch.cuda.is_available() and "CUDA" in q)]
