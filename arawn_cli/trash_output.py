"""What a person sees of the trash."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import RenderableType
from rich.filesize import decimal
from rich.text import Text

from arawn_cli.cleanup_events import TrashEntryEvent
from arawn_cli.render import OutputConsole, age
from arawn_cli.sinks.stdout import printing
from arawn_cli.tables import Fitting, Layout
from arawn_cli.vocabulary import TrashAction

EMPTY = "The trash is empty."
NOTHING_TO_PURGE = "Nothing in the trash is to be purged."

_LAYOUTS = (
    Layout(("session", "removed", "age", "size", "files")),
    Layout(("session", "age", "size", "files")),
    Layout(("session", "age", "size"), lines=False),
)


def show(listed: Sequence[TrashEntryEvent]) -> None:
    """Prints what is in the trash.

    Raises:
        OutputLostError: standard output takes no more.
    """
    _print(Fitting([_cells(event) for event in listed], _LAYOUTS, "Trash") if listed else Text(EMPTY))


def say_that_nothing_is_purged() -> None:
    """Prints that there was nothing to do.

    Raises:
        OutputLostError: standard output takes no more.
    """
    _print(Text(NOTHING_TO_PURGE))


def _cells(event: TrashEntryEvent) -> dict[str, Text]:
    state = " (held by an interrupted run)" if event.held else " (being purged)" if event.action is TrashAction.BEING_PURGED else ""
    return {
        "session": Text.assemble(event.session_id, (state, "yellow")),
        "removed": Text(event.removed_at[:16].replace("T", " ")),
        "age": Text(age(event.removed_at, event.timestamp)),
        "size": Text(decimal(event.bytes)),
        "files": Text(f"{event.files:,}"),
    }


def _print(shown: RenderableType) -> None:
    with printing():
        OutputConsole(highlight=False).print(shown)
