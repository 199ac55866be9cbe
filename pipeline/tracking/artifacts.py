"""Files that the stages wrote, as they are logged."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.errors import PipelineError


def flatten(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one, with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read(path: Path) -> Any:
    """The content of a file that a stage wrote.

    Raises:
        PipelineError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PipelineError(f"{path}: is missing; run its stage again ('dvc repro')") from None
    except ValueError as error:
        raise PipelineError(f"{path}: is damaged ({error}); run its stage again ('dvc repro --force')") from None
