"""Tables that leave columns out before a name folds: whoever copies an id needs it whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

_TO_THE_RIGHT = frozenset({"activity", "age", "files", "last activity", "size"})
# More than any terminal has: what a table would take if nothing had to fold.
_NO_EDGE = 10_000


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns a table has, by their headings, and whether lines are drawn around them."""

    columns: tuple[str, ...]
    lines: bool = True


@dataclass(frozen=True, slots=True)
class Fitting:
    """A table in the first of its layouts that the terminal has room for; in the last one, the first column folds if it must.

    Each row has a cell for every heading of any layout.
    """

    rows: Sequence[Mapping[str, Text]]
    layouts: Sequence[Layout]
    title: str | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table as it fits."""
        tables = [self._table(layout) for layout in self.layouts]
        boundless = options.update(width=_NO_EDGE)
        yield next((table for table in tables if console.measure(table, options=boundless).maximum <= options.max_width), tables[-1])

    def _table(self, layout: Layout) -> Table:
        table = Table(title=self.title, title_justify="left") if layout.lines else plain_table(self.title)
        for heading in layout.columns:
            first = heading == layout.columns[0]
            table.add_column(heading, justify="right" if heading in _TO_THE_RIGHT else "left", no_wrap=not first, overflow="fold")
        for row in self.rows:
            table.add_row(*(row[heading] for heading in layout.columns))
        return table


def plain_table(title: str | None = None) -> Table:
    """A table without lines."""
    return Table(title=title, title_justify="left", box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
