"""The environment variables that the stack reads, what becomes of each, and wrong values to try."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DEAD = "http://127.0.0.1:9"
"""A proxy that nobody listens at."""


@dataclass(frozen=True)
class Variables:
    """Variables that are treated alike."""

    names: str
    treatment: Literal["used", "overridden", "said"]
    how: str
    wrong: tuple[str, ...]
    """Values that something sets it to, or that are none."""
    moves_bits: bool = False
    """Whether numbers may be rounded otherwise."""
    refused: bool = False
    """Whether wrong values end a stage with exit code 2 and a message that names the variable."""
    found: str = ""
    """What a wrong value did before that was mended."""


NONE = "/nonexistent/folder"
TABLE: dict[str, list[Variables]] = {
    "matplotlib": [
        Variables(
            "MPLBACKEND",
            "overridden",
            "figures are files",
            ("module://matplotlib_inline.backend_inline", "abc"),
            found="a traceback in place of figures, after all training",
        ),
        Variables("MATPLOTLIBRC", "overridden", "figures have the project's style", (f"{NONE}/rc",)),
        Variables("MPLCONFIGDIR", "used", "matplotlib's cache, elsewhere where it cannot be written", ("/proc/none",)),
    ],
    "launchers": [
        Variables(
            "RANK LOCAL_RANK GROUP_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT",
            "said",
            "taken from torchrun, or with --ranks-from-environment; otherwise one process works alone and says so",
            ("3", "none"),
            found="a traceback, or half an hour without a word",
        ),
        Variables(
            "SLURM_PROCID SLURM_NTASKS SLURM_LOCALID OMPI_COMM_WORLD_RANK OMPI_COMM_WORLD_SIZE PMI_RANK PMI_SIZE",
            "used",
            "by nobody: a job of a cluster is one process unless it is told otherwise",
            ("3", "none"),
        ),
    ],
    "proxies": [
        Variables(
            "http_proxy HTTP_PROXY https_proxy HTTPS_PROXY",
            "used",
            "never for this machine",
            (DEAD, "socks5://a:9"),
            found="the grid waited for its own server in vain",
        ),
        Variables(
            "all_proxy ALL_PROXY",
            "used",
            "never for this machine; left out where it is a SOCKS proxy, which the libraries cannot use",
            (DEAD, "socks://127.0.0.1:9/"),
        ),
        Variables("no_proxy NO_PROXY", "used", "with this machine added", ("example.org", "*")),
    ],
    "threads": [
        Variables("OMP_NUM_THREADS", "used", "left out where it is no number", ("abc", "0"), found="a traceback"),
        Variables("MKL_NUM_THREADS OPENBLAS_NUM_THREADS NUMEXPR_NUM_THREADS", "used", "by the libraries", ("0", "abc")),
        Variables("OMP_DYNAMIC MKL_DYNAMIC", "used", "by the libraries", ("true", "abc")),
        Variables("OMP_THREAD_LIMIT OMP_PROC_BIND OMP_PLACES", "used", "by the libraries", ("1", "abc")),
        Variables("KMP_AFFINITY", "used", "by the libraries", ("0", "abc")),
        Variables(
            "GOMP_CPU_AFFINITY", "used", "left out where it names no cores", ("0", "abc"), found="torch never began"
        ),
    ],
    "arithmetic": [
        Variables(
            "ONEDNN_DEFAULT_FPMATH_MODE DNNL_DEFAULT_FPMATH_MODE TORCH_ALLOW_TF32_CUBLAS_OVERRIDE NVIDIA_TF32_OVERRIDE",
            "overridden",
            "left out: they change the arithmetic, of which no fingerprint would know",
            ("BF16", "1"),
        ),
        Variables(
            "CUBLAS_WORKSPACE_CONFIG", "overridden", "one with which a result is repeated to the bit", (":0:0", "abc")
        ),
    ],
    "processors": [
        Variables(
            "ATEN_CPU_CAPABILITY ONEDNN_MAX_CPU_ISA DNNL_MAX_CPU_ISA MKL_CBWR MKL_ENABLE_INSTRUCTIONS",
            "said",
            "by the doctor: numbers are rounded as on another processor",
            ("default", "abc"),
            moves_bits=True,
        ),
    ],
    "torch": [
        Variables("CUDA_VISIBLE_DEVICES", "used", "which GPUs there are", ("", "7", "abc")),
        Variables("TORCH_LOGS TORCH_COMPILE_DEBUG", "overridden", "left out", ("abc", "1")),
        Variables("PYTORCH_JIT TORCHDYNAMO_DISABLE TORCH_COMPILE_DISABLE", "used", "by torch", ("0", "1")),
        Variables("TORCH_SHOW_CPP_STACKTRACES", "used", "by torch", ("1", "abc")),
        Variables(
            "TORCH_DISTRIBUTED_DEBUG",
            "used",
            "left out where torch would not begin",
            ("1", "INFO"),
            found="a traceback",
        ),
        Variables("TORCH_HOME TORCHINDUCTOR_CACHE_DIR CUDA_HOME", "used", "by torch", (NONE,)),
        Variables("CXX", "used", "the compiler; without one, networks run as they are", ("abc",)),
    ],
    "Python": [
        Variables("PYTHONWARNINGS", "overridden", "a library's warning is no failure", ("error", "abc")),
        Variables("PYTHONOPTIMIZE", "used", "by Python", ("1", "2")),
        Variables(
            "PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED PYTHONNOUSERSITE PYTHONSAFEPATH", "used", "by Python", ("1",)
        ),
        Variables("PYTHONHASHSEED", "used", "by Python; no number depends on it", ("0", "random")),
        Variables("PYTHONSTARTUP PYTHONBREAKPOINT", "used", "by Python", (NONE,)),
    ],
    "locale": [
        Variables("PYTHONIOENCODING", "used", "what it lacks is printed as an escape", ("ascii", "latin-1")),
        Variables("PYTHONUTF8 PYTHONCOERCECLOCALE", "used", "files are UTF-8 all the same", ("0",)),
        Variables("LC_ALL LANG LC_CTYPE", "used", "files are UTF-8 all the same", ("C", "POSIX", "xx_XX.abc")),
        Variables("LC_NUMERIC LANGUAGE", "used", "by nobody", ("de_DE.UTF-8", "abc")),
        Variables("TZ", "used", "times that are shown; they decide nothing", ("Asia/Kathmandu", "abc")),
    ],
    "folders": [
        Variables("TMPDIR TEMP TMP", "used", "another folder where it cannot be written", (NONE, "/proc")),
        Variables("HOME", "used", "caches of libraries alone", (NONE, "/proc", "")),
        Variables("XDG_CACHE_HOME XDG_CONFIG_HOME XDG_DATA_HOME XDG_RUNTIME_DIR", "used", "as HOME", (NONE, "/proc")),
    ],
    "people": [
        Variables("USER LOGNAME LNAME USERNAME", "used", "who vouches, in MLflow", ("", "nobody at all")),
        Variables("SHELL EDITOR PAGER", "used", "by nobody", (NONE,)),
    ],
    "terminals": [
        Variables("COLUMNS LINES", "used", "how wide lines are", ("0", "abc", "1")),
        Variables("TERM", "used", "by rich", ("dumb", "abc", "")),
        Variables("NO_COLOR FORCE_COLOR TTY_COMPATIBLE TTY_INTERACTIVE", "used", "by rich", ("1",)),
    ],
    "git and DVC": [
        Variables(
            "GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_OBJECT_DIRECTORY GIT_COMMON_DIR GIT_NAMESPACE GIT_PREFIX",
            "overridden",
            "left out: a hook of git sets them, and they hide this checkout",
            (NONE,),
        ),
        Variables("GIT_CONFIG_GLOBAL GIT_CEILING_DIRECTORIES", "used", "by git", (NONE,)),
        Variables("DVC_NO_ANALYTICS DVC_SITE_CACHE_DIR DVC_GLOBAL_CONFIG_DIR", "used", "by DVC", ("/tmp/dvc-tried",)),
        Variables(
            "PIP_INDEX_URL PIP_REQUIRE_VIRTUALENV PIP_USER UV_INDEX_URL", "used", "by `make setup` alone", ("1",)
        ),
        Variables("VIRTUAL_ENV CONDA_PREFIX", "used", "named where packages are missing", (NONE,)),
        Variables("SSL_CERT_FILE SSL_CERT_DIR REQUESTS_CA_BUNDLE CURL_CA_BUNDLE", "used", "for https alone", (NONE,)),
    ],
    "MLflow": [
        Variables("MLFLOW_RUN_ID MLFLOW_EXPERIMENT_ID MLFLOW_EXPERIMENT_NAME", "used", "by nobody", ("abc",)),
        Variables("MLFLOW_REGISTRY_URI", "used", "by `stages.export` alone", ("abc",)),
        Variables(
            "MLFLOW_ENABLE_ASYNC_LOGGING MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "used", "by MLflow", ("true", "false")
        ),
        Variables("MLFLOW_LOGGING_LEVEL", "used", "left out where it is no level", ("abc", "")),
        Variables("MLFLOW_TRACKING_TOKEN MLFLOW_TRACKING_USERNAME", "used", "for servers", ("abc",)),
    ],
    "MLflow, refused": [
        Variables("MLFLOW_TRACKING_URI", "said", "where runs are kept", ("abc", "file:/none"), refused=True),
        Variables(
            "MLFLOW_HTTP_REQUEST_TIMEOUT MLFLOW_HTTP_REQUEST_MAX_RETRIES MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL "
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE",
            "said",
            "refused where MLflow does not take the value",
            ("abc",),
            refused=True,
        ),
    ],
    "Prefect": [
        Variables(
            "PREFECT_PROFILE PREFECT_API_KEY PREFECT_HOME PREFECT_SERVER_DATABASE_CONNECTION_URL "
            "PREFECT_API_DATABASE_CONNECTION_URL PREFECT_LOGGING_LEVEL PREFECT_API_AUTH_STRING",
            "overridden",
            "left out where no server is named: that of the grid has settings of its own",
            ("abc",),
        ),
        Variables(
            "PREFECT_API_URL", "said", "the server of the grid; where it does not answer, that is said", ("abc",)
        ),
    ],
}


def cases() -> list[tuple[str, int]]:
    """Each family once for every wrong value that its longest row has."""
    return [(family, turn) for family, rows in TABLE.items() for turn in range(max(len(one.wrong) for one in rows))]


def wrong(family: str, turn: int) -> dict[str, str]:
    """All variables of a family, each with its wrong value of that turn, or its last one."""
    return {name: one.wrong[min(turn, len(one.wrong) - 1)] for one in TABLE[family] for name in one.names.split()}


def count() -> tuple[int, int]:
    """How many variables there are, and how many values are tried."""
    rows = [one for family in TABLE.values() for one in family]
    names = [(name, one) for one in rows for name in one.names.split()]
    return len(names), sum(len(one.wrong) for _, one in names)


def table() -> str:
    """What the documentation says of them."""
    names, values = count()
    rows = [one for family in TABLE.values() for one in family]
    found = sum(len(one.names.split()) for one in rows if one.found)
    lines = [
        f"Tried are {names} variables with {values} wrong values; {found} variables were found wrong and mended:",
        "",
        "| variables | are | how | found |",
        "| :-- | :-- | :-- | :-- |",
    ]
    for one in rows:
        shown = " ".join(f"`{name}`" for name in one.names.split())
        lines.append(f"| {shown} | {one.treatment} | {one.how} | {one.found} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
