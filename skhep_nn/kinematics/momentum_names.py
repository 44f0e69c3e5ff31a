"""Names of columns, read as components of momenta in the spellings of common file formats.

A component may stand anywhere in a name, in upper or lower case: ``Jet_pt_0``, ``Jet.PT``, ``Jet_pt[0]``, ``px_jet``,
``pt1``. Columns with the same text around their components belong to the same object. Without a separator
(``jetphi``, ``pxj1``) a component is believed only if the others are spelled in the same way.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

__all__ = [
    "BARE",
    "CARTESIAN",
    "Found",
    "Reading",
    "find_directions",
    "find_objects",
    "find_unpaired",
    "only_reading",
    "respelled",
]

BARE = "momentum"
"""Name of the object in a table whose columns are only called px, py, pz, or pt, eta, phi."""

_CARTESIAN = {
    f"{family}{axis}": (family, axis) for family in ("p", "p_", "e", "et", "mp") for axis in "xyz"
}
CARTESIAN = frozenset((*_CARTESIAN, *"xyz"))
"""Spellings of Cartesian components, in lower case."""

_MODULI = ("pt", "p_t", "et", "met", "mag", "magnitude")
_ENERGIES = ("e", "energy")
_ANGLES = {"phi": "phi", "eta": "eta", "azimuth": "azimuth", "theta": "theta"}
_ANGLES |= {"rapidity": "rapidity", "pseudorapidity": "pseudorapidity"}
# Kept apart from all other words without a separator; other components may end or begin a longer word.
_IN_WORDS = ("pt", "phi", "eta", "px", "py", "pz")

_SEPARATORS = "_.:/- "
_UNIT = re.compile(r"[\s_]*[\[(]?\b(?<![a-z])(?:[GMTk]eV(?:/c)?|rad)[\])]?$")
_WORD = re.compile(r"[A-Z]+(?![a-z])\d*|[A-Z]?[a-z]+\d*")
_MISSING_MOMENTUM = re.compile(r"met|miss", re.IGNORECASE)

# Words of quantities that a rotation or reflection leaves as they are, or that are no directions.
_DIFFERENCES = frozenset(
    "delta del diff difference dist distance rel relative abs prod product cos sin tan cosh sinh ratio centrality "
    "asymmetry star helicity cs".split()
)
_SPREADS = frozenset(
    "res resolution resid residual pull err error unc uncertainty sigma cov rms std width spread var".split()
)
_NOT_TURNED = _SPREADS | {"abs"}
_SCALARS = frozenset(
    "m mass mt charge q btag chi2 prob id iso isolation flag trigger n num index idx".split()
)
# Endings of words in which the "d" before phi or eta does not stand for a difference.
_ENDINGS_IN_D = ("lead", "leading", "second", "third", "cloud")
# Positions that are the same in all events, as far as the detector resolves.
_BEAM = frozenset(("pv", "bs", "beamspot", "primaryvertex"))


class Reading(NamedTuple):
    """One way to read a name: a component with the text before and after it."""

    before: str
    after: str
    spelling: str
    delimited: bool

    @property
    def component(self) -> str:
        """Spelling in lower case."""
        return self.spelling.lower()

    @property
    def frame(self) -> Frame:
        """Text that the columns of one object have in common."""
        return self.before, self.after

    @property
    def words(self) -> list[str]:
        """Words around the component, in lower case."""
        return [word.lower() for part in self.frame for word in _WORD.findall(part)]

    @property
    def touching(self) -> str:
        """Last word before the component, in lower case, if nothing separates the two."""
        words = _WORD.findall(self.before)
        return words[-1].lower() if words and self.before.endswith(words[-1]) else ""


Frame: TypeAlias = tuple[str, str]


class Found(NamedTuple):
    """Columns of one object: (px, py, pz), or (modulus, phi, eta)."""

    name: str
    cartesian: bool
    x: int | None
    y: int
    z: int | None


def _is_border(text: str, i: int) -> bool:
    """Return whether a word may end before position i: where there is no letter, or the case changes."""
    if i in (0, len(text)):
        return True
    left, right = text[i - 1], text[i]
    if not (left.isascii() and left.isalpha() and right.isascii() and right.isalpha()):
        return True
    if left.islower():
        return right.isupper()
    # "METphi" is two words, "Phi" is one.
    return right.islower() and i > 1 and text[i - 2].isupper()


_SPELLINGS = (*_CARTESIAN, *_MODULI, *_ENERGIES, *_ANGLES, "x", "y", "z")


@lru_cache(maxsize=4096)
def _readings(name: str) -> tuple[Reading, ...]:
    """Return all ways to read a name, first with separators around the component, and with the component last."""
    text = _UNIT.sub("", name)
    lower = text.lower()
    found = []
    for spelling in _SPELLINGS:
        start = lower.find(spelling)
        while start >= 0:
            end = start + len(spelling)
            before, after = text[:start], text[end:]
            left = _is_border(text, start)
            right = _is_border(text, end)
            if (left and right) or ((left or right) and spelling in _IN_WORDS):
                found.append(Reading(before, after, text[start:end], left and right))
            start = lower.find(spelling, start + 1)
    return tuple(sorted(found, key=lambda r: (not r.delimited, len(_WORD.findall(r.after)))))


def _object_name(frame: Frame) -> str:
    """Return the name of an object from the text around its components."""
    before, after = frame[0].rstrip(_SEPARATORS), frame[1]
    if before:
        return before + after
    return after.strip(_SEPARATORS + "()") or BARE


def _is_difference(reading: Reading, *, complete: bool) -> bool:
    """Return whether an angle is a difference, a spread or another quantity that does not turn."""
    words = reading.words
    if any(word in _DIFFERENCES or word in _SPREADS for word in words):
        return True
    touching = reading.touching
    if touching.endswith(("delta", "abs", "diff")) or touching == "d":
        return True
    before = _WORD.findall(reading.before)
    if before and before[-1] in ("d", "D") and not complete:
        return True
    # In "jjdphi", other than in "leadphi", the angle is a difference.
    is_one_word = not reading.delimited and touching.endswith("d")
    return is_one_word and not touching.endswith(_ENDINGS_IN_D)


_Groups: TypeAlias = Mapping[Frame, Mapping[str, int]]


def _grouped(names: Sequence[str], skip: set[int]) -> _Groups:
    """Return the columns by the text around their component, and by component."""
    groups: dict[Frame, dict[str, int]] = {}
    for i, name in enumerate(names):
        if i not in skip:
            for reading in _readings(name):
                groups.setdefault(reading.frame, {}).setdefault(reading.component, i)
    return groups


def _first(group: Mapping[str, int], components: Sequence[str], taken: set[int]) -> int | None:
    """Return the first free column of some components."""
    return next((group[c] for c in components if c in group and group[c] not in taken), None)


def find_objects(names: Sequence[str], skip: Sequence[int] = ()) -> list[Found]:
    """Find objects whose components are complete, in the order of the table.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    skip : sequence of int
        Columns that are known to belong to other objects.
    """
    groups = _grouped(names, set(skip))
    at = {_UNIT.sub("", name): i for i, name in enumerate(names)}
    taken = set(skip)
    found = []
    for delimited in (True, False):
        for i, reading in _all_readings(names):
            if reading.delimited is delimited and i not in taken:
                one = _object_of(i, reading, groups[reading.frame], at, taken)
                if one is not None:
                    found.append(one)
                    taken |= {j for j in one[2:] if j is not None}
    return sorted(found, key=lambda one: one.y if one.x is None else min(one.x, one.y))


def _all_readings(names: Sequence[str]) -> Iterator[tuple[int, Reading]]:
    for i, name in enumerate(names):
        for reading in _readings(name):
            yield i, reading


def _object_of(
    i: int, reading: Reading, group: Mapping[str, int], at: Mapping[str, int], taken: set[int]
) -> Found | None:
    """Return the object that the azimuth or x component in column i belongs to, if it is complete."""
    name = _object_name(reading.frame)
    if reading.component in _CARTESIAN or reading.component == "x":
        family, axis = _CARTESIAN.get(reading.component, ("", "x"))
        y = _first(group, [f"{family}y"], taken)
        is_known = family or _MISSING_MOMENTUM.search(name)
        if axis != "x" or y is None or not is_known or set(reading.words) & _NOT_TURNED:
            return None
        return Found(name, True, i, y, _first(group, [f"{family}z"], taken))
    if reading.component != "phi":
        return None
    eta = _first(group, ["eta"], taken)
    modulus = _first(group, _MODULI, taken)
    is_named = name != BARE and name.lower() not in _IN_WORDS
    if modulus is None and eta is None and is_named and (reading.delimited or len(name) > 2):
        modulus = at.get(name)
        modulus = None if modulus in taken else modulus
    has_energy = eta is not None and _first(group, _ENERGIES, taken) is not None
    if (modulus is None and not has_energy) or _is_difference(reading, complete=True):
        return None
    return Found(name, False, modulus, i, eta)


def find_unpaired(names: Sequence[str], taken: set[int]) -> tuple[str, str] | None:
    """Return a column of an incomplete momentum and the name of the column that is missing, if there is one.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    taken : set of int
        Columns of complete momenta.
    """
    groups = _grouped(names, taken)
    for i, reading in _all_readings(names):
        if i in taken or not reading.delimited or set(reading.words) & _NOT_TURNED:
            continue
        group = groups[reading.frame]
        other = _partner(reading.component, group)
        is_bare = not reading.words and reading.component == "pt"
        # A modulus with eta alone is a mistake only where other momenta are turned.
        if other and (reading.component != "pt" or (taken and not is_bare)):
            if reading.component == "pt" and _is_difference(reading, complete=False):
                continue
            before, after = reading.frame
            return names[i], f"{before}{_like(reading.spelling, other)}{after}"
    return None


def _partner(component: str, group: Mapping[str, int]) -> str | None:
    """Return the component without which another one of the same object cannot be turned."""
    if component == "pt":
        return "phi" if "eta" in group and "phi" not in group else None
    family, axis = _CARTESIAN.get(component, ("", ""))
    if family not in ("p", "p_"):
        return None
    other = f"{family}{'y' if axis == 'x' else 'x'}"
    return None if other in group else other


def find_directions(names: Sequence[str], taken: set[int]) -> list[int]:
    """Return columns that look like components or angles of momenta and belong to none that was found."""
    groups = _grouped(names, taken)
    return [
        i
        for i, name in enumerate(names)
        if i not in taken and any(_is_direction(r, groups[r.frame]) for r in _readings(name))
    ]


def _is_direction(reading: Reading, group: Mapping[str, int]) -> bool:
    """Return whether a column that was not understood is likely to turn with its event."""
    component, words = reading.component, set(reading.words)
    if words & _SCALARS or words & _NOT_TURNED:
        return False
    if component in ("x", "y"):
        return bool({"x", "y"} <= set(group) and words and not words & _BEAM)
    if component in _CARTESIAN:
        family, _ = _CARTESIAN[component]
        has_pair = {f"{family}x", f"{family}y"} <= set(group)
        # Words such as "entropy" end in a component.
        return has_pair or (reading.delimited and family in ("p", "p_"))
    return component in _ANGLES and _is_angle(reading, group)


def _is_angle(reading: Reading, group: Mapping[str, int]) -> bool:
    """Return whether an angle that was not understood is likely to turn with its event."""
    if _is_scalar_of(reading):
        return False
    complete = "phi" in group and _first(group, _MODULI, set()) is not None
    if not reading.delimited and complete:
        # Either a difference or the momentum of an object whose name ends in "d".
        return not set(reading.words) & _DIFFERENCES and reading.touching != "d"
    if _is_difference(reading, complete=complete):
        return False
    # Words such as "beta" and "theta" end in a component.
    in_pair = {"phi", "eta"} <= set(group)
    return reading.delimited or in_pair or (reading.component == "phi" and not reading.after)


def _is_scalar_of(reading: Reading) -> bool:
    """Return whether the component is the name of an object, as in "phi_pt" for the phi meson."""
    rest = {word.rstrip("0123456789") for word in reading.words}
    return bool(rest & {"pt", "e", "energy", "px", "py", "pz"})


def only_reading(name: str) -> str | None:
    """Return the component that a name stands for, or None if it stands for none or could be several."""
    readings = [r for r in _readings(name) if r.component not in _ENERGIES]
    sure = [r.component for r in readings if r.delimited]
    components = dict.fromkeys(sure or [r.component for r in readings])
    if len(components) > 1:
        # In "met_phi" it is the name of the object.
        components.pop("met", None)
    return next(iter(components)) if len(components) == 1 else None


def respelled(name: str, owner: str, part: str) -> str:
    """Return the name of a Cartesian component, spelled as the name of the azimuth of the same object.

    Parameters
    ----------
    name : str
        Name of the azimuth.
    owner : str
        Name of the object.
    part : {"px", "py", "pz"}
        Component.
    """
    for reading in _readings(name):
        if reading.component == "phi" and _object_name(reading.frame) == owner:
            before, after = reading.frame
            return f"{before}{_like(reading.spelling, part)}{after}"
    return f"{owner}_{part}"


def _like(spelling: str, component: str) -> str:
    """Return a component in the case of another one."""
    if spelling.isupper():
        return component.upper()
    return component.capitalize() if spelling[0].isupper() else component
