"""The archive, from a server on this machine: whole, interrupted, continued, damaged."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.core.errors import PipelineError, RequestError
from pipeline.data import download
from pipeline.data.corruptions import facts
from pipeline.data.corruptions.download import download_release
from pipeline.data.corruptions.facts import CORRUPTIONS, Release
from pipeline.data.corruptions.folders import open_corruptions


class Server:
    """What it serves, how, and what it was asked for."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = True
        self.stop_after: int | None = None
        self.requests: list[str | None] = []


class Handler(BaseHTTPRequestHandler):
    def __init__(self, *arguments: Any, server_state: Server) -> None:
        self.state = server_state
        super().__init__(*arguments)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.state.requests.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.state.ranges else 0
        if start >= len(self.state.content):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(self.state.content) - start))
        self.end_headers()
        end = len(self.state.content) if self.state.stop_after is None else start + self.state.stop_after
        self.wfile.write(self.state.content[start:end])

    def log_message(self, format: str, *arguments: Any) -> None:
        """Be quiet."""


class Published(NamedTuple):
    server: Server
    release: Release


@pytest.fixture
def published(release: Release, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Published]:
    monkeypatch.setenv("no_proxy", "*")
    state = Server((tmp_path / "published" / release.archive).read_bytes())
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, server_state=state))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    made = replace(release, address=f"http://127.0.0.1:{server.server_port}/{release.archive}")
    monkeypatch.setitem(facts.RELEASES, "cifar10", made)
    yield Published(state, made)
    server.shutdown()
    server.server_close()
    thread.join()


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_missing_files_are_downloaded_on_request(published: Published, root: Path) -> None:
    with pytest.raises(RequestError, match="20 files are missing"):
        open_corruptions(root, "cifar10", CORRUPTIONS)
    assert published.server.requests == []
    folder = open_corruptions(root, "cifar10", CORRUPTIONS, download=True)
    assert folder.provenance == "official"
    assert published.server.requests == [None]
    assert names(root) == {"CIFAR-10-C"}
    open_corruptions(root, "cifar10", CORRUPTIONS, download=True)
    assert len(published.server.requests) == 1


def test_files_that_are_there_are_kept(published: Published, installed: Path, root: Path) -> None:
    (installed / "fog.npy").unlink()
    kept = (installed / "snow.npy").stat()
    open_corruptions(root, "cifar10", download=True)
    assert (installed / "snow.npy").stat() == kept


def test_an_interrupted_download_goes_on(published: Published, root: Path) -> None:
    published.server.stop_after = 5000
    message = r"stopped after 5,000 bytes: the connection ended early\)\. The same command goes on"
    with pytest.raises(RequestError, match=message) as caught:
        download_release(published.release, root)
    assert published.release.archive_md5 in str(caught.value)
    assert names(root) == {".CIFAR-10-C.tar.part"}
    published.server.stop_after = None
    download_release(published.release, root)
    assert published.server.requests == [None, "bytes=5000-"]
    open_corruptions(root, "cifar10")
    assert names(root) == {"CIFAR-10-C"}


def test_a_server_that_cannot_go_on_begins_again(published: Published, root: Path) -> None:
    root.mkdir()
    (root / ".CIFAR-10-C.tar.part").write_bytes(b"something else")
    published.server.ranges = False
    download_release(published.release, root)
    open_corruptions(root, "cifar10")


def test_a_damaged_archive_is_removed(published: Published, root: Path) -> None:
    published.server.content = published.server.content[:-1] + b"x"
    with pytest.raises(RequestError, match=rf"MD5 [0-9a-f]+, expected {published.release.archive_md5}"):
        download_release(published.release, root)
    assert names(root) == set()


def test_what_was_fetched_of_something_else_is_begun_again(published: Published, root: Path) -> None:
    root.mkdir()
    (root / ".CIFAR-10-C.tar.part").write_bytes(bytes(len(published.server.content)))
    with pytest.raises(RequestError, match="Error 416"):
        download_release(published.release, root)
    download_release(published.release, root)
    open_corruptions(root, "cifar10")


def test_a_file_with_other_content_is_not_replaced(published: Published, installed: Path, root: Path) -> None:
    (installed / "fog.npy").write_bytes(b"mine")
    (installed / "snow.npy").unlink()
    with pytest.raises(RequestError, match=r"fog\.npy: expected MD5 .*, found .*\. Remove it"):
        open_corruptions(root, "cifar10", download=True)
    assert (installed / "fog.npy").read_bytes() == b"mine"
    assert published.server.requests == []


def test_a_full_disk_is_noticed_before(published: Published, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=100)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(PipelineError, match=r"needs .* bytes on this disk, 100 are free") as caught:
        download_release(published.release, root)
    assert caught.value.exit_code == 1
    assert published.server.requests == []


def test_a_slow_download_speaks(
    published: Published, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(download, "LINE_INTERVAL", 0.0)
    open_corruptions(root, "cifar10", download=True)
    size = len(published.server.content)
    assert capsys.readouterr().out.splitlines()[-1] == f"{published.release.address}: {size:,} of {size:,} bytes"
