"""What a shell, a launcher or a notebook has set around this process, put right before any library reads it.

Which variable is used, overridden or spoken of, and with which wrong values each was tried: `tests/environment`.
"""

from __future__ import annotations

import contextlib
import errno
import io
import locale
import logging
import os
import pwd
import re
import shutil
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core.launch import remark as job_remark

if TYPE_CHECKING:
    from typing_extensions import Buffer

THIS_MACHINE = ("127.0.0.1", "localhost", "::1")
"""Where our own servers are."""
PROXIES = ("all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY")
BACKEND = "agg"
UTF8 = "C.UTF-8"
REPEATABLE = (":4096:8", ":16:8")
"""Workspaces with which cuBLAS gives the same bits again; torch refuses others where it is to be deterministic."""
LEFT_OUT = {
    "GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_COMMON_DIR GIT_NAMESPACE GIT_PREFIX": (
        "a hook of git sets it, and it hides this checkout"
    ),
    "ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NVIDIA_TF32_OVERRIDE": (
        "it changes the arithmetic, of which no fingerprint would know"
    ),
    "TORCH_LOGS TORCH_COMPILE_DEBUG": "torch would print or write what nobody here reads, or not begin",
    "MATPLOTLIBRC": "figures have the project's style",
    "PYTHONWARNINGS": "a library's warning is no failure",
}
ROUNDING = ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
"""They round as another processor does, which is a person's right."""

LEAST_SHARED = 64 * 2**20
"""Bytes of /dev/shm, through which processes that read images hand them over."""

changed: list[str] = []
"""What `settle` has put right in this process, in sentences."""


def settle(environment: MutableMapping[str, str] = os.environ) -> None:
    """Put the environment right, for this process and those that it starts, before a library reads it."""
    if environment.get("MPLBACKEND") != BACKEND:
        _leave_out(environment, "MPLBACKEND", "figures are files, which need no screen and no notebook")
        environment["MPLBACKEND"] = BACKEND
    if environment.get("CUBLAS_WORKSPACE_CONFIG") not in REPEATABLE:
        environment["CUBLAS_WORKSPACE_CONFIG"] = REPEATABLE[0]
    if "PYTHONWARNINGS" in environment:
        _keep_warnings_harmless()
    for names, reason in LEFT_OUT.items():
        for name in names.split():
            _leave_out(environment, name, reason)
    threads = environment.get("OMP_NUM_THREADS", "1").partition(",")[0].strip()
    if not threads.isdecimal() or int(threads) < 1:
        _leave_out(environment, "OMP_NUM_THREADS", f"'{threads}' is no number of threads")
    if not re.fullmatch(r"[\d\s,:-]*", environment.get("GOMP_CPU_AFFINITY", "")):
        _leave_out(environment, "GOMP_CPU_AFFINITY", "it names no cores, and OpenMP's library would never begin")
    if environment.get("TORCH_DISTRIBUTED_DEBUG", "OFF").upper() not in ("OFF", "INFO", "DETAIL"):
        _leave_out(environment, "TORCH_DISTRIBUTED_DEBUG", "torch takes OFF, INFO and DETAIL, and would not begin")
    level = environment.get("MLFLOW_LOGGING_LEVEL", "INFO")
    if level.upper() not in logging.getLevelNamesMapping():
        _leave_out(environment, "MLFLOW_LOGGING_LEVEL", f"'{level}' is no level, and MLflow would not begin")
    _spare_this_machine(environment)
    _speak_utf8(environment)
    _have_a_name(environment)
    _open_closed_streams()


def _leave_out(environment: MutableMapping[str, str], name: str, reason: str) -> None:
    if environment.pop(name, None) is not None:
        changed.append(f"{name} is left out: {reason}")


def _spare_this_machine(environment: MutableMapping[str, str]) -> None:
    """Let no library ask a server of ours through a proxy, nor fail at a proxy of a kind that it does not know."""
    for name in PROXIES:
        if environment.get(name, "").lower().startswith("socks"):
            _leave_out(environment, name, "the libraries cannot use a SOCKS proxy")
    given = ",".join(environment.get(name, "") for name in ("no_proxy", "NO_PROXY"))
    named = list(dict.fromkeys(filter(None, map(str.strip, given.split(",")))))
    missing = [] if "*" in named else [name for name in THIS_MACHINE if name not in named]
    if missing and (asked := [name for name in PROXIES if environment.get(name)]):
        changed.append(f"this machine is not asked through {', '.join(asked)}: no proxy knows the servers of the grid")
    environment["no_proxy"] = environment["NO_PROXY"] = "*" if "*" in named else ",".join([*named, *missing])


def _keep_warnings_harmless() -> None:
    """As Python begins without PYTHONWARNINGS."""
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)


def _speak_utf8(environment: MutableMapping[str, str]) -> None:
    """Read and write files as UTF-8, here and in what this process starts; what a terminal lacks is an escape there."""
    if (found := locale.getencoding()).lower().replace("-", "") != "utf8":
        changed.append(f"files are UTF-8, though the locale says {found}")
        with contextlib.suppress(locale.Error):
            locale.setlocale(locale.LC_CTYPE, UTF8)
        environment["LC_ALL"] = UTF8
    environment["PYTHONUTF8"] = "1"
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
            if stream.isatty() and not isinstance(getattr(stream.buffer, "raw", None), _Terminal):
                stream.flush()
                lasting = io.BufferedWriter(_Terminal(stream.fileno(), "w", closefd=False))
                setattr(sys, name, io.TextIOWrapper(lasting, stream.encoding, stream.errors, line_buffering=True))


class _Terminal(io.FileIO):
    """Drops what is written to a terminal that was closed. The signal that says so may come later than the error, which
    would end a training before it saves; under nohup there is none, and the training goes on."""

    def write(self, data: Buffer, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return memoryview(data).nbytes


def _have_a_name(environment: MutableMapping[str, str]) -> None:
    """Let a user whom the system does not know, as in a container, have the name and home that libraries ask for."""
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        if not any(environment.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
            environment["LOGNAME"] = f"user-{os.getuid()}"
        environment.setdefault("HOME", tempfile.gettempdir())


def _open_closed_streams() -> None:
    """Let nothing come from and go to streams that are closed: a file that is opened would take their place."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDWR)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))


def remarks(environment: Mapping[str, str] = os.environ) -> Iterator[tuple[str, str]]:
    """What is odd around this process, and what a person can do about it ("": nothing need be done)."""
    for sentence in changed:
        yield sentence, ""
    if text := job_remark():
        yield text, "unset RANK WORLD_SIZE, or start the stage with torchrun"
    for name in ROUNDING:
        if name in environment:
            yield f"{name}={environment[name]}: numbers are rounded as on another processor", f"unset {name}"
    if sys.platform == "linux" and not os.access("/proc/cpuinfo", os.R_OK):
        yield "/proc cannot be read: numbers are rounded as on another processor, and no grid begins", "mount /proc"
    if found := environment.get("PYTHONPATH"):
        yield f"PYTHONPATH={found}: what lies there goes before the packages that were tested", "unset PYTHONPATH"
    home = Path(os.path.expanduser("~"))
    if not (home.is_absolute() and os.access(home, os.W_OK)):
        yield f"the home folder '{home}' cannot be written to: caches are made anew by every process", "export HOME=..."
    yield from _temporary(environment)


def _temporary(environment: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    wanted = next((environment[name] for name in ("TMPDIR", "TEMP", "TMP") if environment.get(name)), None)
    try:
        used = tempfile.gettempdir()
    except OSError as error:
        yield f"there is no folder for temporary files: {error.strerror}", "export TMPDIR=/a/folder/with/room"
        return
    if wanted and Path(wanted).resolve() != Path(used).resolve():
        yield f"temporary files go to {used}: '{wanted}' cannot be used", "correct TMPDIR"
    shared = Path("/dev/shm")
    if not shared.is_dir() or shutil.disk_usage(shared).free < LEAST_SHARED:
        text = f"{shared} has less than {LEAST_SHARED // 2**20} MiB free: processes that read images may fail"
        yield text, "free some; in a container, --shm-size 1g; or set data.streaming.workers to 0"
