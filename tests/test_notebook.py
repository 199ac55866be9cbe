"""A real kernel runs the API's page: bars and figures are outputs of their cells, and an interrupt saves."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from pipeline.reporting.api_page import PAGE
from tests.conftest import PATIENCE, REPOSITORY
from tests.stages.conftest import clean_environment
from tests.test_api import AFTER, SMALLER
from tests.test_readme import blocks

LONG = """
train(full("suite=digits", "training.threads=1").experiment("nt", seed=1))
"""
"""The whole suite, as `compose` was before `SMALLER`."""


class Notebook(NotebookClient):  # type: ignore[misc]
    """A client that interrupts its kernel, as the button does, once the output of a cell has what is waited for."""

    waits_for: str | None = None

    def process_message(self, msg: Any, cell: Any, cell_index: int) -> Any:
        if self.waits_for is not None and re.search(self.waits_for, str(msg["content"])):
            self.waits_for = None
            self.stopping = asyncio.ensure_future(self.km.interrupt_kernel())
        return super().process_message(msg, cell, cell_index)

    def run(self, source: str, until: str | None = None) -> Any:
        """The cell with its outputs; `until`: what its output has when it is interrupted."""
        self.waits_for = until
        self.nb.cells.append(nbformat.v4.new_code_cell(source))
        return self.execute_cell(self.nb.cells[-1], len(self.nb.cells) - 1)


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Notebook]:
    """A notebook in an empty folder, whose kernel knows the small suite."""
    folder = tmp_path_factory.mktemp("notebook")
    client = Notebook(
        nbformat.v4.new_notebook(),
        timeout=PATIENCE,
        iopub_timeout=int(PATIENCE),  # what comes later is dropped without a word
        startup_timeout=int(PATIENCE),
        kernel_name="python3",
        resources={"metadata": {"path": folder}},
    )
    with client.setup_kernel(env=clean_environment()):
        client.run(SMALLER)
        yield client


def shown(cell: Any, kind: str) -> list[str]:
    """What the outputs of a cell have of a MIME type."""
    return [output.data[kind] for output in cell.outputs if kind in output.get("data", {})]


def test_the_page_works_as_printed_with_bars_and_figures(notebook: Notebook) -> None:
    first, *others = blocks((REPOSITORY / PAGE).read_text(), "python")
    cell = notebook.run(first)
    training, evaluating = shown(cell, "text/plain")
    assert "at-1" in training and "4/4" in training and "epoch 4: " in training and "loss linf" in training
    assert "attack 11/11  done in" in evaluating and "images correct" in evaluating
    assert "'natural': " in "".join(output.text for output in cell.outputs if output.output_type == "stream")
    for source in others:
        cell = notebook.run(source)
    assert "only at-1" in str(cell.outputs)
    (comparison,) = shown(notebook.run("comparison"), "text/html")
    assert comparison.count('<img src="data:image/png;base64,') >= 2 and "<table" in comparison
    notebook.run(AFTER)
    folder = Path(notebook.resources["metadata"]["path"])
    assert (folder / "results/digits/at-1/train/model.safetensors").exists() and not (folder / "mlflow.db").exists()


def test_an_interrupt_of_the_kernel_saves_and_the_same_cell_continues(notebook: Notebook) -> None:
    saved = r"Interrupted.*: SIGINT received: saved (runs/\S+\.pt); the same command continues"
    with pytest.raises(CellExecutionError, match=saved) as caught:
        notebook.run(LONG, until=r"epoch 1: ")
    found = re.search(saved, str(caught.value))
    folder = Path(notebook.resources["metadata"]["path"])
    assert found is not None and (folder / found[1]).stat().st_size > 0
    cell = notebook.run(LONG)
    assert "continuing after epoch" in str(cell.outputs) and "PosixPath" in shown(cell, "text/plain")[-1]
