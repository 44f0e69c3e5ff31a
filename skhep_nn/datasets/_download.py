"""Downloads into a cache that only receives complete files."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skhep_nn.utils.optional import needs


def cached_download(
    url: str,
    file_name: str,
    *,
    check: Callable[[Path], None],
    data_home: str | os.PathLike[str] | None = None,
    force: bool = False,
    known_hash: str | None = None,
    progressbar: bool = False,
) -> Path:
    """Return the path of a cached file, downloading it where it is absent or `force` asks for it.

    `check` receives the temporary file and raises ValueError if its content is wrong. The cache
    is unchanged then, as after any other failure (OSError).
    """
    with needs("pooch", "fetch"):
        import pooch

    # Any other encoding would unpack the gzip file in transit and so lose its checksum.
    download = pooch.HTTPDownloader(
        progressbar=progressbar, chunk_size=1 << 20, headers={"Accept-Encoding": "identity"}
    )

    def checked_download(source: str, output_file: str, _: Any) -> None:
        """Download to pooch's temporary file, which only enters the cache if this returns."""
        download(source, output_file, None)
        check(Path(output_file))

    def retrieve(folder: Path) -> Path:
        """Get the file into a folder, unless it is there."""
        try:
            return Path(pooch.retrieve(url, known_hash, file_name, folder, None, checked_download))
        except (OSError, ValueError) as error:
            raise OSError(
                f"could not download {url}: {error}. The cache is as it was. Call again to retry, "
                "or download the file by other means and load it from its path."
            ) from error

    home = data_home or os.environ.get("SKHEP_NN_DATA_HOME") or pooch.os_cache("skhep_nn")
    folder = Path(home).expanduser()
    if not force:
        return retrieve(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder) as fresh:
        return retrieve(Path(fresh)).replace(folder / file_name)
