"""What monitoring systems read: Nagios' status line and return code, Prometheus' textfiles and rules."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tomli_w

from arawn_cli.cli.demo import SampleTree
from arawn_cli.events import Level
from arawn_cli.output import nagios
from tests.conftest import WITHOUT_FILE_POWERS, RunCommand, needs, needs_namespaces, needs_setpriv
from tests.support.in_process import checked
from tests.support.relay_fixtures import free_port

NEGATE = Path("/usr/lib/nagios/plugins/negate")
TOP = Path(__file__).parents[3]
RULES = TOP / "contrib" / "prometheus" / "arawn.rules.yml"
MONITORING = TOP / "docs" / "monitoring.md"
needs_negate = needs(NEGATE.exists(), "monitoring-plugins-basic")
needs_promtool = needs(shutil.which("promtool") is not None, "promtool")
needs_node_exporter = needs(shutil.which("prometheus-node-exporter") is not None, "prometheus-node-exporter")
STATUS_LINE = re.compile(r"DISK (OK|WARNING|CRITICAL|UNKNOWN) - [^|\n]+( \| ('[^'=]+'=\d+B?;\d+;\d+;0 ?)+)?\n")


@pytest.fixture
def filled(tree: SampleTree) -> SampleTree:
    tree.workstream("blog", "My blog", {"work/a": 3_000, "production/b": 500})
    tree.session("old", files={"f": 2_000}, age_days=30)
    tree.session("fresh", files={"f": 10}, age_days=0.1)
    return tree


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    def write(*, limit: int = 10**9, for_checks: int = 1, **maintenance: object) -> Path:
        path = tmp_path / "c.toml"
        pressure = {
            "for_checks": for_checks,
            "limits": {"blog": limit},
            "filesystem_warning_percent": 99,
            "filesystem_critical_percent": 100,
        }
        state = str(tmp_path / "state")
        path.write_text(tomli_w.dumps({"maintenance": {"state_dir": state, "pressure": pressure, **maintenance}}))
        return path

    return write


@pytest.mark.parametrize(
    ("limit", "code", "text"),
    [(10**6, 0, "OK - total 5.5kB of 10.7GB"), (3_000, 1, "WARNING - blog 3.5kB of 3.0kB"), (100, 2, "CRITICAL - blog")],
)
def test_the_status_line_and_the_return_code(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], limit: int, code: int, text: str
) -> None:
    done = run("disk-check", "--base-path", filled.root, "--config", config(limit=limit), "--format", "nagios")
    assert done.code == code
    assert STATUS_LINE.fullmatch(done.stdout)
    assert f"DISK {text}" in done.stdout
    assert f"'blog'=3500B;{limit};{2 * limit};0" in done.stdout
    assert "'inodes'=" in done.stdout
    assert "session:" not in done.stdout


@pytest.mark.parametrize(
    "arguments", [("--base-path", "/nonexistent"), ("--config", "/nonexistent"), ("--bogus",), ("--relay-url", "ftp://x")]
)
def test_whatever_is_no_measurement_is_unknown(run: RunCommand, arguments: tuple[str, ...]) -> None:
    done = run("disk-check", "--format", "nagios", *arguments)
    assert done.code == 3
    assert done.stdout.startswith("DISK UNKNOWN - ")
    assert len(done.stdout.splitlines()) == 1


@needs_setpriv
def test_a_check_that_could_not_read_all_is_unknown(run: RunCommand, filled: SampleTree, config: Callable[..., Path]) -> None:
    (filled.workstreams / "blog" / "work").chmod(0)
    done = run("disk-check", "--base-path", filled.root, "--config", config(), "--format", "nagios", prefix=WITHOUT_FILE_POWERS)
    assert done.code == 3
    assert done.stdout.startswith("DISK UNKNOWN - not all could be read, 1 failed: ")
    assert "Permission denied" in done.stdout


@needs_negate
@pytest.mark.parametrize(("limit", "code"), [(10**6, 0), (3_000, 1), (100, 2)])
def test_a_caller_of_plugins_reads_line_and_code(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], environment: dict[str, str], tmp_path: Path, limit: int, code: int
) -> None:
    path = config(limit=limit)
    plugin = run(
        "disk-check",
        "--base-path",
        filled.root,
        "--config",
        path,
        "--format",
        "nagios",
        prefix=(str(NEGATE), "-s", "-o", "CRITICAL", "-c", "OK"),
    )
    assert plugin.code == {0: 2, 1: 1, 2: 0}[code]
    assert plugin.stdout.startswith({0: "DISK CRITICAL - ", 1: "DISK WARNING - ", 2: "DISK OK - "}[code])


def test_names_do_not_break_the_line(tree: SampleTree) -> None:
    result, _ = checked(tree)
    line = nagios.unknown_line("two\nlines | and a bar \x1b[31m")
    assert line == "DISK UNKNOWN - two lines / and a bar \\x1b[31m"
    assert STATUS_LINE.fullmatch(nagios.status_line(result) + "\n")
    assert nagios.RETURN_CODES == {Level.OK: 0, Level.WARNING: 1, Level.CRITICAL: 2, Level.UNKNOWN: 3}


@pytest.fixture
def textfiles(tmp_path: Path) -> Path:
    directory = tmp_path / "textfiles"
    directory.mkdir()
    return directory


@pytest.fixture
def written(run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path) -> Path:
    """Both files, of a check before and of a cleanup after."""
    path = config(limit=3_000, metrics={"textfile_dir": str(textfiles)})
    for command in ("disk-check", "scratch-cleanup"):
        assert run(command, "--base-path", filled.root, "--config", path).code == 0
    return textfiles


def samples(text: str) -> dict[str, float]:
    """Every sample by its name and labels, without the root."""
    found = re.findall(r"^(arawn_\w+)\{(.*?)\} (\S+)$", text, re.MULTILINE)
    return {f"{name} {re.sub(r',?root=.*?arawn.', '', labels).strip(',')}".strip(): float(value) for name, labels, value in found}


def test_what_the_metrics_tell(written: Path, filled: SampleTree) -> None:
    told = samples("".join((written / name).read_text() for name in ("arawn_disk_check.prom", "arawn_scratch_cleanup.prom")))
    assert {key: told[key] for key in told if "blog" in key} == {
        'arawn_disk_check_workstream_usage_bytes area="work",workstream="blog"': 3_000,
        'arawn_disk_check_workstream_usage_bytes area="production",workstream="blog"': 500,
        'arawn_disk_check_workstream_usage_bytes area="other",workstream="blog"': 0,
        'arawn_disk_check_scope_usage_bytes scope="blog"': 3_500,
        'arawn_disk_check_scope_limit_bytes scope="blog"': 3_000,
        'arawn_disk_check_scope_critical_bytes scope="blog"': 6_000,
        'arawn_disk_check_scope_level scope="blog"': 1,
    }
    assert told['arawn_scratch_cleanup_sessions age="1d"'] == 1
    assert told["arawn_scratch_cleanup_removed_sessions_total"] == 1
    assert told["arawn_scratch_cleanup_reclaimed_bytes_total"] == 2_000
    for job in ("disk_check", "scratch_cleanup"):
        assert told[f"arawn_{job}_last_success_timestamp_seconds"] == told[f"arawn_{job}_last_run_timestamp_seconds"]
        assert abs(told[f"arawn_{job}_last_run_timestamp_seconds"] - filled.now / 1e9) < 60
        assert told[f"arawn_{job}_outbox_events"] == 0


def test_the_list_of_the_docs_is_what_is_written(written: Path) -> None:
    told = [tuple(row) for row in re.findall(r"^\| `(arawn_\w+)` \| (\w+) \| (.*) \| (.*) \|$", MONITORING.read_text(), re.MULTILINE)]
    assert told == [metric for name in ("arawn_disk_check", "arawn_scratch_cleanup") for metric in metrics_in(written / f"{name}.prom")]


def metrics_in(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, labels beside the root, and meaning of each metric of a file."""
    text = file.read_text()
    for name, meaning, kind in re.findall(r"^# HELP (\w+) (.*)\.\n# TYPE \w+ (\w+)$", text, re.MULTILINE):
        labels = {label for series in re.findall(rf"^{name}\{{(.*)\}} ", text, re.MULTILINE) for label in re.findall(r'(\w+)="', series)}
        assert "root" in labels
        yield name, kind, ", ".join(f"`{label}`" for label in sorted(labels - {"root"})), meaning


def test_counters_go_on_and_a_failed_run_is_no_success(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path
) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)})
    cleanup = textfiles / "arawn_scratch_cleanup.prom"
    assert run("scratch-cleanup", "--base-path", filled.root, "--config", path).code == 0
    before = samples(cleanup.read_text())
    filled.session("older", files={"f": 30}, age_days=30)
    filled.database.write_bytes(b"no database" * 100)
    assert run("scratch-cleanup", "--base-path", filled.root, "--config", path).code == 1
    after = samples(cleanup.read_text())
    assert after["arawn_scratch_cleanup_removed_sessions_total"] == before["arawn_scratch_cleanup_removed_sessions_total"] == 1
    assert after["arawn_scratch_cleanup_last_run_removed_sessions"] == 0
    assert after["arawn_scratch_cleanup_last_run_failures"] == 1
    success = "arawn_scratch_cleanup_last_success_timestamp_seconds"
    assert after[success] == pytest.approx(before[success], abs=0.1)
    assert after[success] < after["arawn_scratch_cleanup_last_run_timestamp_seconds"]


def test_files_are_whole_readable_by_all_and_alone(written: Path) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in written.iterdir()} == {
        "arawn_disk_check.prom": 0o644,
        "arawn_scratch_cleanup.prom": 0o644,
    }


def test_a_dry_run_writes_no_metrics(run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)})
    for command in ("disk-check", "scratch-cleanup"):
        assert run(command, "--base-path", filled.root, "--config", path, "--dry-run").code == 0
    assert list(textfiles.iterdir()) == []


def test_a_missing_folder_is_one_warning(run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path) -> None:
    path = config(metrics={"textfile_dir": str(tmp_path / "missing")})
    done = run("disk-check", "--base-path", filled.root, "--config", path)
    assert done.code == 0
    assert [line for line in done.stderr.splitlines() if "metrics" in line] == [
        f"WARNING: cannot write the metrics {tmp_path}/missing/arawn_disk_check.prom: No such file or directory"
    ]


@needs_namespaces
def test_a_full_disk_under_state_and_metrics_costs_one_warning_each(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    fill = f"(dd if=/dev/zero of={full}/fill bs=4k 2>/dev/null; true)"
    mounted = f'mount -t tmpfs -o size=64k tmpfs {full} && mkdir {full}/state && {fill} && exec "$@"'
    path = config(limit=3_000, for_checks=3, state_dir=str(full / "state"), metrics={"textfile_dir": str(full)})
    done = run(
        "disk-check",
        "--base-path",
        filled.root,
        "--config",
        path,
        "--fail-on",
        "warning",
        prefix=("unshare", "-m", "sh", "-c", mounted, "sh"),
    )
    assert done.code == 3
    assert done.of_type("disk_pressure")[0]["level"] == "warning"
    assert done.last["level"] == "warning"
    warnings = [line for line in done.stderr.splitlines() if "rises" not in line]
    assert [
        bool(re.search(text, line))
        for line, text in zip(warnings, ("the state in .* cannot be used", "cannot write the metrics"), strict=True)
    ] == [True, True]


@needs_promtool
def test_promtool_accepts_rules_and_metrics(written: Path) -> None:
    assert subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, check=False).returncode == 0
    for path in written.iterdir():
        done = subprocess.run(["promtool", "check", "metrics"], input=path.read_bytes(), capture_output=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_rules_ask_only_for_metrics_that_are_written(written: Path) -> None:
    named = set(re.findall(r"\barawn_\w+", RULES.read_text()))
    assert named
    assert named <= set(re.findall(r"^# TYPE (\w+)", "".join(path.read_text() for path in written.iterdir()), re.MULTILINE))


@contextmanager
def node_exporter(directory: Path) -> Iterator[str]:
    port = free_port()
    command = [
        "prometheus-node-exporter",
        "--collector.disable-defaults",
        "--collector.textfile",
        f"--collector.textfile.directory={directory}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as exporter:
        try:
            assert exporter.stderr
            assert any("Listening on" in line or "TLS is disabled" in line for line in exporter.stderr)
            yield f"http://127.0.0.1:{port}/metrics"
        finally:
            exporter.terminate()


@needs_node_exporter
def test_node_exporter_serves_both_files(written: Path) -> None:
    with node_exporter(written) as url, urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address
        served = answer.read().decode()
    assert "node_textfile_scrape_error 0" in served
    for path in written.iterdir():
        assert set(samples(path.read_text()).items()) <= set(samples(served).items())
