"""Both jobs beside the tools that do the like, in turn, as whole processes: medians, ratios and peak memory.

python -m benchmarks.peers [--program PATH] [--files N ...] [--runs N] [--cold] [--remove N] [--folder PATH]

Writes peers.json and peers.md beside the trees. What is not installed is left out. Dropping caches takes root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import trees

_OURS = "arawn-cli"
_CAT = "/proc/sys/vm/drop_caches"


@dataclass(frozen=True, slots=True)
class Row:
    """The runs of one command on one tree: median seconds and KiB of peak memory, and its time as a share of the first peer's."""

    case: str
    command: str
    seconds: float
    peak_kib: int
    ratio: float


def measuring(program: str, root: Path, state: Path, *extra: str) -> dict[str, list[str]]:
    """The commands that measure a tree, the one that ours is held to first."""
    ours = [program, "disk-check", "--base-path", str(root), "--format", "none", *extra]
    top = str(root)
    peers = {"du": ["du", "-s", top], "gdu": ["gdu", "-npc", top], "ncdu": ["ncdu", "-0", "-o", "/dev/null", top]}
    state.mkdir(exist_ok=True)
    return {**{name: line for name, line in peers.items() if shutil.which(line[0])}, _OURS: ours}


def removing(program: str, folder: Path) -> dict[str, list[str]]:
    """The commands that remove the sessions of the tree `removed` in a folder."""
    root = folder / "removed"
    sessions = str(root / "workstreams" / "scratch" / "sessions")
    rules = folder / "tmpfiles.conf"
    rules.write_text(f"e {sessions} - - - mM:7d\n")
    peers = {
        "rm": ["rm", "-rf", sessions],
        "systemd-tmpfiles": ["systemd-tmpfiles", "--clean", str(rules)],
        "tmpreaper": ["tmpreaper", "--mtime", "--mtime-dir", "7d", sessions],
    }
    ours = [program, "scratch-cleanup", "--base-path", str(root), "--format", "none", "--force"]
    return {**{name: line for name, line in peers.items() if shutil.which(line[0])}, _OURS: ours}


def compared(case: str, commands: dict[str, list[str]], runs: int, state: Path, prepare: Sequence[str] = ()) -> Iterator[Row]:
    """Runs the commands in turn and tells of each; `prepare` names what is done before each run: `cold`, or a folder to fill."""
    taken: dict[str, list[tuple[float, int]]] = {name: [] for name in commands}
    warming = 0 if prepare else 1  # a first round that finds nothing as the others do
    for number in range(warming + runs):
        for name, line in commands.items():
            for step in prepare:
                _prepare(step)
            sample = _run(line, state)
            if number >= warming:
                taken[name].append(sample)
    medians = {name: (statistics.median(s for s, _ in samples), max(kib for _, kib in samples)) for name, samples in taken.items()}
    first = next(iter(medians.values()))[0]
    for name, (seconds, kib) in medians.items():
        yield Row(case, name, round(seconds, 3), kib, round(seconds / first, 2))


def markdown(rows: Sequence[Row], machine: str) -> str:
    """The rows as a table: a line for each case, a column for each command, ours first; in brackets the share of the first peer's time."""
    commands = [_OURS, *dict.fromkeys(row.command for row in rows if row.command != _OURS)]
    cells = {(row.case, row.command): _cell(row) for row in rows}
    lines = [f"{machine}\n", f"| | {' | '.join(f'`{command}`' for command in commands)} |", "|---" * (len(commands) + 1) + "|"]
    for case in dict.fromkeys(row.case for row in rows):
        lines.append(f"| {case} | {' | '.join(cells.get((case, command), '') for command in commands)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    return f"{row.seconds:.2f} s ({row.ratio:.2f}), {row.peak_kib / 1024:.0f} MiB"


def machine(program: str) -> str:
    """What the figures were taken on; of Python, the one that the program runs on."""
    told = subprocess.run([program, "--version", "-v"], capture_output=True, text=True, check=True).stdout
    return f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, {', '.join(told.splitlines())}"


def _told(rows: Iterable[Row]) -> Iterator[Row]:
    """Each row as it comes, on standard error: the whole may take an hour."""
    for row in rows:
        print(f"{row.case}: {row.command} {_cell(row)}", file=sys.stderr, flush=True)
        yield row


def _cases(options: argparse.Namespace, folder: Path, state: Path) -> Iterator[Row]:
    for files in options.files:
        root = trees.tree(folder, files)
        yield from compared(f"measure {files:,}, warm", measuring(options.program, root, state), options.runs, state)
        if options.cold:
            yield from compared(f"measure {files:,}, cold", measuring(options.program, root, state), options.runs, state, ["cold"])
    if options.files:
        yield from _remembering(options, trees.sessions(folder, max(options.files)), state)
        yield from _reading(options, folder, state)
    if options.remove:
        commands = removing(options.program, folder)
        yield from compared(f"remove {options.remove:,}", commands, options.runs, state, [f"{folder}:{options.remove}"])


def _remembering(options: argparse.Namespace, root: Path, state: Path) -> Iterator[Row]:
    config = state / "remembering.toml"
    config.write_text("[maintenance.pressure]\nremeasure_hours = 24\n")
    commands = measuring(options.program, root, state, "--config", str(config))
    chosen = {name: commands[name] for name in ("du", _OURS) if name in commands}
    yield from compared(f"measure {max(options.files):,} in sessions, remembered", chosen, options.runs, state)


def _reading(options: argparse.Namespace, folder: Path, state: Path) -> Iterator[Row]:
    """A plan, which reads messages and measures nothing that they keep."""
    files = min(options.files)
    for name, root in (
        ("no messages", trees.tree(folder, files)),
        ("1 GiB of messages", trees.with_messages(folder, files, 1 << 30, recent=1 << 20)),
    ):
        line = [options.program, "scratch-cleanup", "--dry-run", "--base-path", str(root), "--format", "none"]
        yield from compared(f"plan {files:,}, {name}", {_OURS: line}, options.runs, state)


def _prepare(step: str) -> None:
    if step == "cold":
        os.sync()
        Path(_CAT).write_text("3\n")
    else:
        folder, _, files = step.rpartition(":")
        trees.inactive(Path(folder), "removed", int(files))


def _run(line: Sequence[str], state: Path) -> tuple[float, int]:
    """Seconds, and peak KiB as time(1) tells it: a process that is started by a larger one inherits its peak."""
    told = state / "time.txt"
    environment = {**os.environ, "STATE_DIRECTORY": str(state)}
    started = time.perf_counter()
    subprocess.run(["time", "-o", told, "-f", "%M", *line], stdout=subprocess.DEVNULL, env=environment, check=True)
    return time.perf_counter() - started, int(told.read_text())


def main() -> None:
    """From options to files and standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name(_OURS)))
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--remove", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "arawn-bench"))
    options = parser.parse_args()
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.folder.lstat().st_uid != os.geteuid() or options.folder.is_symlink():
        parser.error(f"{options.folder} is not this account's own folder: name another with --folder")
    state = options.folder / "state"
    state.mkdir(mode=0o700, exist_ok=True)
    rows = list(_told(_cases(options, options.folder, state)))
    place = machine(options.program)
    text = markdown(rows, place)
    (options.folder / "peers.json").write_text(json.dumps({"machine": place, "rows": [asdict(row) for row in rows]}, indent=1))
    (options.folder / "peers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
