"""The code that a result is made by: everything that its computation reaches, and the libraries that compute.

A result is found by its settings (the fingerprint) and counts as this code's only if the code's digest is the same, or
if somebody has vouched that the difference moves no number (`pipeline.provenance.vouchers`). What is only told, shown,
tracked or written is no part of a digest, nor are prepared images, whose own digest is kept with every result.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.extensions import named_in
from pipeline.models.own import is_path
from pipeline.provenance.closure import Sources, closure
from pipeline.provenance.source import LENGTH, MODULE

if TYPE_CHECKING:
    from pipeline.config import Experiment

UNKNOWN = "unknown"
"""In place of the digest of a result that was made before digests were kept."""
Stage = Literal["train", "evaluate", "ood", "stability"]
EXPERIMENT = "pipeline.config.experiment:Experiment"
ROOTS: dict[Stage, tuple[str, ...]] = {
    "train": (
        EXPERIMENT,
        "pipeline.experiments.train:train_experiment",
        "pipeline.training.warm_up:SharedTraining",
    ),
    "evaluate": (EXPERIMENT, "pipeline.experiments.evaluate:evaluate_experiment"),
    "ood": (EXPERIMENT, "pipeline.experiments.ood:measure_ood"),
    "stability": (EXPERIMENT, "pipeline.experiments.stability:measure_stability"),
}
WATCHERS = (
    "pipeline.core.digits",
    "pipeline.core.errors",
    "pipeline.core.extensions",
    "pipeline.core.files",
    "pipeline.core.launch",
    "pipeline.core.progress",
    "pipeline.core.screen",
    "pipeline.core.signals",
    "pipeline.core.waiting",
    "pipeline.models.checks",
    "pipeline.provenance.folders",
    "pipeline.provenance",
    "pipeline.tracking",
    "pipeline.training.observer",
)
"""They keep, tell and watch what others compute."""
WITHOUT_NUMBERS = {"filelock", "mlflow", "psutil", "pyarrow", "pydantic", "rich", "safetensors", "typing_extensions"}
"""Libraries that compute nothing that a result is made of; every other one counts."""
INSTALLED_AS = {"PIL": "pillow"}
"""Libraries that are installed under another name than they are imported by; finding out takes half a second."""
MOST_NAMED = 4
"""Changes that a sentence names."""


@dataclass(frozen=True)
class Code:
    """What a computation reaches."""

    objects: Mapping[str, str]
    """By 'module:object', digests of what is written there and of what it refers to, 8 digits each."""
    libraries: Mapping[str, str]
    """Version by name."""

    @property
    def digest(self) -> str:
        """16 hexadecimal digits. Where in the project an object lies is no part of it: moving code changes nothing."""
        parts = sorted(f"{name.partition(':')[2]} {value}" for name, value in self.objects.items())
        parts += sorted(f"{name} {value}" for name, value in self.libraries.items())
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:LENGTH]

    @property
    def modules(self) -> set[str]:
        """The modules that the objects are in."""
        return {name.partition(":")[0] for name in self.objects}

    def as_json(self) -> dict[str, Any]:
        """Plain values, objects by module."""
        by_module: dict[str, dict[str, str]] = {}
        for name, value in sorted(self.objects.items()):
            module, _, item = name.partition(":")
            by_module.setdefault(module, {})[item] = value
        return {"digest": self.digest, "libraries": dict(sorted(self.libraries.items())), "objects": by_module}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Code:
        """What `as_json` gave."""
        modules = content["objects"].items()
        return cls(
            {f"{module}:{item}": one for module, items in modules for item, one in items.items()}, content["libraries"]
        )


def code_of(stage: Stage, experiment: Experiment, modules: Sources | None = None) -> Code:
    """The code that `stage` reaches for an experiment: as this process runs it, or as it lies in other `modules`."""
    identity = experiment.training_identity()
    extensions = set() if stage in ("evaluate", "ood") else set(named_in(identity))
    if stage in ("evaluate", "stability"):
        identity["evaluation"] = experiment.evaluation.model_dump(mode="json")
        extensions |= set(named_in(identity["evaluation"]))
    if stage == "ood":
        identity["ood"] = experiment.ood.model_dump(mode="json")
    networks = {one.architecture or experiment.model.architecture for one in experiment.method.learners.values()}
    own = {name for name in networks if is_path(name)}
    return _code(modules or sources(), stage, frozenset(extensions), frozenset(strings_in(identity)), frozenset(own))


def digest_of(stage: Stage, experiment: Experiment) -> str:
    """The digest that results of an experiment must have to count as this code's: that of `code_of`, or the one that
    somebody has vouched for to give the same numbers."""
    from pipeline.provenance.vouchers import original

    return original(stage, experiment, code_of(stage, experiment).digest)


@lru_cache(maxsize=4096)
def _code(
    modules: Sources, stage: Stage, extensions: frozenset[str], strings: frozenset[str], networks: frozenset[str]
) -> Code:
    return reached([*ROOTS[stage], *sorted(networks)], strings, WATCHERS, modules, extensions)


def reached(
    roots: Iterable[str],
    strings: Iterable[str],
    cut: Iterable[str],
    modules: Sources | None = None,
    extensions: Iterable[str] = (),
) -> Code:
    """The code that `roots` reach; see `pipeline.provenance.closure.closure`."""
    found, short = closure(modules or sources(), roots, strings, cut, extensions), LENGTH // 2
    digests = found.objects.items()
    objects = {name: written[:short].ljust(short, "-") + wired[:short] for name, (written, wired) in digests}
    return Code(objects, {name: library_version(name) for name in found.libraries - WITHOUT_NUMBERS})


@cache
def sources() -> Sources:
    """The modules of this process. They are read once, so that a digest is of what runs, not of a later edit."""
    root = Path(__file__).resolve().parents[1]
    packages = {name: root.with_name(name) for name in (root.name, "stages") if root.with_name(name).is_dir()}
    return Sources(packages, kept=root / "__pycache__" / "digests")


def strings_in(content: Any) -> Iterator[str]:
    """All keys and texts in plain values."""
    if isinstance(content, Mapping):
        for key, value in content.items():
            yield str(key)
            yield from strings_in(value)
    elif isinstance(content, list):
        for value in content:
            yield from strings_in(value)
    elif isinstance(content, str):
        yield content


@cache
def library_version(package: str) -> str:
    """A version without its local part: a build for another device is the same library."""
    try:
        found = version(INSTALLED_AS.get(package, package))
    except PackageNotFoundError:  # installed under another name than it is imported by
        distributions = packages_distributions().get(package)
        found = version(distributions[0]) if distributions else "not installed"
    return found.partition("+")[0]


def changes(old: Code | None, new: Code) -> list[str]:
    """What differs: objects by file, libraries with both versions; objects that only moved are left out."""
    if old is None:
        return ["the code that made it is not known"]
    found = _differing(old, new, slice(0, LENGTH // 2)) or _differing(old, new, slice(None))
    by_file: dict[str, list[str]] = {}
    for name in found:
        module, _, item = name.partition(":")
        by_file.setdefault(_file(module), []).append("" if item == MODULE else item)
    lines = [f"{path} ({', '.join(filter(None, items))})" if any(items) else path for path, items in by_file.items()]
    for name in sorted(old.libraries.keys() | new.libraries.keys()):
        before, now = old.libraries.get(name, "none"), new.libraries.get(name, "none")
        if before != now:
            lines.append(f"{name} {before} -> {now}")
    return lines


def _differing(old: Code, new: Code, part: slice) -> list[str]:
    """Names of objects whose digests differ in `part`."""
    before, now = ({_item(name, value[part]) for name, value in code.objects.items()} for code in (old, new))
    changed = {name for name, value in new.objects.items() if _item(name, value[part]) not in before}
    gone = {name for name, value in old.objects.items() if _item(name, value[part]) not in now}
    return sorted(changed | gone)


def _item(name: str, value: str) -> tuple[str, str]:
    return name.partition(":")[2], value


def _file(module: str) -> str:
    path = sources().path(module) if sources().is_local(module) else None
    name = module.replace(".", "/")
    return f"{name}/__init__.py" if path is not None and path.name == "__init__.py" else f"{name}.py"


def named(lines: list[str]) -> str:
    """Changes in half a sentence."""
    more = f" and {len(lines) - MOST_NAMED} more" if len(lines) > MOST_NAMED else ""
    return "; ".join(lines[:MOST_NAMED]) + more
