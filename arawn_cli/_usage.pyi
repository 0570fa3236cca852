from collections.abc import Callable

from arawn_cli.usage import Measured

def measure(start: int, subtrees: tuple[tuple[bytes, bool], ...], threads: int, tick: Callable[[int], None], /) -> list[Measured]: ...
