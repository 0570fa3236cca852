"""Compare both jobs with other tools, or with another version, as whole processes in turn.

python -m benchmarks.peers [--program PATH] [--baseline PATH] [--files N ...] [--runs N] [--cold]
                           [--remove N] [--folder PATH]

Writes medians, ratios and peak memory to peers.json and peers.md beside the trees. Tools that are
not installed are left out. Dropping caches needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import trees

_OURS = "arawn-cli"
_BASELINE = "baseline"
_STARTUP_RUNS = 20
_DROP_CACHES = Path("/proc/sys/vm/drop_caches")

_REMOVALS = {"delete": "trash_days = 0", "move": "trash_days = 3", "delete-and-keep-chats": "trash_days = 0\nkeep_chats = true"}
"""The keys of `[maintenance.cleanup]` for each kind of removal; only the first does the same as
rm(1)."""

Commands = Mapping[str, Sequence[str]]
"""Command lines by name. Times are compared with the first."""


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of a command: seconds, seconds of processor time, and peak KiB.

    `ratio` is its time divided by that of the first command of the case.
    """

    case: str
    command: str
    seconds: float
    processor_seconds: float
    peak_kib: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Benchmark:
    """The programs to compare, and how."""

    programs: Mapping[str, str]
    folder: Path
    runs: int

    def ours(self, *arguments: str) -> dict[str, list[str]]:
        """Return a command line of each program, the baseline first."""
        return {name: [program, *arguments] for name, program in self.programs.items()}

    def check(self, root: Path, *options: str) -> dict[str, list[str]]:
        """Return the command lines of a check."""
        return self.ours("disk-check", "--base-path", str(root), "--format", "none", *options)

    def compare(self, case: str, commands: Commands, prepare: str = "", runs: int = 0) -> Iterator[Row]:
        """Run the commands in turn and yield a row for each.

        `prepare` is `cold`, or the numbers of files and sessions to build before each run.
        """
        samples: dict[str, list[tuple[float, float, int]]] = {name: [] for name in commands}
        warming = 0 if prepare else 1  # the first round finds cold caches
        for number in range(warming + (runs or self.runs)):
            for name, line in commands.items():
                if prepare == "cold":
                    os.sync()
                    _DROP_CACHES.write_text("3\n")
                elif prepare:
                    trees.inactive(self.folder, "removed", *map(int, prepare.split()))
                sample = self._run(name, line)
                if number >= warming:
                    samples[name].append(sample)
        medians = {name: [statistics.median(values) for values in zip(*taken, strict=True)] for name, taken in samples.items()}
        first = next(iter(medians.values()))[0]
        for name, (seconds, processor, kib) in medians.items():
            row = Row(case, name, round(seconds, 3), round(processor, 3), int(kib), round(seconds / first, 2))
            print(f"{row.case}: {row.command} {_cell(row)}", file=sys.stderr, flush=True)  # all cases may take an hour
            yield row

    def _run(self, name: str, line: Sequence[str]) -> tuple[float, float, int]:
        """Return seconds, processor seconds and peak KiB by time(1)."""
        state = self.folder / "state" / name
        state.mkdir(mode=0o700, parents=True, exist_ok=True)
        report = state / "time.txt"
        environment = {**os.environ, "STATE_DIRECTORY": str(state)}
        started, used = time.perf_counter(), _processor_seconds()
        subprocess.run(["time", "-o", report, "-f", "%M", *line], stdout=subprocess.DEVNULL, env=environment, check=True)
        return time.perf_counter() - started, _processor_seconds() - used, int(report.read_text())


def _processor_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _installed(commands: Commands) -> dict[str, Sequence[str]]:
    return {name: line for name, line in commands.items() if shutil.which(line[0])}


def startup(benchmark: Benchmark) -> Iterator[Row]:
    """Measure the start: `--version`, and a check of an empty root with and without a relay."""
    root = benchmark.folder / "empty"
    (root / "workstreams").mkdir(mode=0o700, parents=True, exist_ok=True)
    limits = "".join(
        f"{kind}_{level}_percent = 100\n" for kind, level in (("filesystem", "critical"), ("inode", "warning"), ("inode", "critical"))
    )
    for name, relay in (("without a relay", ""), ("with a relay", '[maintenance.relay]\nurl = "http://127.0.0.1:9/"\n')):
        config = benchmark.folder / f"{name.replace(' ', '-')}.toml"
        config.write_text(f"[maintenance.pressure]\nfilesystem_warning_percent = 99\n{limits}{relay}")
        yield from benchmark.compare(f"check of an empty root {name}", benchmark.check(root, "--config", str(config)), runs=_STARTUP_RUNS)
    yield from benchmark.compare("`--version`", benchmark.ours("--version"), runs=_STARTUP_RUNS)


def measuring(benchmark: Benchmark, counts: Sequence[int], *, cold: bool) -> Iterator[Row]:
    """Measure trees of these numbers of files, and the largest with sizes from the check before."""
    for files in counts:
        root = trees.tree(benchmark.folder, files)
        top = str(root)
        peers = _installed({"du": ["du", "-s", top], "gdu": ["gdu", "-npc", top], "ncdu": ["ncdu", "-0", "-o", "/dev/null", top]})
        for caches in ("warm", "cold") if cold else ("warm",):
            commands = {**peers, **benchmark.check(root)}
            yield from benchmark.compare(f"measure {files:,} files, {caches}", commands, prepare="cold" if caches == "cold" else "")
    config = benchmark.folder / "remeasure.toml"
    config.write_text("[maintenance.pressure]\nremeasure_hours = 24\n")
    root = trees.sessions(benchmark.folder, max(counts))
    commands = {**_installed({"du": ["du", "-s", str(root)]}), **benchmark.check(root, "--config", str(config))}
    yield from benchmark.compare(f"measure {max(counts):,} files in sessions, with sizes of the check before", commands)


def planning(benchmark: Benchmark, files: int) -> Iterator[Row]:
    """Plan a cleanup, without messages and with many."""
    for name, root in (
        ("no messages", trees.tree(benchmark.folder, files)),
        ("1 GiB of messages", trees.with_messages(benchmark.folder, files, 1 << 30, due=False)),
        ("1 GiB of messages, and a session that is due", trees.with_messages(benchmark.folder, files, 1 << 30, due=True)),
    ):
        commands = benchmark.ours("scratch-cleanup", "--dry-run", "--base-path", str(root), "--format", "none")
        yield from benchmark.compare(f"plan {files:,} files, {name}", commands)


def removing(benchmark: Benchmark, files: int) -> Iterator[Row]:
    """Remove inactive sessions with this number of files."""
    root = benchmark.folder / "removed"
    sessions = str(root / "workstreams" / "scratch" / "sessions")
    rules = benchmark.folder / "tmpfiles.conf"
    rules.write_text(f"e {sessions} - - - mM:7d\n")
    peers = _installed(
        {
            "rm": ["rm", "-rf", sessions],
            "systemd-tmpfiles": ["systemd-tmpfiles", "--clean", str(rules)],
            "tmpreaper": ["tmpreaper", "--mtime", "--mtime-dir", "7d", sessions],
        }
    )
    for name, keys in _REMOVALS.items():
        config = benchmark.folder / f"{name}.toml"
        config.write_text(f"[maintenance.cleanup]\n{keys}\n")
        ours = benchmark.ours("scratch-cleanup", "--base-path", str(root), "--config", str(config), "--format", "none", "--force")
        for size, prepare in ((f"{files:,} files", f"{files} 100"), ("2,000 sessions of 5 files", "10000 2000"), ("1 session", "5 1")):
            yield from benchmark.compare(f"{name} {size}", {**peers, **ours}, prepare=prepare)


def small_sessions(benchmark: Benchmark) -> Iterator[Row]:
    """Measure 2,000 inactive sessions of 5 files, and plan their removal."""
    root = trees.inactive(benchmark.folder, "small-sessions", 10_000, 2_000)
    dry_run = benchmark.ours("scratch-cleanup", "--dry-run", "--base-path", str(root), "--format", "none", "--force")
    yield from benchmark.compare("measure 2,000 sessions of 5 files", benchmark.check(root))
    yield from benchmark.compare("plan 2,000 sessions of 5 files", dry_run)


def markdown(rows: Sequence[Row], machine: str) -> str:
    """Return a table with a line per case and a column per command; ratios are in brackets."""
    commands = sorted(dict.fromkeys(row.command for row in rows), key=lambda command: command not in (_OURS, _BASELINE))
    cells = {(row.case, row.command): _cell(row) for row in rows}
    lines = [f"{machine}\n", f"| | {' | '.join(f'`{command}`' for command in commands)} |", "|---" * (len(commands) + 1) + "|"]
    for case in dict.fromkeys(row.case for row in rows):
        lines.append(f"| {case} | {' | '.join(cells.get((case, command), '') for command in commands)} |")
    return "\n".join(lines) + "\n"


def _cell(row: Row) -> str:
    return f"{row.seconds:.3f} s ({row.ratio:.2f}), processor {row.processor_seconds:.3f} s, {row.peak_kib / 1024:.0f} MiB"


def _machine(program: str) -> str:
    version = subprocess.run([program, "--version", "-v"], capture_output=True, text=True, check=True).stdout
    return f"{len(os.sched_getaffinity(0))} cores, Linux {platform.release()}, {', '.join(version.splitlines())}"


def main() -> None:
    """Run all cases and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default=str(Path(sys.executable).with_name(_OURS)))
    parser.add_argument("--baseline", help="another arawn-cli to run in turn with the program")
    parser.add_argument("--files", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--remove", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir(), "arawn-bench"))
    options = parser.parse_args()
    options.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if options.folder.lstat().st_uid != os.geteuid() or options.folder.is_symlink():
        parser.error(f"{options.folder} does not belong to this account: name another folder with --folder")
    baseline = {_BASELINE: options.baseline} if options.baseline else {}
    benchmark = Benchmark({**baseline, _OURS: options.program}, options.folder, options.runs)
    rows = list(startup(benchmark))
    if options.files:
        rows += measuring(benchmark, options.files, cold=options.cold)
        rows += planning(benchmark, min(options.files))
        rows += small_sessions(benchmark)
    if options.remove:
        rows += removing(benchmark, options.remove)
    machine = _machine(options.program)
    text = markdown(rows, machine)
    (options.folder / "peers.json").write_text(json.dumps({"machine": machine, "rows": [asdict(row) for row in rows]}, indent=1))
    (options.folder / "peers.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
