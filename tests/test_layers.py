"""The house rules that no linter knows: who may import whom, what is public, what is optional."""

import ast
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import skhep_nn

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT_ROOT / "skhep_nn"
API_PAGE = PROJECT_ROOT / "docs" / "api.md"

# The table of the design, lowest floor first: a module imports only from floors below its own.
# A private helper stands on the floor of the module it was cut out of, or one below where
# several of that floor share it.
FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"_old_modules", "_public", "_stored_frames", "_stored_types"}),
    frozenset(
        {
            "_dense_chain",
            "_docs",
            "_events",
            "_extras",
            "_inner_splits",
            "_seeds",
            "_grids",
            "_member_layers",
            "_momenta",
            "_params",
            "_reader_threads",
            "_torch_state",
            "_version",
            "_weights",
        }
    ),
    frozenset({"_images", "_shuffled_chunks", "persistence"}),
    frozenset({"_waveforms"}),
    frozenset(
        {
            "_ams",
            "_binned",
            "_calo_layers",
            "_decorrelation",
            "_dense_forward",
            "_dense_layers",
            "_feature_table",
            "_image_augmentation",
            "_image_preprocessing",
            "_tolerance",
            "_waveform_augmentation",
            "_waveform_preprocessing",
            "_workers",
        }
    ),
    frozenset({"_conv_net", "_sculpting", "_waveform_layers"}),
    frozenset({"_calo_cnn", "_split_dense_net", "_waveform_cnn"}),
    frozenset(
        {
            "augmentation",
            "averaging",
            "datasets",
            "kinematics",
            "metrics",
            "networks",
            "preprocessing",
            "schedules",
        }
    ),
    frozenset({"_dense_layout", "_dense_triton", "_losses"}),
    frozenset({"_dense_kernels"}),
    frozenset({"_prediction"}),
    frozenset({"ensemble"}),
    frozenset(
        {"_batches", "_best", "_member_settings", "_callbacks", "_dense_step", "_step_rates"}
    ),
    frozenset({"_folds", "_held_states", "_member_groups", "_streams"}),
    frozenset({"_averaging_runs", "_cuda_rows"}),
    frozenset({"_cuda"}),
    frozenset({"_training"}),
    frozenset({"_outcome"}),
    frozenset({"_base"}),
    frozenset({"_grid_estimator", "_tables", "_tasks", "_together"}),
    frozenset({"_hyper_candidates", "_mass_penalty"}),
    frozenset({"_search_candidates"}),
    frozenset({"calo", "dense", "waveform"}),
    frozenset({"_search_axes"}),
    frozenset({"_search_model"}),
    frozenset({"_search_proposals"}),
    frozenset({"_architecture_search"}),
    frozenset(
        {
            "_block_reliance",
            "_drawing",
            "_feature_maps",
            "_feature_study",
            "_lr_range",
            "_rank_correlation",
        }
    ),
    frozenset({"_corner_plot", "_heatmap", "_image_drawing"}),
    frozenset(
        {
            "_ams_display",
            "_binned_display",
            "_embedding_display",
            "_feature_study_display",
            "_history_display",
            "_image_display",
            "_lr_range_display",
            "_prediction_display",
            "_reliability_display",
            "_schedule_display",
            "_score_display",
            "_sculpting_display",
            "_search_display",
            "_search_model_display",
            "_search_progress_display",
        }
    ),
    frozenset({"_block_display"}),
    frozenset(
        {
            "architecture_search",
            "augmented",
            "export",
            "hyper_ensemble",
            "inspection",
            "plotting",
            "stacking",
        }
    ),
)
AGREED_EXCEPTIONS = {("datasets", "kinematics")}
OPTIONAL = {
    "awkward",
    "dask",
    "distributed",
    "h5py",
    "matplotlib",
    "onnx",
    "onnxscript",
    "optuna",
    "pooch",
    "pyarrow",
    "rich",
    "skops",
    "uproot",
    "vector",
    "xgboost",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def file_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def unit_of(path: Path) -> str:
    """Row of the table a file belongs to: its module, or its folder of modules."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def floor_of(unit: str) -> int:
    for floor, units in enumerate(FLOORS):
        if unit in units:
            return floor
    raise AssertionError(
        f"skhep_nn/{unit} stands on no floor: add it to the table in DESIGN.md and to FLOORS here"
    )


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Full name of everything imported in a syntax tree; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


def own_units(path: Path) -> set[str]:
    """Rows of the table that a file imports from, wherever in the file it does so."""
    package = ".".join(path.relative_to(PROJECT_ROOT).parent.parts)
    names = imported_modules(ast.parse(path.read_text()), package)
    ours = [name.split(".") for name in names if name.split(".")[0] == "skhep_nn"]
    return {parts[1] if len(parts) > 1 else "skhep_nn" for parts in ours}


def at_module_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Statements that run on import: all but bodies of functions and type-checking blocks."""
    waiting: list[ast.stmt] = list(tree.body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        yield node
        waiting += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_imports_go_down_only(path: Path) -> None:
    unit = unit_of(path)
    if unit == "__init__":
        pytest.skip("re-exports everything")
    floor = floor_of(unit)
    for imported in own_units(path) - {unit}:
        assert (PACKAGE / imported).is_dir() or (PACKAGE / f"{imported}.py").is_file(), (
            f"{file_id(path)} imports the package itself: name the module it needs"
        )
        if (unit, imported) not in AGREED_EXCEPTIONS:
            assert floor_of(imported) < floor, (
                f"{file_id(path)} (floor {floor}) imports {imported} (floor {floor_of(imported)}): "
                "imports go down only"
            )


def test_relative_imports_are_seen() -> None:
    """The test above stands on this reading of import statements."""
    code = "from . import a\nfrom ..b import c\nimport skhep_nn.d\nfrom skhep_nn import e"
    found = list(imported_modules(ast.parse(code), "skhep_nn.datasets"))
    assert found == ["skhep_nn.datasets.a", "skhep_nn.b.c", "skhep_nn.d", "skhep_nn.e"]


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_optional_dependencies_are_imported_where_needed(path: Path) -> None:
    for node in at_module_level(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            roots = {name.split(".")[0] for name in imported_modules(node, "skhep_nn")}
            assert not roots & OPTIONAL, f"{file_id(path)}:{node.lineno}: {roots & OPTIONAL}"


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printed = [node.lineno for node in calls if ast.unparse(node.func) == "print"]
    assert not printed, f"{file_id(path)} prints in lines {printed}"


def test_init_holds_no_code() -> None:
    docstring, *rest = ast.parse((PACKAGE / "__init__.py").read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_name = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__")
        assert is_import or is_name, f"__init__.py:{node.lineno}: {ast.unparse(node)}"


def test_public_names() -> None:
    assert list(skhep_nn.__all__) == sorted(skhep_nn.__all__)
    assert len(set(skhep_nn.__all__)) == len(skhep_nn.__all__)
    missing = [name for name in skhep_nn.__all__ if not hasattr(skhep_nn, name)]
    assert not missing


def test_public_names_are_documented() -> None:
    """Every public name has a line in the lists of docs/api.md, and no line is out of date."""
    page = API_PAGE.read_text()
    blocks = re.findall(r"```\{eval-rst\}(.*?)```", page, flags=re.DOTALL)
    listed = {
        line.strip()
        for block in blocks
        for line in block.splitlines()
        if re.fullmatch(r"\s+[A-Za-z_][\w.]*", line)
    }
    undocumented = {name for name in skhep_nn.__all__ if not name.startswith("__")} - listed
    assert not undocumented, f"add to docs/api.md: {sorted(undocumented)}"
    for name in listed - set(skhep_nn.__all__):
        module, _, attribute = f"skhep_nn.{name}".rpartition(".")
        assert hasattr(importlib.import_module(module), attribute), f"docs/api.md lists {name}"


def test_import_is_light() -> None:
    code = f"import sys, skhep_nn; print(sorted({OPTIONAL} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # pandas and scikit-learn reach for these two by themselves, where they are installed.
    assert set(ast.literal_eval(run.stdout)) <= {"pyarrow", "rich"}
