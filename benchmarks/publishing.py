"""What every benchmark leaves: its numbers with the code, the machine and the versions that gave them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.core.files import write_json
from pipeline.core.machine import usable_cores
from pipeline.provenance.commit import git_commit, versions

RESULTS = Path(__file__).resolve().parent / "results"
INSTRUCTION_SETS = ("amx_bf16", "avx2", "avx512_bf16", "avx512_f")
CPU = torch.device("cpu")


def publish(path: Path | None, numbers: Mapping[str, Any], device: torch.device | None = None) -> dict[str, Any]:
    """Print `numbers` as JSON, with the commit, the machine and the versions, write and return them.

    Args:
        path: Where to; None: nowhere. Every kind of device has a file of its own beside it.
        numbers: What was measured.
        device: Whose arithmetic they tell of (None: nobody's).
    """
    result = {**numbers, "machine": machine(device or CPU), "git_commit": git_commit(), **versions()}
    if path is not None:
        write_json(path if device is None else file_for(path, kind(device)), result)
    print(json.dumps(result, indent=2))
    return result


def kind(device: torch.device) -> str:
    """`cuda`, `cpu`, or `cpu_without_amx`: bfloat16 gains much less there, so that numbers of one hold for it alone."""
    if device.type != "cpu" or torch.cpu.get_capabilities().get("amx_bf16"):
        return device.type
    return "cpu_without_amx"


def file_for(path: Path, kind: str) -> Path:
    """`step.json` of a CPU, `step.cuda.json` of a GPU: neither overwrites the other."""
    return path if kind == "cpu" else path.with_suffix(f".{kind}{path.suffix}")


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    return {
        "device": device_name(device),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
    }


def device_name(device: torch.device) -> str:
    """The GPU's own name, or the processor's kind and what it has for fast arithmetic."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capabilities = torch.cpu.get_capabilities()
    found = [name for name in INSTRUCTION_SETS if capabilities.get(name)]
    return ", ".join([f"{platform.machine()} CPU", *found])
