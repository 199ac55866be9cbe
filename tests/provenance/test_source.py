"""A digest is of what source means: of no comment, and of every number."""

from __future__ import annotations

import pytest

from pipeline.provenance.source import MODULE, summarise

SOURCE = '''"""A module."""

from __future__ import annotations

import math
from typing import Literal

RATE = 0.1
TABLE = {"one": 1, "two": math.pi}
if RATE > 1:
    LIMIT = 2


def loss(x: float, *, factor: float = 2.0) -> float:
    """Twice x."""
    if x < 0:
        raise ValueError(f"{x} is negative")
    return factor * x + RATE


class Attack(Base):
    """An attack."""

    name: Literal["attack"]
    steps: int = 10

    @property
    def length(self) -> int:
        """How long."""
        return self.steps + TABLE["one"]
'''


def digests(source: str) -> dict[str, str]:
    module = summarise(source, "package.module", is_package=False)
    found = {name: one.digest for name, one in module.definitions.items()}
    members = module.definitions.items()
    return found | {f"{name}.{key}": part.digest for name, one in members for key, part in one.members.items()}


def changed(old: str, new: str) -> set[str]:
    """The objects whose digest differs when a text is replaced."""
    assert SOURCE.count(old) == 1
    before, after = digests(SOURCE), digests(SOURCE.replace(old, new))
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"""A module."""', '"""Another text."""'),
        ('    """Twice x."""\n', ""),
        ("RATE = 0.1", "RATE = 1e-1  # ten percent"),
        ("return factor * x + RATE", "return (\n        factor * x\n        + RATE\n    )"),
        ("(x: float, *, factor: float = 2.0) -> float", "(x, *, factor=2.0)"),
        ("is negative", "is less than nothing"),
        ('"one": 1, ', '"one": 1,\n    '),
        ("import math\n", "import math\nimport os\n"),
        ('    """How long."""\n', "        # steps and one\n"),
    ],
)
def test_how_it_is_written_changes_nothing(old: str, new: str) -> None:
    assert changed(old, new) == set()


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        ("RATE = 0.1", "RATE = 0.2", {"RATE"}),
        ("factor * x + RATE", "factor * x - RATE", {"loss"}),
        ("factor: float = 2.0", "factor: float = 3.0", {"loss"}),
        ("if x < 0", "if x <= 0", {"loss"}),
        ("raise ValueError", "raise TypeError", {"loss"}),
        ('"one": 1', '"one": 2', {"TABLE.one"}),
        ('"two": math.pi', '"two": math.e', {"TABLE.two"}),
        ("steps: int = 10", "steps: int = 20", {"Attack.steps"}),
        ("self.steps + TABLE", "self.steps - TABLE", {"Attack.length"}),
        ("@property", "@cached_property", {"Attack.length"}),
        ("class Attack(Base)", "class Attack(Other)", {"Attack"}),
        ("if RATE > 1", "if RATE > 2", {MODULE}),
    ],
)
def test_what_it_means_changes_the_object_that_means_it(old: str, new: str, names: set[str]) -> None:
    assert changed(old, new) == names


def test_what_a_definition_names() -> None:
    module = summarise(SOURCE, "package.module", is_package=False)
    assert {"RATE", "factor", "x", "ValueError"} <= set(module.definitions["loss"].names)
    attack = module.definitions["Attack"]
    assert (attack.kind, attack.bases, attack.choice) == ("class", ["Base"], "attack")
    assert "TABLE[]" in attack.members["length"].names, "only an entry of the table is taken"
    assert module.definitions["TABLE"].members["two"].names == ["math.pi"]
    assert module.imports["Literal"] == ["typing:Literal"]


@pytest.mark.parametrize(
    ("text", "is_package", "target"),
    [("from . import a", False, "package:a"), ("from .b import a", True, "package.module.b:a")],
)
def test_relative_imports_are_resolved(text: str, is_package: bool, target: str) -> None:
    assert summarise(text, "package.module", is_package).imports["a"] == [target]
