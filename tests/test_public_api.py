"""What `from skhep_nn import ...` offers, and that each name has its place in the documentation."""

import importlib
import re
from pathlib import Path

import skhep_nn

API_PAGE = Path(__file__).resolve().parents[1] / "docs" / "api.md"


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
