"""A question to the person at the terminal."""

from __future__ import annotations

import typer


def confirmed(question: str) -> bool:
    """Whether the answer is yes; the end of the input (Ctrl-D) is a no.

    Raises:
        KeyboardInterrupt: the answer is Ctrl-C.
    """
    try:
        return typer.confirm(question)
    except typer.Abort as error:
        typer.echo()  # the cursor still stands behind the question
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        return False
