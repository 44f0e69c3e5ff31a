"""Errors about the content of a file name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["errors_name_file"]


@contextmanager
def errors_name_file(
    path: str | Path, problem: str, kind: type[ValueError | OSError] = ValueError
) -> Iterator[None]:
    """Turn an error inside the block into one that begins with the path.

    numpy, zipfile, h5py and pandas raise errors of many types for broken bytes, most of them without the
    path. Errors that are of a documented type and name the file already stay as they are, as do ImportError
    and warnings that a filter has made errors.

    Parameters
    ----------
    path : str or Path
        File that is read.
    problem : str
        Continues the path in the message, such as " is damaged or cut off".
    kind : type, default=ValueError
        Type of the new error.
    """
    try:
        yield
    except (ImportError, Warning):
        raise
    except Exception as error:
        if isinstance(error, ValueError | OSError) and str(path) in str(error):
            raise
        reason = str(error) or type(error).__name__
        raise kind(f"{path}{problem}: {reason}") from error
