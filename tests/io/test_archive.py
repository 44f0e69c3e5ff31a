"""Archives of stored estimators: checksum, and bounds of the memory that a file can take."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from skhep_nn.io.archive import DESCRIPTION, ChecksumError, archive, pack, unpack
from tests.io.archives import entries_of

ENTRIES = {DESCRIPTION: b"{}", "a.npy": bytes(range(256)) * 4}
MEBI = 2**20


def zipped(entries):
    return archive(entries, zipfile.ZIP_DEFLATED)


def peak_memory(call):
    tracemalloc.start()
    try:
        call()
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return peak


def test_entries_come_back():
    assert unpack(pack(ENTRIES)) == ENTRIES


def test_every_changed_byte_of_a_content_is_found():
    content = pack(ENTRIES)
    signed = entries_of(io.BytesIO(content))
    for name in signed:
        changed = signed | {name: signed[name][:-1] + b"#"}
        with pytest.raises(ChecksumError):
            unpack(zipped(changed))
    with pytest.raises(ChecksumError):
        unpack(zipped(signed | {"more.npy": b""}))


def test_zeros_that_unpack_to_gigabytes_are_refused_before_they_are_read():
    bomb = zipped(ENTRIES | {"zeros.npy": bytes(200 * MEBI)})
    assert len(bomb) < MEBI

    def refuse():
        with pytest.raises(ValueError, match=r"bytes unpack to 209,\d\d\d,\d\d\d, far more"):
            unpack(bomb)

    assert peak_memory(refuse) < MEBI


def test_blanks_in_the_description_are_refused():
    with pytest.raises(ValueError, match="far more than in a stored estimator"):
        unpack(zipped({DESCRIPTION: b"{" + b" " * 20 * MEBI + b"}"}))


@pytest.mark.parametrize("stated", [10, 300 * MEBI])
def test_a_wrong_size_in_the_archive_is_found(stated):
    """The decompressor stops at the stated size, whatever follows in the file."""
    content = bytearray(zipped({DESCRIPTION: b"{}", "zeros.npy": bytes(50 * MEBI)}))
    directory = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
    content[directory + 24 : directory + 28] = stated.to_bytes(4, "little")

    def refuse():
        with pytest.raises((ValueError, zipfile.BadZipFile)):
            unpack(bytes(content))

    assert peak_memory(refuse) < 20 * MEBI


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_refused(method):
    """Their decompressors cannot stop at a given size."""
    with pytest.raises(ValueError, match="another method"):
        unpack(archive(ENTRIES, method))


def test_repeated_names_are_refused():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(DESCRIPTION, "{}")
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr(DESCRIPTION, "[]")
    with pytest.raises(ValueError, match=r"holds schema\.json more than once"):
        unpack(buffer.getvalue())


def test_models_that_shrink_more_than_allowed_are_stored_without_compression():
    zeros = io.BytesIO()
    np.save(zeros, np.zeros(12 * MEBI))
    entries = ENTRIES | {"zeros.npy": zeros.getvalue()}
    content = pack(entries)
    assert len(content) > 96 * MEBI
    assert unpack(content) == entries


def test_archive_for_skops_is_not_compressed():
    with zipfile.ZipFile(io.BytesIO(archive(ENTRIES))) as file:
        assert {entry.compress_type for entry in file.infolist()} == {zipfile.ZIP_STORED}
