"""Settings as YAML that a person reads: what fits on a line is on one, and what is changed seldom comes last."""

from __future__ import annotations

import re
from io import StringIO
from typing import Any

import yaml

WIDTH = 120
"""Characters of a line."""
LAST = ("tables", "figures", "search", "ablation")
"""Sections that say what is made of the results."""


class _Dumper(yaml.SafeDumper):
    """Writes lists indented, and equal parts out in full each time."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def readable_yaml(content: dict[str, Any]) -> str:
    """The content of a file of settings, its sections in order and an empty line between those of several lines."""
    first = {key: value for key, value in content.items() if key not in LAST}
    ordered = first | {key: content[key] for key in LAST if key in content}
    node = _Dumper(StringIO(), sort_keys=False).represent_data(ordered)
    assert isinstance(node, yaml.MappingNode)
    node.flow_style = False
    for key, value in node.value:
        _shape(value, len(key.value) + 2, 2)
    text: str = yaml.serialize(node, Dumper=_Dumper, width=10 * WIDTH, allow_unicode=True)
    return re.sub(r"^(?=[a-z_]+:$)", "\n", text, flags=re.MULTILINE)


def _shape(node: yaml.Node, before: int, indent: int) -> None:
    """Put a node on one line where it fits, otherwise its parts on lines of their own.

    Args:
        node: Of a representation.
        before: Characters that stand before it on its line.
        indent: Of its parts, if they get lines of their own.
    """
    if not isinstance(node, yaml.CollectionNode):
        return
    node.flow_style = before + _length(node) <= WIDTH
    for key, value in _entries(node):
        _shape(value, indent + key, indent + 2)


def _entries(node: yaml.Node) -> list[tuple[int, yaml.Node]]:
    """The parts of a list or mapping, each with the length of what stands before it: a dash or a key."""
    if isinstance(node, yaml.MappingNode):
        return [(len(key.value) + 2, value) for key, value in node.value]
    return [(2, item) for item in node.value]


def _length(node: yaml.Node) -> int:
    """Characters on one line, those of quotes included."""
    if isinstance(node, yaml.ScalarNode):
        return len(node.value) + 2 * (node.tag == "tag:yaml.org,2002:str" and not re.fullmatch(r"[\w/.-]+", node.value))
    lengths = [_length(value) + (key if isinstance(node, yaml.MappingNode) else 0) for key, value in _entries(node)]
    return sum(lengths) + 2 * max(len(lengths) - 1, 0) + 2
