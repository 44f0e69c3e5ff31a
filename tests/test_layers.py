"""The house rules that no linter knows: optional packages, no output, a light import.

Which wing may import which is a contract of import-linter in ``pyproject.toml``.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PROJECT_ROOT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT_ROOT / "skhep_nn"

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

# Files of tests that are not about one module, each with the reason.
TESTS_WITHOUT_A_MODULE = {
    "datasets/fuzzed_files.py": "2,000 damaged files, for all loaders",
    "estimators/refit.py": "a second fit, seeds and the state of torch, of any estimator",
    "inputs/reader_threads.py": "the number of reading threads, a part of shuffled_chunks",
    "io/forged_files.py": "attacks on load",
    "io/fuzzed_files.py": "damaged files",
    "io/killed_writes.py": "processes that are killed while they write",
    "io/stored_models.py": "files of earlier releases",
    "kernels/optional.py": "the package without the folder of kernels",
    "training/counted_work.py": "operators and calls of a step are counted",
    "training/decorrelation_cuda.py": "the mass penalty on a GPU",
}

FILES = sorted(PACKAGE.rglob("*.py"))


def file_id(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imported_modules(tree: ast.AST, package: str) -> Iterator[str]:
    """Full name of everything imported in a syntax tree; `package` resolves relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*above, node.module or ""]).strip(".") if node.level else node.module
            yield from (f"{base}.{alias.name}" for alias in node.names)


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
def test_optional_dependencies_are_imported_where_needed(path: Path) -> None:
    for node in at_module_level(ast.parse(path.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            roots = {name.split(".")[0] for name in imported_modules(node, "skhep_nn")}
            assert not roots & OPTIONAL, f"{file_id(path)}:{node.lineno}: {roots & OPTIONAL}"


def test_every_file_lies_in_a_wing() -> None:
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py", "_version.py"}


def test_tests_mirror_the_package() -> None:
    """A test of a wing is named after the module that it tests, or stands in the list above."""
    for path in sorted((PROJECT_ROOT / "tests").glob("*/test_*.py")):
        name = f"{path.parent.name}/{path.name.removeprefix('test_')}"
        assert (PACKAGE / name).is_file() or name in TESTS_WITHOUT_A_MODULE, f"tests/{name}"
        assert not ((PACKAGE / name).is_file() and name in TESTS_WITHOUT_A_MODULE), name


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_private_names_of_scikit_learn_are_imported_in_one_place(path: Path) -> None:
    if file_id(path) == "utils/sklearn_private.py":
        return
    for name in imported_modules(ast.parse(path.read_text()), "skhep_nn"):
        private = [part for part in name.split(".")[1:] if part.startswith("_")]
        assert not (name.startswith("sklearn.") and private), f"{file_id(path)} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=file_id)
def test_library_does_not_print(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    printed = [node.lineno for node in calls if ast.unparse(node.func) == "print"]
    assert not printed, f"{file_id(path)} prints in lines {printed}"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("__init__.py")), ids=file_id)
def test_init_holds_no_code(path: Path) -> None:
    docstring, *rest = ast.parse(path.read_text()).body
    assert isinstance(docstring, ast.Expr)
    for node in rest:
        is_import = isinstance(node, ast.Import | ast.ImportFrom)
        is_name = isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("__")
        assert is_import or is_name, f"{file_id(path)}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.slow
def test_import_is_light() -> None:
    code = f"import sys, skhep_nn; print(sorted({OPTIONAL} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # pandas and scikit-learn reach for these two by themselves, where they are installed.
    assert set(ast.literal_eval(run.stdout)) <= {"pyarrow", "rich"}
