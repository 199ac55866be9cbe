"""Compose params.yaml from the pieces in conf/ and overrides, with Hydra."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.config import Params, parse_params
from pipeline.config.overrides import GROUPS, parse_overrides, raise_any, unknown_keys
from pipeline.config.scaling import Scaling, leaves
from pipeline.config.writing import readable_yaml
from pipeline.core.datasets import is_own
from pipeline.core.errors import RequestError
from pipeline.core.files import write_text

if TYPE_CHECKING:
    from omegaconf import DictConfig

EPOCHS = "training.epochs"
HEADER = (
    "# Composed from conf/ by: python -m stages.compose {overrides}\n"
    "# This file is what runs; edit it freely: composing anew does not replace edits unasked. As composed: {digest}\n"
)
DIGEST = re.compile(r"(?:#.*\n)?# This file is what runs.* As composed: ([0-9a-f]{16})\n")


@dataclass(frozen=True)
class Composition:
    """What was composed."""

    content: str
    params: Params
    notes: list[str]


def compose(overrides: list[str], conf: Path) -> str:
    """The text of params.yaml for Hydra `overrides`; raises as `compose_suite`."""
    return with_header(overrides, compose_suite(overrides, conf).content)


def with_header(overrides: Sequence[str], content: str) -> str:
    """The text of params.yaml, which says what it was composed from and tells an edit by the digest."""
    return HEADER.format(overrides=" ".join(overrides), digest=_digest(content)) + content


def is_edited(text: str) -> bool:
    """Whether a params.yaml is, or may be, other than it was composed."""
    header = DIGEST.match(text)
    return header is None or header[1] != _digest(text[header.end() :])


def _digest(content: str) -> str:
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def write_composed(path: Path, text: str, overwrite: bool) -> Path | None:
    """Write a composed params.yaml, but not over a person's edits: an edited file is refused, or with `overwrite` kept
    beside it under a free name.

    The result is where an edited file was kept; None where there was none.

    Raises:
        RequestError: the file is edited and must not be replaced.
    """
    kept = None
    if path.is_file():
        before = path.read_text(encoding="utf-8", errors="replace")
        if is_edited(before) and before != text:
            kept = _free_name(path)
            if not overwrite:
                raise RequestError(
                    f"{path} was edited since it was composed, nothing was changed. 'git diff {path}' shows the edits; "
                    f"--overwrite (make ... OVERWRITE=1) replaces them and keeps the file as {kept}"
                )
            os.replace(path, kept)
    write_text(path, text)
    return kept


def with_found(text: str, found: dict[str, Any]) -> str:
    """The text of a params.yaml with `data.found` in one line, everything else as it is.

    A file that nobody has edited still counts as composed afterwards.
    """
    import yaml

    root: Any = yaml.compose(text, yaml.SafeLoader)
    data = next(value for key, value in root.value if key.value == "data")
    line = f"found: {json.dumps(found, ensure_ascii=False)}"
    present = [(key.start_mark.index, _end(value)) for key, value in data.value if key.value == "found"]
    if present:
        start, end = present[0]
    else:
        start = end = data.value[0][0].start_mark.index
        line += ", " if data.flow_style else "\n" + " " * data.value[0][0].start_mark.column
    changed = text[:start] + line + text[end:]
    header = DIGEST.match(changed)
    if header is None or is_edited(text):
        return changed
    return changed.replace(header[1], _digest(changed[header.end() :]), 1)


def _end(node: Any) -> int:
    """Where the text of a node of YAML ends: the end of a block, as the parser tells it, is behind comments."""
    if isinstance(node.value, list) and node.value and not node.flow_style:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    end: int = node.end_mark.index
    return end


def _free_name(path: Path) -> Path:
    """The name with .bak added, or .bak2, .bak3 and so on where an earlier edited file is kept."""
    names = (path.with_name(f"{path.name}.bak{number}") for number in chain([""], count(2)))
    return next(name for name in names if not name.exists())


def fill(content: Any, key: str, value: Any) -> int:
    """Give `value` to every `key` within plain values that is null, and say how many there were."""
    if isinstance(content, list):
        return sum(fill(part, key, value) for part in content)
    if not isinstance(content, dict):
        return 0
    filled = sum(fill(part, key, value) for part in content.values())
    if key not in content or content[key] is not None:
        return filled
    content[key] = value
    return filled + 1


def _assume(content: dict[str, Any]) -> list[str]:
    """Put stand-ins where something depends on images that nobody looks at: a suite can be checked without any."""
    if is_own(str(content["data"]["name"])):
        content["data"]["held_out_images"] = content["data"]["held_out_images"] or 1
        fill(content["methods"], "decay", 0.9)
    return []


def compose_suite(
    overrides: Sequence[str], conf: Path, fit: Callable[[dict[str, Any]], list[str]] = _assume
) -> Composition:
    """The content of params.yaml for Hydra `overrides`.

    Where one of them is `training.epochs`, whatever else counts epochs is scaled in proportion; see
    `pipeline.config.scaling`.

    Args:
        fit: Fills in what depends on images of one's own, and says in lines what it did.

    Raises:
        RequestError: an override names something that does not exist, or the composed file has mistakes.
    """
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    parsed = parse_overrides(overrides, conf)
    try:
        composed, scaling = _scaled(overrides, parsed, conf)
        OmegaConf.resolve(composed)
    except (HydraException, OmegaConfBaseException, YAMLError, ValueError, RecursionError, OSError) as error:
        said = str(error).partition("\n")[0]  # what follows is Hydra's advice, which does not fit here
        raise RequestError(f"cannot compose {' '.join(overrides)}: {said}") from None
    content: Any = OmegaConf.to_container(composed)
    if scaling is not None:
        scaling.finish(content)
    fitted = fit(content)
    params = parse_params(content, f"conf/ with {' '.join(overrides) or 'no overrides'}")
    scaled = [] if scaling is None else list(scaling.describe())
    return Composition(readable_yaml(content), params, [*fitted, *scaled])


def _composed(overrides: Sequence[str], conf: Path) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("folder_of", _folder_of, replace=True)
    with initialize_config_dir(str(conf.resolve()), version_base=None):
        composed: DictConfig = compose("config", list(overrides))
    return composed


def _folder_of(architecture: str) -> str:
    """A network's name as that of a folder: of 'package.module:object', the dots and the colon are replaced."""
    return re.sub(r"[.:]", "_", architecture)


def _scaled(overrides: Sequence[str], parsed: Sequence[Any], conf: Path) -> tuple[DictConfig, Scaling | None]:
    """What the overrides give, its references not followed yet; scaled where they change the suite's epochs."""
    from hydra.errors import ConfigCompositionException
    from omegaconf import DictConfig, OmegaConf

    asked = [one for one in parsed if one.key_or_group == EPOCHS and _sets(one)]
    others = [text for text, one in zip(overrides, parsed, strict=True) if one not in asked]
    try:
        composed = _composed(others, conf)
    except ConfigCompositionException:
        chosen = [text for text, one in zip(overrides, parsed, strict=True) if one.key_or_group in GROUPS]
        content: Any = OmegaConf.to_container(_composed(chosen, conf), resolve=False)
        raise_any(overrides, unknown_keys(parsed, content))
        raise
    if not asked:
        return composed, None
    before, after = OmegaConf.select(composed, EPOCHS), asked[-1].value()
    OmegaConf.update(composed, EPOCHS, after)
    if type(before) is not int or type(after) is not int or after < 1 or before == after:
        return composed, None  # what is wrong with it is said when the content is checked
    scaling = Scaling(before, after, frozenset(leaf for one in parsed for leaf in _leaves_of(one)))
    content = OmegaConf.to_container(composed, resolve=False)
    scaling.apply(content)
    scaled = OmegaConf.create(content)
    assert isinstance(scaled, DictConfig)
    return scaled, scaling


def _sets(override: Any) -> bool:
    """Whether a parsed override gives a value to a key that is there: neither ~key nor +key=value, but ++key=value."""
    return not override.is_delete() and (override.is_force_add() or not override.is_add())


def _leaves_of(override: Any) -> Iterator[tuple[str, ...]]:
    return leaves(tuple(override.key_or_group.split(".")), override.value())
