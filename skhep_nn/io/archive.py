"""Zip archives of stored estimators: read within bounds of memory, with a checksum over all entries."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

__all__ = ["DESCRIPTION", "ChecksumError", "pack", "unpack"]

DESCRIPTION = "schema.json"
"""Name of the entry that describes the stored object in JSON."""

_CHECKSUM = "checksum.sha256"

# A kilobyte of zeros unpacks to a megabyte. Fitted models shrink to a half or, forests of equal trees, to a
# fiftieth. The description needs the tighter bound, because Python's objects take 24 times the memory of the text.
_MOST_UNPACKED = (64 * 2**20, 64)
_MOST_DESCRIPTION = (4 * 2**20, 16)
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ChecksumError(ValueError):
    """The content of an archive is not the one for which its checksum was computed."""


def pack(entries: Mapping[str, bytes]) -> bytes:
    """Return a compressed archive with the given entries and their checksum, which `unpack` can read."""
    signed = {**entries, _CHECKSUM: _checksum(entries).encode()}
    packed = archive(signed, zipfile.ZIP_DEFLATED)
    bounds = _bounds(len(packed))
    sizes = sum(map(len, signed.values())), len(signed[DESCRIPTION])
    within = all(size <= most for size, most in zip(sizes, bounds, strict=True))
    return packed if within else archive(signed, zipfile.ZIP_STORED)


def archive(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a zip archive with the given entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return buffer.getvalue()


def unpack(file: str | os.PathLike[str] | bytes) -> dict[str, bytes]:
    """Return the entries of an archive by their names, without the checksum, after all checks.

    Raises
    ------
    ChecksumError
        If the checksum does not fit. Archives of the first version have none.
    ValueError
        If a name occurs twice, if the compression is not the one of `pack`, or if the entries would take much more
        memory than any archive of its size that `pack` writes.
    """
    entries = _read(file)
    checksum = entries.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(entries).encode():
        raise ChecksumError("its content does not match its checksum")
    return entries


def _read(file: str | os.PathLike[str] | bytes) -> dict[str, bytes]:
    size = len(file) if isinstance(file, bytes) else Path(file).stat().st_size
    with zipfile.ZipFile(io.BytesIO(file) if isinstance(file, bytes) else file) as packed:
        entries = packed.infolist()
        counts = Counter(entry.filename for entry in entries)
        if repeated := sorted(name for name, count in counts.items() if count > 1):
            # Programs disagree about which entry of a repeated name counts.
            raise ValueError(f"it holds {', '.join(repeated)} more than once")
        if any(entry.compress_type not in _METHODS for entry in entries):
            # Python's decompressors of other methods cannot stop at a given size.
            raise ValueError("it is compressed by another method than skhep_nn.save uses")
        most, most_description = _bounds(size)
        unpacked = sum(entry.file_size for entry in entries)
        description = sum(entry.file_size for entry in entries if entry.filename == DESCRIPTION)
        if unpacked > most or description > most_description:
            raise ValueError(
                f"its {size:,} bytes unpack to {unpacked:,}, far more than in a stored estimator"
            )
        return {entry.filename: _content(packed, entry) for entry in entries}


def _content(packed: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with packed.open(entry) as file:
        # With a size, the decompressor stops there, whatever follows in the file.
        content = file.read(entry.file_size)
        if len(content) != entry.file_size or file.read(1):
            raise ValueError(f"{entry.filename} has another size than the archive says")
    return content


def _bounds(size: int) -> tuple[int, int]:
    """Return the most bytes that all entries, and the description, of an archive of this size may have."""
    total, description = (
        least + factor * size for least, factor in (_MOST_UNPACKED, _MOST_DESCRIPTION)
    )
    return total, description


def _checksum(entries: Mapping[str, bytes]) -> str:
    """Return the SHA-256 of all names and contents, each preceded by its length so that borders count."""
    digest = hashlib.sha256()
    for name in sorted(entries):
        for part in (name.encode(), entries[name]):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
