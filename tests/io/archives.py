"""Stored files as dictionaries of their entries, for tests that change them."""

import zipfile

from skhep_nn.io.archive import archive

CHECKSUM = "checksum.sha256"


def entries_of(file):
    """Return the content of every entry by its name, the checksum included."""
    with zipfile.ZipFile(file) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def changed(path, change, *, checksum):
    """Apply a change to the entries of a file in place; without the checksum, it is like one of the first version."""
    entries = entries_of(path)
    if not checksum:
        del entries[CHECKSUM]
    change(entries)
    path.write_bytes(archive(entries))
