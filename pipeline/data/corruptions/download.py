"""An official archive of corrupted images, fetched on request and unpacked beside what is there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import exclusive, file_digest
from pipeline.data.corruptions.facts import Release
from pipeline.data.download import DownloadFailed, fetch, unpack


def download_release(release: Release, root: Path) -> None:
    """Fetch the archive of `release` and unpack the files that are missing below `root`; none that is there is ever
    replaced.

    What was fetched before a failure is kept in a hidden file, and the next call goes on from there. The archive is
    removed once its files are in place.

    Raises:
        RequestError: the download failed or gave other bytes than the official ones; or a file that is there is not
            the official one: none is ever replaced.
        PipelineError: there is no room on the disk.
    """
    folder, partial = root / release.folder, root / f".{release.archive}.part"
    with exclusive(root / f".{release.archive}.lock", f"the download of {release.archive}"):
        for name, md5 in release.files.items():
            path = folder / f"{name}.npy"
            if path.exists() and (found := file_digest(path, "md5")) != md5:
                raise RequestError(f"{path}: expected MD5 {md5}, found {found}. Remove it to have it downloaded.")
        _require_room(release, partial)
        try:
            fetch(release.address, partial, release.archive_md5)
        except DownloadFailed as error:
            raise RequestError(
                f"{release.archive}: the download failed ({error}). The same command goes on with what is left of it; "
                f"or put the official files below {folder} by hand (MD5 of the archive: {release.archive_md5})."
            ) from None
        folder.mkdir(exist_ok=True)
        with TemporaryDirectory(dir=root, prefix=".unpack-") as staging:
            unpack(partial, Path(staging))
            for name in release.files:
                if not (folder / f"{name}.npy").exists():
                    os.replace(Path(staging) / release.folder / f"{name}.npy", folder / f"{name}.npy")
        partial.unlink()


def _require_room(release: Release, partial: Path) -> None:
    """The archive and what it holds lie side by side for a moment."""
    there = partial.stat().st_size if partial.exists() else 0
    needed, free = 2 * release.archive_bytes - there, shutil.disk_usage(partial.parent).free
    if free < needed:
        raise PipelineError(
            f"{partial.parent}: {release.archive} needs {needed:,} bytes on this disk, {free:,} are free"
        )
