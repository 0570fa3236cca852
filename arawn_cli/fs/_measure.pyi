from collections.abc import Callable

from arawn_cli.fs.native import NativeUsage, Subtrees

def measure(
    start: int, subtrees: Subtrees, threads: int, advance: Callable[[int], None], account: tuple[int, bool, int], /
) -> list[NativeUsage] | None: ...
def delete(start: int, subtrees: Subtrees, threads: int, advance: Callable[[int], None], /) -> list[bool] | None: ...
