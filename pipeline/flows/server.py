"""What the flows ask of Prefect's server, and what they leave there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from prefect.automations import Automation
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, Worker, WorkerStatus
from prefect.client.schemas.responses import DeploymentResponse
from prefect.events.worker import EventsWorker
from prefect.exceptions import ObjectNotFound, TerminationSignal
from prefect.logging.handlers import APILogWorker
from prefect.runtime import deployment
from prefect.settings import get_current_settings
from prefect.states import Failed

from pipeline.core.errors import RequestError
from pipeline.core.waiting import kind, speaking

DEPLOYMENT = "experiment/experiment"
STOPPED = "Stopped"
"""The name of the state of a flow that a signal has stopped."""
SENDING = 10.0
"""Seconds for what is left of logs."""
NAMED = kind("named Prefect server", "the Prefect server that PREFECT_API_URL names")
LOGS = kind("logs", "a Prefect server to take the last logs and events", 2 * SENDING)


def check_server() -> None:
    """Find out that a server answers and has the deployments.

    Raises:
        RequestError: it is not so; the message says which commands help.
    """
    way_out = "start one with 'prefect server start', and set PREFECT_API_URL=http://127.0.0.1:4200/api"
    url = get_current_settings().api.url
    if url is None:
        raise RequestError(f"no Prefect server is named: {way_out}; or let 'make ablation' do it all")
    with get_client(sync_client=True) as client:
        with speaking(NAMED, f"the Prefect server at {url} to answer"):
            problem = client.api_healthcheck()
        if problem is not None:
            raise RequestError(f"the Prefect server at {url} does not answer ({problem}): {way_out}")
        find_deployment(client)


def find_deployment(client: SyncPrefectClient) -> DeploymentResponse:
    """The deployment `experiment`, with a pool that it runs in.

    Raises:
        RequestError: there is none; the message says which commands make it.
    """
    way_out = "'prefect work-pool create --type process experiments', then 'prefect --no-prompt deploy --all'"
    try:
        deployment = client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        raise RequestError(f"the server has no deployment '{DEPLOYMENT}': {way_out}") from None
    if deployment.work_pool_name is None:
        raise RequestError(f"the deployment '{DEPLOYMENT}' has no work pool: {way_out}")
    return deployment


def online(client: SyncPrefectClient, deployment: DeploymentResponse) -> list[Worker]:
    """The workers that take runs of a deployment."""
    workers = client.read_workers_for_work_pool(deployment.work_pool_name or "")
    return [worker for worker in workers if worker.status == WorkerStatus.ONLINE]


def install_automations(path: Path = Path("automations.yaml")) -> None:
    """Install the automations of a file on the server, those that it does not have yet."""
    for content in yaml.safe_load(path.read_text())["automations"]:
        with get_client(sync_client=True) as client:
            known = client.read_automations_by_name(content["name"])
        if not known:
            Automation(**content).create()


def unless_stopped(work: Callable[[], State[Any]]) -> State[Any]:
    """The state that a flow ends in; where a signal stops a person's command that is no crash, which Prefect would
    make of it. One on a worker that goes is one: Prefect starts it again."""
    try:
        return work()
    except (KeyboardInterrupt, TerminationSignal):
        if deployment.get_id() is not None:
            raise
        return Failed(name=STOPPED, message="stopped; the same command continues")


def send_what_is_left() -> None:
    """Send logs and events that wait for their batch, before the server goes."""
    with speaking(LOGS, "the Prefect server to take the last logs"):
        APILogWorker.drain_all(timeout=SENDING)
        EventsWorker.drain_all(timeout=SENDING)
