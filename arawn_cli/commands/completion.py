"""What a shell offers for a word that is being typed: names from the file, ids from the tree; nothing where they cannot be read."""

from __future__ import annotations

import os
from contextlib import suppress

import typer


def root_names(context: typer.Context, incomplete: str) -> list[str]:
    """The names of `[[maintenance.roots]]`."""
    from arawn_cli.config import Flags, named_roots
    from arawn_cli.errors import ArawnCliError

    with suppress(ArawnCliError, OSError):
        names = named_roots(Flags(config=context.params.get("config")), os.environ)
        return [name for name in names if name.startswith(incomplete)]
    return []


def removed_sessions(context: typer.Context, incomplete: str) -> list[str]:
    """The ids of the sessions that wait in the trash."""
    from arawn_cli.config import Flags, load
    from arawn_cli.errors import ArawnCliError
    from arawn_cli.layout import opened_root
    from arawn_cli.trash import waiting

    given = context.params
    with suppress(ArawnCliError, OSError):
        config = load(Flags(config=given.get("config"), base_path=given.get("base_path"), root=given.get("root")), os.environ)
        with opened_root(config.root) as root:
            found, _failures = waiting(root)
        return sorted({entry.session for entry in found if not entry.gone and entry.session.startswith(incomplete)})
    return []
