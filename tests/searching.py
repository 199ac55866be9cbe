"""Looking for a secret in everything that a folder holds: as text, encoded, compressed, in databases."""

from __future__ import annotations

import base64
import io
import re
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from PIL import Image


@dataclass
class Search:
    """What was looked through, and where the secrets were found."""

    secrets: tuple[str, ...]
    files: int = 0
    contents: int = 0
    """Files, and parts of them that had to be unpacked or read as a database."""
    size: int = 0
    """Bytes."""
    found: list[str] = field(default_factory=list)
    """Names of contents."""

    def folder(self, folder: Path) -> None:
        """Look through every file below a folder, and at its name."""
        for path in sorted(folder.rglob("*")):
            self.content(f"the name of {path}", str(path.relative_to(folder)).encode())
            if path.is_file():
                self.files += 1
                for name, content in unpacked(path):
                    self.content(f"{path}: {name}", content)

    def content(self, name: str, content: bytes) -> None:
        """Look through bytes."""
        self.contents += 1
        self.size += len(content)
        if any(form in content for secret in self.secrets for form in forms(secret)):
            self.found.append(name)


def forms(secret: str) -> set[bytes]:
    """How a secret may be written."""
    logins = [base64.b64encode(f"{user}:{secret}".encode()) for user in ("user", "planted")]
    texts = {
        secret.encode(),
        quote(secret, safe="").encode(),
        secret.encode("utf-16-le"),
        secret.encode().hex().encode(),
    }
    return texts | {base64.b64encode(secret.encode()).rstrip(b"=")[:-1], *logins}


def unpacked(path: Path) -> Iterator[tuple[str, bytes]]:
    """A file as it is, and what is in it."""
    content = path.read_bytes()
    yield "as it is", content
    if content.startswith(b"SQLite format 3"):
        with sqlite3.connect(path) as connection:
            yield "rows", "\n".join(connection.iterdump()).encode()
    elif content.startswith(b"PAR1"):
        yield "table", pd.read_parquet(path).to_csv().encode()
    elif zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            yield from ((name, packed.read(name)) for name in packed.namelist())
    elif content.startswith(b"%PDF"):
        for number, stream in enumerate(re.findall(rb"stream\r?\n(.*?)endstream", content, re.DOTALL)):
            yield f"stream {number}", zlib.decompressobj().decompress(stream) if stream[:1] == b"x" else stream
    elif content.startswith(b"\x89PNG"):
        with Image.open(io.BytesIO(content)) as image:
            yield "texts", str(image.info).encode()
