"""Where the footnotes of a table stand, and their letters."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

KINDS = ("group", "column", "method")
"""What a note is about, where it is about several cells."""


class Footnotes:
    """Where each note stands: at a cell, at the row, column or group of columns all of whose numbers it is about, or
    below the table."""

    def __init__(self, results: pd.DataFrame) -> None:
        """Place the notes of results as `pipeline.reporting.tables.FilledTable.cells` has them."""
        filled = results[~results["missing"]]
        notes = filled.explode("notes").dropna(subset="notes")
        counts = notes["notes"].value_counts(sort=False)
        self.of_table = [str(note) for note, count in counts.items() if count == len(filled) > 1]
        notes = notes[~notes["notes"].isin(self.of_table)]
        self._places: dict[tuple[str, ...], list[str]] = {}
        with_headings = results[results["group"] != ""]
        for kind in KINDS:
            found = _shared(filled, notes, kind)
            if kind != "method":
                absent = _absent(with_headings, kind)
                found |= absent
                with_headings = with_headings[~with_headings[kind].isin(absent)]
            self._places |= {(kind, name): said for name, said in found.items()}
            left = [note not in found.get(name, []) for name, note in zip(notes[kind], notes["notes"], strict=True)]
            notes = notes[pd.Series(left, index=notes.index, dtype=bool)]
        for _, cell in results.iterrows():
            above = [*self.of_table, *(note for kind in KINDS for note in self._places.get((kind, cell[kind]), []))]
            own = [note for note in _cell_notes(cell) if note not in above]
            self._places["cell", cell["method"], cell["column"]] = own
        self.letters: dict[str, str] = {}
        for place in _in_reading_order(results):
            for note in self._places.get(place, []):
                self.letters.setdefault(note, _letter(len(self.letters)))

    def marks(self, *place: str) -> str:
        """The letters at a place: "group", "column" or "method" and its name, or "cell" with method and column."""
        return ",".join(self.letters[note] for note in self._places.get(place, []))


def _in_reading_order(results: pd.DataFrame) -> Iterator[tuple[str, ...]]:
    columns = list(results["column"].unique())
    yield from (("group", group) for group in results["group"].unique())
    yield from (("column", column) for column in columns)
    for method in results["method"].unique():
        yield "method", method
        yield from (("cell", method, column) for column in columns)


def _shared(filled: pd.DataFrame, notes: pd.DataFrame, kind: str) -> dict[str, list[str]]:
    """Notes on every number of a group, row or column that has two or more."""
    sizes = filled[kind].value_counts()
    found: dict[str, list[str]] = {}
    for name, group in notes.groupby(kind, sort=False):
        counts = group["notes"].value_counts(sort=False)
        found[str(name)] = [str(note) for note, count in counts.items() if count == sizes[name] > 1]
    return found


def _absent(results: pd.DataFrame, kind: str) -> dict[str, list[str]]:
    """Groups or columns of a table with headings that have no number, with the one command that measures them."""
    found: dict[str, list[str]] = {}
    for name, cells in results.groupby(kind, sort=False):
        if cells["missing"].all() and cells["command"].nunique() == 1:
            found[str(name)] = [_absence(cells["command"].iloc[0])]
    return found


def _absence(command: str) -> str:
    return f"Not measured yet: `{command}`."


def _cell_notes(result: pd.Series) -> Iterator[str]:
    if result["missing"]:
        yield _absence(result["command"])
    elif result["command"]:
        yield f"{result['seeds']} of {result['seeds_expected']} seeds; for the others: `{result['command']}`."
    yield from result["notes"]


def _letter(number: int) -> str:
    """a, b, ..., z, aa, ab, ..."""
    prefix = _letter(number // 26 - 1) if number >= 26 else ""
    return prefix + chr(ord("a") + number % 26)
