"""Where the footnotes of a table stand, and their letters."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd


class Footnotes:
    """Where each note stands: at a cell, at the row, column or group of columns all of whose numbers it is about, or
    below the table."""

    def __init__(self, results: pd.DataFrame) -> None:
        """Place the notes of results as `pipeline.reporting.layout.assemble` takes them."""
        filled = results[~results["missing"]]
        notes = filled.explode("notes").dropna(subset="notes")
        self.of_table = self._shared_by_all(filled, notes)
        notes = notes[~notes["notes"].isin(self.of_table)]
        absent = _absent(results, "group")
        self._groups = self._shared(filled, notes, "group") | absent
        notes = notes[~self._covered(notes, "group", self._groups)]
        self._columns = self._shared(filled, notes, "column") | _absent(
            results[~results["group"].isin(absent)], "column"
        )
        self._rows = self._shared(filled, notes[~self._covered(notes, "column", self._columns)], "method")
        self._cells = {(row["method"], row["column"]): self._own(row) for _, row in results.iterrows()}
        self.letters: dict[str, str] = {}
        self._give_letters(results)

    def _give_letters(self, results: pd.DataFrame) -> None:
        """In the order of reading."""
        for group in results["group"].unique():
            self._number(self._groups.get(group, []))
        for column in results["column"].unique():
            self._number(self._columns.get(column, []))
        for method in results["method"].unique():
            self._number(self._rows.get(method, []))
            for column in results["column"].unique():
                self._number(self._cells.get((method, column), []))

    def of_group(self, group: str) -> str:
        """Letters at a group's heading."""
        return self._marks(self._groups.get(group, []))

    def of_column(self, column: str) -> str:
        """Letters at a column's label."""
        return self._marks(self._columns.get(column, []))

    def of_row(self, method: str) -> str:
        """Letters at a row's label."""
        return self._marks(self._rows.get(method, []))

    def of_cell(self, method: str, column: str) -> str:
        """Letters at a number or dash."""
        return self._marks(self._cells.get((method, column), []))

    @staticmethod
    def _shared_by_all(filled: pd.DataFrame, notes: pd.DataFrame) -> list[str]:
        counts = notes["notes"].value_counts(sort=False)
        return [str(note) for note, count in counts.items() if count == len(filled) > 1]

    @staticmethod
    def _shared(filled: pd.DataFrame, notes: pd.DataFrame, key: str) -> dict[str, list[str]]:
        """Notes on every number of a row or column that has two or more."""
        sizes = filled[key].value_counts()
        found: dict[str, list[str]] = {}
        for name, group in notes.groupby(key, sort=False):
            counts = group["notes"].value_counts(sort=False)
            found[str(name)] = [str(note) for note, count in counts.items() if count == sizes[name] > 1]
        return found

    @staticmethod
    def _covered(notes: pd.DataFrame, key: str, shared: dict[str, list[str]]) -> pd.Series:
        covered = [note in shared.get(name, []) for name, note in zip(notes[key], notes["notes"], strict=True)]
        return pd.Series(covered, index=notes.index, dtype=bool)

    def _own(self, row: pd.Series) -> list[str]:
        """What is said at the cell itself."""
        above = [*self._groups.get(row["group"], []), *self._columns.get(row["column"], [])]
        elsewhere = [*self.of_table, *above, *self._rows.get(row["method"], [])]
        return [note for note in _cell_notes(row) if note not in elsewhere]

    def _number(self, notes: list[str]) -> None:
        for note in notes:
            self.letters.setdefault(note, _letter(len(self.letters)))

    def _marks(self, notes: list[str]) -> str:
        return ",".join(self.letters[note] for note in notes)


def _absent(results: pd.DataFrame, key: str) -> dict[str, list[str]]:
    """Groups or columns of a table with headings that have no number, with the one command that measures them."""
    found: dict[str, list[str]] = {}
    for name, cells in results[results["group"] != ""].groupby(key, sort=False):
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
