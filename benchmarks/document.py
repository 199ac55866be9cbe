"""Tables that commands write into documents, between two comments."""

from __future__ import annotations

from pathlib import Path

from pipeline.files import write_text


def block(text: str, name: str) -> str:
    """What is between the comments `<!-- NAME: begin -->` and `<!-- NAME: end -->`."""
    _, begin, rest = text.partition(f"<!-- {name}: begin -->\n")
    content, end, _ = rest.partition(f"\n<!-- {name}: end -->")
    assert begin and end, f"the comments that enclose '{name}' are missing"
    return content


def replace_block(path: Path, name: str, content: str) -> None:
    """Write `content` between them."""
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: begin -->\n", f"\n<!-- {name}: end -->"
    write_text(path, text.replace(f"{begin}{block(text, name)}{end}", f"{begin}{content}{end}"))
