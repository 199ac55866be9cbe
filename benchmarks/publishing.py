"""What every benchmark leaves: its numbers with the code, the machine and the versions that gave them."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from pipeline.files import write_json
from pipeline.machine import usable_cores
from pipeline.provenance import git_commit, versions

RESULTS = Path(__file__).resolve().parent / "results"
INSTRUCTION_SETS = ("amx_bf16", "avx2", "avx512_bf16", "avx512_f")
CPU = torch.device("cpu")


def publish(path: Path | None, numbers: Mapping[str, Any], device: torch.device = CPU) -> dict[str, Any]:
    """Print `numbers` as JSON, with the commit, the machine and the versions, write and return them.

    Args:
        path: Where to; None: nowhere. Those of another device than the CPU go to a file of their own beside it.
        numbers: What was measured.
        device: On what.
    """
    result = {**numbers, "machine": machine(device), "git_commit": git_commit(), **versions()}
    if path is not None:
        write_json(file_for(path, device.type), result)
    print(json.dumps(result, indent=2))
    return result


def file_for(path: Path, device_type: str) -> Path:
    """`step.json` of the CPU, `step.cuda.json` of a GPU: neither overwrites the other."""
    return path if device_type == "cpu" else path.with_suffix(f".{device_type}{path.suffix}")


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
