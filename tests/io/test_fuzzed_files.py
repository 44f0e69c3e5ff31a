"""Damaged files: `load` refuses them by name, or makes an estimator that predicts.

The mutations are drawn with fixed seeds. Files without a checksum, as the first version wrote them, reach all checks
behind it; no check can find a changed weight in them.
"""

import io
import json
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skhep_nn import load
from skhep_nn.io.archive import archive
from tests.io.archives import CHECKSUM, entries_of
from tests.io.write_stored_models import make_inputs, make_models

pytest.importorskip("skops.io")

STORED = Path(__file__).parent / "stored" / "0.1"
NAMES = sorted(path.stem for path in STORED.glob("*.skops"))
N_MUTATIONS = 125  # of each of 16 files

WORDS = ["", "0", "-1", "1e400", "null", "true", '"a"', "[]", "{}", "NaN", "[0]", "1000000000000"]


def nodes_of(description):
    """Return every dictionary and list in a description."""
    waiting, found = [description], []
    while waiting:
        part = waiting.pop()
        found.append(part)
        values = part.values() if isinstance(part, dict) else part
        waiting += [value for value in values if isinstance(value, dict | list) and value]
    return found


class Mutations:
    """One change of the entries of a file for each method."""

    def __init__(self, rng, entries):
        self.rng, self.entries = rng, dict(entries)

    def pick(self, several):
        return several[self.rng.integers(len(several))]

    def byte(self):
        """Another byte in the description."""
        text = bytearray(self.entries["schema.json"])
        text[self.rng.integers(len(text))] = self.rng.integers(32, 127)
        self.entries["schema.json"] = bytes(text)

    def described(self, change):
        description = json.loads(self.entries["schema.json"])
        change(self.pick(nodes_of(description)))
        self.entries["schema.json"] = json.dumps(description).encode()

    def lost(self):
        """A part of the description is missing."""

        def change(part):
            part.pop(self.pick(list(part)) if isinstance(part, dict) else 0)

        self.described(change)

    def word(self):
        """Another value in the description."""

        def change(part):
            key = self.pick(list(part) if isinstance(part, dict) else range(len(part)))
            part[key] = self.pick(WORDS)

        self.described(change)

    def swapped(self):
        """Two parts of the description change places."""

        def change(part):
            keys = list(part) if isinstance(part, dict) else range(len(part))
            a, b = self.pick(keys), self.pick(keys)
            part[a], part[b] = part[b], part[a]

        self.described(change)

    def array(self):
        """An array has another shape, dtype or length, or is another array of the file."""
        names = [name for name in self.entries if name.endswith(".npy")]
        if not names:
            return self.word()
        name = self.pick(names)
        values = np.load(io.BytesIO(self.entries[name]))
        buffer = io.BytesIO()
        changes = [
            lambda a: a[..., None],
            lambda a: a.ravel()[:-1],
            lambda a: np.concatenate([a.ravel(), a.ravel()]),
            lambda a: a.astype("U4") if a.dtype.kind in "biuf" else a[:0],
            lambda a: a.astype(complex) if a.dtype.kind in "biuf" else a[:0],
            lambda _: np.load(io.BytesIO(self.entries[self.pick(names)])),
            lambda a: a.T,
        ]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            np.save(buffer, self.pick(changes)(values))
        self.entries[name] = buffer.getvalue()
        return None

    def cut(self):
        """The end of an entry is missing."""
        name = self.pick(list(self.entries))
        content = self.entries[name]
        self.entries[name] = content[: self.rng.integers(len(content))]


KINDS = ("byte", "lost", "word", "swapped", "array", "cut")


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_predict(name, tmp_path):
    """Few files load and fail later: parameters and attributes have no stated types."""
    path = tmp_path / "model.skops"
    entries = entries_of(STORED / f"{name}.skops")
    del entries[CHECKSUM]
    inputs = make_inputs()
    _, data, _, method = make_models()[name]
    path.write_bytes(archive(entries))
    expected = np.shape(getattr(load(path), method)(inputs[data]))
    rng = np.random.default_rng(NAMES.index(name))
    outcomes = Counter()
    for k in range(N_MUTATIONS):
        mutation = Mutations(rng, entries)
        getattr(mutation, KINDS[k % len(KINDS)])()
        path.write_bytes(archive(mutation.entries))
        try:
            model = load(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - many files in one test
            outcomes["refused"] += 1
            continue
        outcomes[outcome(model, method, inputs[data], expected)] += 1
    assert outcomes["refused"] > N_MUTATIONS / 2, outcomes
    assert outcomes["failed"] <= N_MUTATIONS * 0.06, outcomes
    assert not outcomes["other shape"]


def outcome(model, method, X, expected):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = getattr(model, method)(X)
    except Exception:  # noqa: BLE001 - of any layer
        return "failed"
    return "predicted" if np.shape(found) == expected else "other shape"
