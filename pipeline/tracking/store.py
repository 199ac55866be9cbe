"""The MLflow store: its address, whether it answers, and what it says when it fails."""

from __future__ import annotations

import errno
import os
import re
import shutil
import socket
import sqlite3
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLError
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from filelock import FileLock

from pipeline.core.errors import PipelineError, RequestError
from pipeline.core.files import atomic_write
from pipeline.core.waiting import kind, speaking, taken, until
from pipeline.tracking.home import SQLITE, artifacts_beside, bring_home, database_of, runs_without_files, sqlite_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

DEFAULT_URI = "sqlite:///mlflow.db"
PREFIX = "generalist/"
"""What the name of a suite's MLflow experiment begins with."""
PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306}
PATIENCE = 5.0
"""Seconds that a server may take to answer at all; afterwards MLflow's own, longer patience holds."""
DATABASE_PATIENCE = 20.0
"""Seconds that another process may lock a sqlite file: what MLflow itself waits."""
MAKING = kind("MLflow's database", "another process that makes MLflow's database", 600.0)
DATABASE = kind("sqlite", "another process that writes to MLflow's database", DATABASE_PATIENCE)
ANSWER = kind("MLflow", "MLflow to answer")
PAGE = 50
"""Runs in memory at a time while searching: MLflow makes objects of all their parameters and metrics."""
# MLflow reads these when it is imported, which happens later; what the user has set stays.
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
# It would print links to runs with the password of the address.
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
# MLflow would try for many minutes, and sleep for as long as a server asks it to: records can wait on the disk instead.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")  # at once: kept connections may be dead, both of them
os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
os.environ.setdefault("MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER", "false")

_sound: dict[Path, tuple[int, int]] = {}
"""Device and number of the sqlite files that this process has found sound; MLflow keeps them open to its end."""
_doubted: set[Path] = set()
"""The files that failed since they were read through."""


def tracking_uri() -> str:
    """Where runs are kept: `MLFLOW_TRACKING_URI`, or `mlflow.db` in the current folder; sqlite paths made absolute."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    return sqlite_uri(database_of(uri).absolute()) if uri.startswith(SQLITE) and "?" not in uri else uri


def tagged(tags: Mapping[str, str]) -> str:
    """The condition that a run has these tags."""
    return " and ".join(f"tags.{key} = '{value}'" for key, value in tags.items())


def find_runs(suite: str, condition: str) -> Iterator[Run]:
    """Every run of a suite that meets `condition`, the latest first; none where there is no store.

    Raises:
        RequestError, PipelineError: as `open_store`, or it fails.
    """
    uri = tracking_uri()
    if is_absent(uri):
        return
    with reported(uri):
        client, experiment_id = open_store(uri, suite, create=False)
        if experiment_id is not None:
            yield from search(client, experiment_id, condition)


def search(client: MlflowClient, experiment_id: str, condition: str) -> Iterator[Run]:
    """Every run that meets `condition`, the latest first."""
    token = None
    while True:
        with speaking(ANSWER, "MLflow to list runs"):
            page = client.search_runs(
                [experiment_id], condition, max_results=PAGE, order_by=["attributes.start_time DESC"], page_token=token
            )
        yield from page
        token = page.token
        if not token:
            return


def open_store(uri: str, suite: str, create: bool) -> tuple[MlflowClient, str | None]:
    """A client, and the id of the suite's MLflow experiment (None: there is none, and none was to be created).

    Raises:
        RequestError, PipelineError: as `check_reachable` and `make_store`, or the experiment was deleted.
    """
    check_reachable(uri)
    make_store(uri)
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    if uri.startswith(SQLITE):
        _sound.setdefault(database_of(uri), _identity(database_of(uri)))
    experiment_id = _find_experiment(client, suite)
    if experiment_id is None and create:
        experiment_id = _create_experiment(client, uri, suite)
    return client, experiment_id


def make_store(uri: str) -> None:
    """Put a whole sqlite database without runs where there is no file; other stores are made by who runs them.

    MLflow would fill the file by dozens of migrations, one after another and without a lock: of several processes all
    but one would fail, and after a kill nobody could use the file, or finish it.

    Raises:
        RequestError: not an address that MLflow takes.
        PipelineError: it cannot be written.
    """
    check_address(uri)
    if not is_absent(uri):
        return
    database = database_of(uri).resolve()  # a link may lead to a disk with more room
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        making = f"the process that makes {database}"
        with taken(FileLock(f"{database_of(uri)}.lock"), MAKING, making), reported(uri):
            if is_absent(uri):
                _make_database(database)
    except OSError as error:
        raise PipelineError(f"MLflow's database {database} cannot be made: {error}. {_way_out(uri)}") from None


def _make_database(database: Path) -> None:
    """Fill a draft beside it, and give it the name unless another program has made one meanwhile."""
    from mlflow import MlflowClient

    prefix = f".{database.name}.draft-"
    for left in database.parent.glob(f"{prefix}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with TemporaryDirectory(prefix=prefix, dir=database.parent) as folder:
        draft, whole = Path(folder) / "draft.db", Path(folder) / "whole.db"
        MlflowClient(tracking_uri=sqlite_uri(draft)).search_experiments(max_results=1)
        with atomic_write(whole) as stream:  # a copy: MLflow keeps the draft open
            stream.write(draft.read_bytes())
        try:
            os.link(whole, database)
        except FileExistsError:
            pass  # another program's is as good
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP):
                raise
            if not database.exists():  # the file system has no links
                os.replace(whole, database)


def _find_experiment(client: MlflowClient, suite: str) -> str | None:
    found = client.get_experiment_by_name(f"{PREFIX}{suite}")
    if found is None:
        return None
    if found.lifecycle_stage == "deleted":
        raise PipelineError(
            f"the MLflow experiment '{found.name}' was deleted. Bring it back with 'mlflow experiments restore "
            f"--experiment-id {found.experiment_id}', or remove it for good with 'mlflow gc'."
        )
    return str(found.experiment_id)


def _create_experiment(client: MlflowClient, uri: str, suite: str) -> str | None:
    from mlflow.exceptions import MlflowException

    artifacts = None
    if uri.startswith(SQLITE):
        artifacts = f"{artifacts_beside(database_of(uri))}/{suite}"
    try:
        return str(client.create_experiment(f"{PREFIX}{suite}", artifact_location=artifacts))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        return _find_experiment(client, suite)  # another machine was faster


def is_absent(uri: str) -> bool:
    """Whether it is a sqlite file that is not there, which MLflow would make, even to read it."""
    return uri.startswith(SQLITE) and not database_of(uri).exists()


def require_store(uri: str) -> None:
    """Refuse to read a store that does not exist or does not answer.

    Raises:
        RequestError, PipelineError: as `check_reachable`; or there is no such sqlite file.
    """
    if is_absent(uri):
        raise PipelineError(
            f"there is no MLflow store at {uri}. Train and evaluate something first ('make repro'), or point "
            "MLFLOW_TRACKING_URI to the store or server that has the runs."
        )
    check_reachable(uri)


@contextmanager
def existing_store() -> Iterator[MlflowClient]:
    """A client of the store, which must be there; what fails meanwhile is one message.

    Raises:
        RequestError, PipelineError: as `require_store`, or it fails.
    """
    uri = tracking_uri()
    require_store(uri)
    from mlflow import MlflowClient

    with reported(uri):
        yield MlflowClient(tracking_uri=uri)


def lost_runs() -> list[str]:
    """The trained runs of a store that can be read whose files are gone from beside it; of a server nobody knows."""
    uri = tracking_uri()
    known = uri.startswith(SQLITE) and not is_absent(uri)
    return runs_without_files(database_of(uri), DATABASE_PATIENCE) if known else []


def check_address(uri: str) -> SplitResult:
    """Refuse a folder, a sqlite file with options and what is no address, without asking anybody; gives its parts.

    Raises:
        RequestError: it is none, it is a folder, or a sqlite file with options.
    """
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError as error:
        raise RequestError(f"MLFLOW_TRACKING_URI '{mask(uri)}' is not an address: {error}") from None
    if uri.startswith(SQLITE) and "?" in uri:
        raise RequestError(f"MLFLOW_TRACKING_URI '{uri}' has options after '?'; give the path of the database alone.")
    if parts.scheme in ("", "file") and uri != "databricks":
        raise RequestError(
            f"MLFLOW_TRACKING_URI '{mask(uri)}' is a folder, which MLflow no longer takes. Use a database "
            f"('{DEFAULT_URI}', the default) or the address of an MLflow server."
        )
    return parts


def check_reachable(uri: str) -> None:
    """Find out within seconds what MLflow would retry for minutes; refuse a sqlite file that is no sound database.

    Raises:
        RequestError: not an address that MLflow takes.
        PipelineError: a server does not answer, or a sqlite file is not a sound database.
    """
    parts = check_address(uri)
    port = parts.port or PORTS.get(parts.scheme.partition("+")[0])
    try:
        if uri.startswith(SQLITE):
            _check_database(uri)
        elif parts.scheme in ("http", "https"):
            _ask(parts)
        elif parts.hostname and port:
            socket.create_connection((parts.hostname, port), timeout=PATIENCE).close()
    except (OSError, sqlite3.Error) as error:
        raise PipelineError(f"MLflow at {mask(uri)} is out of reach: {error}. {_way_out(uri)}") from None


def check_unchanged(uri: str) -> None:
    """Refuse a sqlite file that is not the one which MLflow has open any more: what is written to a lost one is
    lost.

    Raises:
        PipelineError: it was emptied, replaced or removed.
    """
    database = database_of(uri)
    if not uri.startswith(SQLITE) or database not in _sound:
        return
    if not database.exists() or _identity(database) != _sound[database]:
        raise PipelineError(
            f"MLflow's database {database} was removed or replaced while this process has it open. Nothing was written "
            "to the new one; the next process does."
        )
    _refuse_empty(database)


def _check_database(uri: str) -> None:
    """Refuse a file that sqlite would misread, or fill with a new schema, before MLflow writes to it.

    It is read through once, and again after a failure. A flipped bit shows only where it breaks the structure: sqlite
    keeps no checksums.
    """
    check_unchanged(uri)
    database = database_of(uri)
    if not database.exists() or (database in _sound and database not in _doubted):
        return
    _refuse_empty(database)
    found = until(
        DATABASE,
        f"the process that writes to {database}",
        lambda: _quick_check(database),
        in_vain=f"MLflow's database {database} is locked by another process for {DATABASE_PATIENCE:.0f} s. "
        f"{_way_out(uri)}",
    )
    if found != "ok":
        raise _damaged(database, " ".join(found.split()))
    _doubted.discard(database)
    if said := bring_home(database, DATABASE_PATIENCE):
        print(f"note: {said}", file=sys.stderr, flush=True)


def _quick_check(database: Path) -> str | None:
    """What sqlite finds wrong in a file, or 'ok'; None while another process writes to it."""
    connection = sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=1)
    try:
        return str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        return None
    except sqlite3.DatabaseError as error:
        return str(error)
    finally:
        connection.close()


def _refuse_empty(database: Path) -> None:
    if database.stat().st_size == 0:
        raise _damaged(database, "it is empty, 0 bytes")


def _damaged(database: Path, what: str) -> PipelineError:
    return PipelineError(
        f"MLflow's database {database} is damaged: {what}. Nothing was written to it. Move it away and put in its "
        f"place a backup, or what can be saved ('sqlite3 {database} .recover | sqlite3 saved.db'), or nothing: then "
        "'python -m stages.tables' logs what results/ has to a new one. Or point MLFLOW_TRACKING_URI elsewhere."
    )


def _identity(database: Path) -> tuple[int, int]:
    found = database.stat()
    return found.st_dev, found.st_ino


def _ask(parts: SplitResult) -> None:
    """Wait for any answer of an HTTP server; whether it lets us in is for MLflow to find out."""
    address = parts._replace(netloc=parts.netloc.rpartition("@")[2], path=parts.path.rstrip("/") + "/health")
    try:
        urllib.request.urlopen(address.geturl(), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return
    except urllib.error.URLError as error:
        if not isinstance(error.reason, SSLError):
            raise


@contextmanager
def reported(uri: str) -> Iterator[None]:
    """Turn what MLflow and the libraries below it raise into one message, without passwords."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        _doubted.add(database_of(uri))
        what = mask(str(error)).partition("\n")[0].rstrip(".")  # what follows is SQL, with all of its parameters
        if "database schema" in what:
            raise PipelineError(
                f"MLflow's database {mask(uri)} has the schema of another version. One of an older MLflow: keep a "
                f"copy, then 'mlflow db upgrade {mask(uri)}'. One of a newer: install that version."
            ) from None
        raise PipelineError(f"MLflow at {mask(uri)} failed: {what}. {_way_out(uri)}") from None


def _way_out(uri: str) -> str:
    if uri.startswith(SQLITE):
        return f"Check the file {database_of(uri)}, or point MLFLOW_TRACKING_URI elsewhere."
    return "Start the server, or correct or unset MLFLOW_TRACKING_URI."


def mask(text: str) -> str:
    """`text` without the passwords of the addresses in it.

    >>> mask("cannot reach postgresql://me:secret@host/runs")
    'cannot reach postgresql://me:***@host/runs'
    """
    return re.sub(r"(://[^:/\s]*):\S*@", r"\1:***@", text)
