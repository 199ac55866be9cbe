"""An official archive, fetched on request: continued where it stopped, checked, unpacked beside what is there."""

from __future__ import annotations

import os
import shutil
import ssl
import tarfile
import time
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, BinaryIO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import exclusive, file_digest
from pipeline.data.corruptions.facts import Release

NETWORK_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""
LINE_INTERVAL = 10.0
"""Seconds between lines about the download."""
BLOCK = 1 << 20
NETWORK_ERRORS = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)
RANGE_NOT_SATISFIABLE = 416
PARTIAL_CONTENT = 206

Report = Callable[[str], None]


def download_release(release: Release, root: Path, report: Report) -> None:
    """Fetch the archive of `release` and unpack the files that are missing below `root`.

    What was fetched before a failure is kept in a hidden file, and the next call goes on from there. The archive is
    removed once its files are in place.

    Args:
        release: What to fetch.
        root: Where its folder belongs.
        report: Told in a sentence how far it is, every 10 seconds.

    Raises:
        RequestError: the download failed or gave other bytes than the official ones; or a file that is there is not
            the official one: none is ever replaced.
        PipelineError: there is no room on the disk.
    """
    root.mkdir(parents=True, exist_ok=True)
    with exclusive(root / f".{release.archive}.lock", f"the download of {release.archive}"):
        _refuse_other_files(release, root / release.folder)
        partial = root / f".{release.archive}.part"
        _require_room(release, partial)
        _fetch(release, partial, report)
        digest = file_digest(partial, "md5")
        if digest != release.archive_md5:
            partial.unlink()
            raise RequestError(
                f"{release.address}: gave an archive with MD5 {digest}, expected {release.archive_md5}; it was "
                f"removed. Try again, or put the official files below {root / release.folder} by hand."
            )
        _unpack(release, partial, root)
        partial.unlink()


def _refuse_other_files(release: Release, folder: Path) -> None:
    for name, md5 in release.files.items():
        path = folder / f"{name}.npy"
        if path.exists() and (found := file_digest(path, "md5")) != md5:
            raise RequestError(f"{path}: expected MD5 {md5}, found {found}. Remove it, then the download replaces it.")


def _require_room(release: Release, partial: Path) -> None:
    """The archive and what it holds lie side by side for a moment."""
    there = partial.stat().st_size if partial.exists() else 0
    needed, free = 2 * release.archive_bytes - there, shutil.disk_usage(partial.parent).free
    if free < needed:
        raise PipelineError(
            f"{partial.parent}: {release.archive} needs {needed:,} bytes on this disk, {free:,} are free"
        )


def _fetch(release: Release, partial: Path, report: Report) -> None:
    """Append to `partial` until it is as long as the server says."""
    try:
        with open(partial, "ab") as stream:
            expected = _append(release.address, stream, report)
            stream.flush()
            os.fsync(stream.fileno())
            reason = "the connection ended early" if expected is not None and stream.tell() < expected else None
    except NETWORK_ERRORS as error:
        reason = " ".join(str(error).split())
    if reason is not None:
        raise RequestError(
            f"{release.address}: the download stopped after {partial.stat().st_size:,} bytes ({reason}). They are kept "
            f"and the same command goes on from there; or put the official files below "
            f"{partial.parent / release.folder} by hand (MD5 of {release.archive}: {release.archive_md5})."
        )


def _append(address: str, stream: BinaryIO, report: Report) -> int | None:
    """Fetch what is missing at the end of `stream`; the length that it should have, None if the server does not say."""
    start = stream.seek(0, os.SEEK_END)
    request = Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urlopen(request, timeout=NETWORK_TIMEOUT) as response:
            if start and response.status != PARTIAL_CONTENT:  # the server begins at the beginning
                start = 0
                stream.truncate(0)
            length = response.headers.get("Content-Length")
            expected = start + int(length) if length is not None else None
            _copy(response, stream, report, f"{address}: {{:,}} of {expected or 'unknown'} bytes")
            return expected
    except HTTPError as error:
        if start and error.code == RANGE_NOT_SATISFIABLE:
            return start  # nothing is missing; the digest decides whether that is right
        raise


def _copy(source: IO[bytes], stream: BinaryIO, report: Report, line: str) -> None:
    spoken = time.monotonic()
    while block := source.read(BLOCK):
        stream.write(block)
        if time.monotonic() - spoken > LINE_INTERVAL:
            spoken = time.monotonic()
            report(line.format(stream.tell()))


def _unpack(release: Release, archive: Path, root: Path) -> None:
    """Move the files that are missing to their place, after a check of each."""
    folder = root / release.folder
    with TemporaryDirectory(dir=root, prefix=".unpack-") as staging:
        with tarfile.open(archive) as packed:
            packed.extractall(staging, filter="data")
        folder.mkdir(exist_ok=True)
        for name, md5 in release.files.items():
            unpacked = Path(staging) / release.folder / f"{name}.npy"
            found = file_digest(unpacked, "md5") if unpacked.exists() else "no such file"
            if found != md5:
                raise RequestError(f"{release.archive}: its {name}.npy should have MD5 {md5}, found {found}")
            if not (folder / unpacked.name).exists():
                os.replace(unpacked, folder / unpacked.name)
