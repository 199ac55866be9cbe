"""Fit settings to images of one's own: look at them, and fill in what depends on what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.config import DataSettings
from pipeline.config.composing import fill, with_found
from pipeline.config.reading import read_yaml, validate
from pipeline.core.datasets import DATASETS, is_own
from pipeline.core.errors import RequestError
from pipeline.core.files import write_text
from pipeline.core.values import mapping

HELD_OUT_SHARE = 10
"""One training image in so many chooses among epochs, unless the file says how many."""
FORGOTTEN_SHARE = 0.02
"""The mixture forgets over this share of all steps, as the papers' 0.999 does in 46,920 steps."""


def fit(content: dict[str, Any]) -> list[str]:
    """Look at the images that `data.root` of a file's content has, and write what they are into it, as `data.found`.

    What is null is filled in: `data.held_out_images`, the decay of mixtures; members of AutoAttack that so few classes
    do not define are left out.

    Returns:
        Lines that say what was found and done; none where the data set is not one's own.

    Raises:
        RequestError: there are no such images, or no classifier can be trained and tested on them.
    """
    data = mapping(content, "data")
    name = str(data.get("name"))
    if not is_own(name) and (name not in DATASETS or DATASETS[name].classes or data.get("classes") is not None):
        return []
    from pipeline.data.prepare import find  # seconds: it imports torch and what reads images

    asked = {**data, "found": None, "held_out_images": data.get("held_out_images") or 1}
    found = find(validate(DataSettings, asked, "section data", {}))
    data["found"] = {key: value for key, value in found.model_dump(mode="json").items() if value is not None}
    lines = [f"{data.get('root')}: {len(found.classes)} classes ({_named(found.classes)})"]
    if found.shape is not None and found.train_images is not None:
        shape = " x ".join(map(str, found.shape))
        lines[0] += f", {found.train_images:,} training and {found.test_images:,} test images of {shape}"
        lines += _hold_out(data, mapping(content, "training").get("batch_size"), found.train_images)
        lines += _set_decay(content, found.train_images)
    return [*lines, *_choose_members(content, len(found.classes))]


def accept(path: Path) -> list[str]:
    """Write what the images of a params.yaml are into it, and leave everything else there as it is.

    Returns:
        Lines that say what was found.

    Raises:
        RequestError: as `fit`; or the file has no section `data`, or is no YAML.
    """
    content = read_yaml(path, "'make suite SUITE=own' writes it.")
    if not isinstance(content, dict) or not mapping(content, "data"):
        raise RequestError(f"{path}: has no section 'data'")
    data = mapping(content, "data")
    lines = fit({"data": (data := {**data, "held_out_images": data.get("held_out_images") or 1})})
    if not lines:
        return [f"{path}: data set '{data.get('name')}' is known, there is nothing to look at"]
    write_text(path, with_found(path.read_text(encoding="utf-8"), data["found"]))
    return lines


def _hold_out(data: dict[str, Any], batch_size: Any, images: int) -> list[str]:
    """A tenth of the training images, and as many more as it takes not to leave a last minibatch of one."""
    if data.get("held_out_images") is not None:
        return []
    count = max(1, images // HELD_OUT_SHARE)
    if type(batch_size) is int and batch_size > 1 and (images - count) % batch_size == 1:
        count += 1
    data["held_out_images"] = count
    return [f"{count:,} training images are held out to select epochs (data.held_out_images)"]


def _set_decay(content: dict[str, Any], images: int) -> list[str]:
    """Set the decay of every average of weights whose decay is null."""
    training, data = mapping(content, "training"), mapping(content, "data")
    epochs, batch_size, chosen = training.get("epochs"), training.get("batch_size"), data.get("train_images")
    if not all(type(number) is int and number > 0 for number in (epochs, batch_size)):
        return []
    left = images - data["held_out_images"]
    steps = epochs * -(-max(min(left, chosen) if type(chosen) is int else left, 1) // batch_size)
    decay = round(1 - 1 / max(2.0, FORGOTTEN_SHARE * steps), 4)
    if not fill(mapping(content, "methods"), "decay", decay):
        return []
    return [f"decay of mixtures {decay}: they forget over 2 % of {steps:,} steps"]


def _choose_members(content: dict[str, Any], classes: int) -> list[str]:
    """Leave members of AutoAttack out that so few classes do not define, and with one that is alone what shows it."""
    from pipeline.evaluation.attacks.autoattack import LEAST_CLASSES, defined_members

    fewer, gone, attacks = [], set(), mapping(mapping(content, "evaluation"), "attacks")
    for name, attack in attacks.items():
        members = attack.get("members") if isinstance(attack, dict) and attack.get("name") == "autoattack" else None
        if not isinstance(members, list) or all(LEAST_CLASSES.get(member, 2) <= classes for member in members):
            continue
        if type(attack.get("targets")) is int and attack["targets"] >= classes - 1:
            del attack["targets"]  # all other classes are aimed at, which is no less than the standard does
        if len(members) == 1:
            gone.add(name)
        else:
            attack["members"] = [str(member) for member in defined_members(classes)]
            fewer.append(name)
    for name in gone:
        attacks[name] = None
    for section in ("tables", "figures"):
        _leave_out(mapping(content, section), gone)
    why = f"{classes} classes do not define the loss of each member of AutoAttack (docs/evaluation.md)"
    lines = [f"{', '.join(fewer)}: {', '.join(defined_members(classes))} alone, {why}"] if fewer else []
    return [*lines, *([f"{', '.join(sorted(gone))}: left out, {why}"] if gone else [])]


def _leave_out(section: Any, metrics: set[str]) -> None:
    """Take whatever shows one of `metrics` out of the lists within plain values."""
    if isinstance(section, list):
        section[:] = [part for part in section if not (isinstance(part, dict) and part.get("metric") in metrics)]
    for part in section.values() if isinstance(section, dict) else section if isinstance(section, list) else []:
        _leave_out(part, metrics)


def _named(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
