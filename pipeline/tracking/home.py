"""Where a sqlite store is, and its artifacts: in `mlartifacts/` beside the database, wherever that is moved or copied.

MLflow keeps absolute paths. Left as they are, a checkout that was moved would lose its artifacts, and a copy would read
those of its original, write into them and delete them.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

SQLITE = ("sqlite:///", "sqlite+pysqlite:///")
"""How addresses of sqlite files begin."""
FOLDER = "mlartifacts"
PATHS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Tables of MLflow and their columns that have paths of artifacts."""
WAY_OUT = (
    "'python -m stages.tables' logs again what results/ has; of a checkout that was moved or copied, its mlartifacts/ "
    "belongs beside the database, too."
)


def sqlite_uri(database: Path) -> str:
    """The address of a sqlite file; in its path, SQLAlchemy reads `%` and `?` as in any other address.

    MLflow does not, and makes the folder that it reads, unless the address names the driver, too.
    """
    quoted = str(database).replace("%", "%25").replace("?", "%3F")
    return SQLITE[quoted != str(database)] + quoted


def database_of(uri: str) -> Path:
    """The file of such an address."""
    return Path(unquote(uri.partition(":///")[2]))


def artifacts_beside(database: Path) -> str:
    """Where a store that is a sqlite file keeps its artifacts, as a URI."""
    return (database.parent / FOLDER).as_uri()


def bring_home(database: Path, patience: float) -> str:
    """Let a store that was moved or copied find, and write, its artifacts beside it.

    Artifacts that this project did not put beside a database (those of a server, or in a bucket) stay where they are.

    Args:
        database: A sound sqlite file of MLflow, its path absolute.
        patience: Seconds that another process may lock it.

    Returns:
        What was done; "" where nothing was to do.

    Raises:
        sqlite3.Error: it cannot be read, or not be written though its paths must change.
    """
    home = artifacts_beside(database)
    with closing(_connect(database, patience)) as connection:
        left = sorted(root for root in _roots(connection) if root != home and not _holds(root, database))
        changed = sum(_replace(connection, root, home) for root in left)
        absent = len(_without_files(connection, home)) if changed else 0
    if not changed:  # or another process was faster
        return ""
    text = f"{database} was moved or copied: its artifacts, in {', '.join(left)} before, are looked for in {home} now."
    return f"{text} Those of {absent} runs are not there. {WAY_OUT}" if absent else text


def runs_without_files(database: Path, patience: float) -> list[str]:
    """The trained runs of a store whose files are not beside it, where they should be.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    with closing(_connect(database, patience)) as connection:
        return _without_files(connection, artifacts_beside(database))


def _connect(database: Path, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=patience, isolation_level=None)


def _roots(connection: sqlite3.Connection) -> set[str]:
    """The folders of artifacts that experiments of this project name, as they name them."""
    if PATHS[0] not in _columns(connection):
        return set()
    named = connection.execute("SELECT name, artifact_location FROM experiments WHERE name LIKE 'generalist/%'")
    found = {location.removesuffix(name.removeprefix("generalist")) for name, location in named}
    return {root for root in found if f"/{root}".endswith(f"/{FOLDER}") and urlsplit(root).scheme in ("", "file")}


def _columns(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """What of `PATHS` this version of MLflow's schema has."""
    ask = "SELECT count(*) FROM pragma_table_info(?) WHERE name = ?"
    return [column for column in PATHS if connection.execute(ask, column).fetchone()[0]]


def _holds(root: str, database: Path) -> bool:
    """Whether the store also lies beside `root`: through a link, another mount, or under another name."""
    parent = _path(root).parent
    if not parent.is_absolute() or not parent.is_dir():
        return False
    return any(entry.is_file() and os.path.samefile(entry, database) for entry in os.scandir(parent))


def _replace(connection: sqlite3.Connection, old: str, new: str) -> int:
    """Begin with `new` the paths below `old`; gives how many there were."""
    count = 0
    connection.execute("BEGIN IMMEDIATE")
    for table, column in _columns(connection):
        statement = f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?"
        count += connection.execute(statement, (new, len(old) + 1, len(old) + 1, f"{old}/")).rowcount
    connection.execute("COMMIT")
    return count


def _without_files(connection: sqlite3.Connection, home: str) -> list[str]:
    trained = connection.execute(
        "SELECT run_uuid, artifact_uri FROM runs JOIN tags USING (run_uuid) "
        "WHERE tags.key = 'trained' AND lifecycle_stage = 'active'"
    )
    return [run for run, uri in trained if uri.startswith(f"{home}/") and not _path(uri).is_dir()]


def _path(uri: str) -> Path:
    return Path(url2pathname(urlsplit(uri).path))
