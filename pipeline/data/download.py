"""Files from the network: continued where a download stopped, checked, and unpacked without leaving their folder."""

from __future__ import annotations

import ssl
import tarfile
import time
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError
from urllib.request import Request, urlopen

from pipeline.core.files import file_digest
from pipeline.core.signals import interruptible
from pipeline.core.waiting import kind, speaking

NETWORK_TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""
DOWNLOAD = kind("download", "a server on the network to answer", NETWORK_TIMEOUT)
LINE_INTERVAL = 10.0
"""Seconds between lines about a download."""
BLOCK = 1 << 20
PARTIAL_CONTENT = 206
RANGE_NOT_SATISFIABLE = 416
# A full disk is not among them: it is no reason to ask for a network.
NETWORK_ERRORS = (URLError, ConnectionError, TimeoutError, ssl.SSLError, HTTPException)


class DownloadFailed(Exception):
    """A file could not be fetched; the message is the reason."""


def fetch(address: str, path: Path, md5: str) -> None:
    """Fetch a file of this MD5, or what is missing at its end; say every 10 seconds how far it is.

    Raises:
        DownloadFailed: the network or the server failed, and what was fetched is kept at `path`; or the server gave
            something else, which is removed.
    """
    if path.exists() and file_digest(path, "md5") == md5:
        return
    _append(address, path)
    found = file_digest(path, "md5")
    if found != md5:
        path.unlink()
        raise DownloadFailed(f"{address} gave a file with MD5 {found}, expected {md5}")


def _append(address: str, path: Path) -> None:
    path.touch()
    start, spoken = path.stat().st_size, time.monotonic()
    request = Request(address, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with speaking(DOWNLOAD, f"{address} to answer"):
            response = urlopen(request, timeout=NETWORK_TIMEOUT)
        with interruptible(address), response:
            continues = response.status == PARTIAL_CONTENT  # otherwise the server begins at the beginning
            with open(path, "ab" if continues else "wb") as stream:
                expected = stream.tell() + int(response.headers.get("Content-Length", 0))
                while block := response.read(BLOCK):
                    stream.write(block)
                    if time.monotonic() - spoken > LINE_INTERVAL:
                        spoken = time.monotonic()
                        print(f"{address}: {stream.tell():,} of {expected:,} bytes", flush=True)
            if path.stat().st_size < expected:
                raise ConnectionError("the connection ended early")
    except NETWORK_ERRORS as error:
        reason, fetched = " ".join(str(error).split()), path.stat().st_size
        if getattr(error, "code", None) == RANGE_NOT_SATISFIABLE:
            path.unlink()  # as long as the file, and not the file
        raise DownloadFailed(f"{address} stopped after {fetched:,} bytes: {reason}") from None


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a tar file: nothing in it leads out of `folder`, whatever its digest is.

    Raises:
        tarfile.FilterError: something would.
    """
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
