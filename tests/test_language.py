"""The language of docstrings, comments and messages: plain technical English, with the field's terms.

Machine checks see only a few phrases. The aim is at most a dozen matches in the whole package.
"""

import io
import re
import tokenize
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "skhep_nn"

# Relative chains without a noun and riddles, and "pass" where an epoch is meant.
PHRASES = re.compile(
    r"\b(?:[Tt]old (?:of|by)|of (?:its|their) own|(?<!there )(?:is|are) none|takes? no(?:te)? of|by heart"
    r"|what becomes of|leaves? (?:it )?to (?!the)|that of|those (?:of|that|which)"
    r"|(?:every|each|one|last|best|first|of a|after a|a) pass(?:es)?)\b"
)
MOST = 12


def texts(path: Path) -> list[str]:
    """Comments and string literals of a file, with line breaks as blanks."""
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    kinds = (tokenize.COMMENT, tokenize.STRING)
    return [" ".join(token.string.split()) for token in tokens if token.type in kinds]


def test_the_package_is_written_in_plain_english() -> None:
    found = [
        f"{path.relative_to(PACKAGE)}: ...{text[max(0, m.start() - 30) : m.end() + 20]}..."
        for path in sorted(PACKAGE.rglob("*.py"))
        for text in texts(path)
        for m in PHRASES.finditer(text)
    ]
    assert len(found) <= MOST, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("Told of every epoch", True),
        ("memory of its own", True),
        ("after the last pass", True),
        ("the rate is that of the schedule", True),
        ("one forward pass over the rows", False),
        ("pass sample_weight to fit", False),
    ],
)
def test_phrases(text: str, is_found: bool) -> None:
    assert bool(PHRASES.search(text)) is is_found
