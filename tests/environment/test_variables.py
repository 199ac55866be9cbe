"""A training comes to the same bits whatever the environment says, or says what is wrong with it."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from pipeline.core import launch, machine, surroundings
from pipeline.core.errors import RequestError
from pipeline.core.surroundings import THIS_MACHINE, remarks, settle
from tests.conftest import REPOSITORY
from tests.environment.variables import TABLE, cases, table, wrong
from tests.stages.conftest import MakeWorkplace, Workplace


@pytest.fixture(scope="module")
def undisturbed(make_workplace: MakeWorkplace) -> bytes:
    place = make_workplace()
    place.run("train", "nt", "--seed", "1").expect(0)
    return place.weights("nt")


@pytest.mark.parametrize(("family", "turn"), cases())
def test_a_wrong_value_changes_nothing_or_is_said(
    make_workplace: MakeWorkplace, undisturbed: bytes, family: str, turn: int
) -> None:
    place: Workplace = make_workplace()
    if any(one.refused for one in TABLE[family]):
        for name, value in wrong(family, turn).items():
            place.run("train", "nt", "--seed", "1", **{name: value}).expect(2, name)
        return
    done = place.run("train", "nt", "--seed", "1", **wrong(family, turn))
    done.expect(0)
    if not any(one.moves_bits for one in TABLE[family]):
        assert place.weights("nt") == undisturbed
    if family == "launchers":
        assert "in the environment, but torchrun has not started this process: it works alone" in done.out


def test_the_documentation_counts_them() -> None:
    """`python -m tests.environment.variables` prints it."""
    assert table() in (REPOSITORY / "docs/reliability.md").read_text()


def test_this_machine_is_never_asked_through_a_proxy() -> None:
    for given in ({}, {"NO_PROXY": "example.org"}, {"no_proxy": "*"}, {"no_proxy": "", "NO_PROXY": "localhost"}):
        environment = {"http_proxy": "http://127.0.0.1:9", **given}
        settle(environment)
        assert environment["no_proxy"] == environment["NO_PROXY"]
        named = environment["no_proxy"].split(",")
        assert named == ["*"] or set(named) >= {*THIS_MACHINE, *filter(None, given.get("NO_PROXY", "").split(","))}
        assert len(named) == len(set(named))


ASK = """
import stages, sys, http.server, threading, urllib.request, httpx, requests

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200), self.end_headers(), self.wfile.write(b"here")
    def log_message(self, *arguments):
        pass

server = http.server.HTTPServer(("127.0.0.1", 0), Answer)
threading.Thread(target=server.serve_forever, daemon=True).start()
for host in ("127.0.0.1", "localhost"):
    url = f"http://{host}:{server.server_port}"
    print(urllib.request.urlopen(url).read(), httpx.get(url).content, requests.get(url).content)
"""


@pytest.mark.parametrize("proxy", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "socks://127.0.0.1:9", "socks5://127.0.0.1:9"])
def test_every_library_reaches_this_machine(proxy: str, address: str) -> None:
    clean = {name: value for name, value in os.environ.items() if name.lower() not in ("no_proxy", "http_proxy")}
    environment = {**clean, proxy: address, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", ASK], env=environment, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.count("b'here' b'here' b'here'") == 2, done.stderr


def test_warnings_of_libraries_do_not_end_a_stage() -> None:
    text = "import stages, warnings; warnings.warn('a', UserWarning); warnings.warn('b', DeprecationWarning)"
    environment = {**os.environ, "PYTHONWARNINGS": "error", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", text], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr.count("Warning: ") == 1, done.stderr


@pytest.mark.parametrize("given", [{"PYTHONWARNINGS": "ignore"}, {}])
def test_what_a_caller_has_chosen_stays_without_the_variable(given: dict[str, str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        settle(environment := dict(given))
        kept = [one for one in warnings.filters if one[0] == "error"]
    assert bool(kept) == (not given) and "PYTHONWARNINGS" not in environment


@pytest.mark.parametrize(("given", "expected"), [("3", 3), ("4,2", 4), ("", 1), (None, 1)])
def test_threads_are_those_of_the_outermost_level(
    monkeypatch: pytest.MonkeyPatch, given: str | None, expected: int
) -> None:
    monkeypatch.setattr(machine, "usable_cores", lambda: 1)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert machine.threads_each() == expected


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """A whole job of two processes by another launcher."""
    for name in (*launch.VARIABLES, launch.TORCHRUN):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(launch, "_believed", True)
    values = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    job = {**values, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
    for name, value in job.items():
        monkeypatch.setenv(name, value)
    return job


def test_a_launcher_is_believed_where_that_is_asked(believed: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert launch.launch() == launch.Launch(1, 2, 1, 2, "127.0.0.1", 29500) and launch.remark() is None
    monkeypatch.setattr(launch, "_believed", False)
    assert launch.launch() == launch.Launch() and "WORLD_SIZE=2 is in the environment" in str(launch.remark())
    monkeypatch.setenv(launch.TORCHRUN, "a")
    assert launch.launch().count == 2 and launch.remark() is None


@pytest.mark.parametrize("name", launch.VARIABLES)
@pytest.mark.parametrize("value", ["", "abc", "-1", "2"])
def test_half_a_job_is_refused(
    believed: dict[str, str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    if (name, value) in [(one, "2") for one in launch.VARIABLES if one != "RANK"] or (name == "MASTER_ADDR" and value):
        launch.launch()
        return
    with pytest.raises(RequestError, match=name):
        launch.launch()


def test_the_doctor_says_what_is_odd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(surroundings, "changed", [])
    for name in (launch.TORCHRUN, "PYTHONPATH", *surroundings.ROUNDING):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TMPDIR", raising=False)
    assert list(remarks({})) == []
    settle(
        {
            "GIT_DIR": "/none",
            "ALL_PROXY": "socks://a:1",
            "OMP_NUM_THREADS": "abc",
            "TORCH_LOGS": "x",
            "PYTHONWARNINGS": "i",
            "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            "http_proxy": "http://a:1",
        }
    )
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("HOME", "/proc/none")
    found = [text for text, _ in remarks({"ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": "/none", "TMPDIR": "/none"})]
    wanted = ["GIT_DIR", "ALL_PROXY", "OMP_NUM_THREADS", "TORCH_LOGS", "PYTHONWARNINGS", "WORLD_SIZE=4", "ATEN_CPU"]
    wanted += ["MPLBACKEND", "this machine is not asked through http_proxy"]
    for text in [*wanted, "PYTHONPATH", "/proc/none", "temporary files go to"]:
        assert sum(text in one for one in found) == 1, text
    assert len(found) == len(wanted) + 3
