"""The files for node_exporter's textfile collector, and the rules that read them."""

from __future__ import annotations

import re
import shutil
import subprocess
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from arawn_cli.output.prometheus import Metric, exposition
from tests.conftest import RunCommand, needs, needs_namespaces
from tests.support.relay_fixtures import free_port
from tests.support.tree import SampleTree

TOP = Path(__file__).parents[3]
RULES = TOP / "contrib" / "prometheus" / "arawn.rules.yml"
MONITORING = TOP / "docs" / "monitoring.md"
needs_promtool = needs(shutil.which("promtool") is not None, "promtool")
needs_node_exporter = needs(shutil.which("prometheus-node-exporter") is not None, "prometheus-node-exporter")


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
    assert told["arawn_scratch_cleanup_last_run_trashed_bytes"] == 2_000
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


# Prometheus' own client, as a reference for the text format


class Reference(Collector):
    """The same metrics as Prometheus' client has them."""

    def __init__(self, prefix: str, labels: dict[str, str], metrics: list[Metric]) -> None:
        self.families = []
        for metric in metrics:
            names = sorted({*labels, *(label for own, _ in metric.samples for label in own)})
            kind = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
            family = kind(f"{prefix}_{metric.name}", metric.help, labels=names)
            for own, value in metric.samples:
                family.add_metric([{**labels, **own}[name] for name in names], value)
            self.families.append(family)

    def collect(self) -> Iterator[CounterMetricFamily | GaugeMetricFamily]:
        yield from self.families


def printed_by_the_client(prefix: str, labels: dict[str, str], metrics: list[Metric]) -> str:
    registry = CollectorRegistry()
    registry.register(Reference(prefix, labels, metrics))
    return generate_latest(registry).decode()


def plain_numbers(text: str) -> str:
    """The text with each value as Python prints it. The client uses exponents from a million on."""
    return re.sub(r"(?m)^([^#\n].*) (\S+)$", lambda match: f"{match[1]} {float(match[2])}", text)


TEXTS = st.text(st.characters(codec="utf-8") | st.sampled_from('\\"\n{},='))
NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(0, 2**63 - 1) | st.integers(0, 10**8)


@given(TEXTS, TEXTS, TEXTS, NUMBERS, st.sampled_from(["gauge", "counter"]))
def test_the_format_is_that_of_the_client(text: str, label: str, root: str, value: float, kind: str) -> None:
    name = "reclaimed_bytes_total" if kind == "counter" else "bytes"
    metrics = [Metric(name, text, [({"scope": label}, value), ({"scope": f"{label}2"}, 0)], "counter" if kind == "counter" else "gauge")]
    assert exposition("arawn", {"root": root}, metrics) == plain_numbers(printed_by_the_client("arawn", {"root": root}, metrics))


def test_the_client_reads_what_is_written(written: Path) -> None:
    for path in written.iterdir():
        families = list(text_string_to_metric_families(path.read_text()))
        read = {f"{sample.name} {sample.labels}": sample.value for family in families for sample in family.samples}
        assert len(read) == len([line for line in path.read_text().splitlines() if not line.startswith("#")])
        assert all(family.type in ("gauge", "counter") and family.documentation for family in families)


def test_a_root_that_is_not_utf8_is_shown_as_far_as_it_is() -> None:
    text = exposition("a", {"root": "/srv/\udcff"}, [Metric("b", "B.", [({}, 1)])])
    assert text == '# HELP a_b B.\n# TYPE a_b gauge\na_b{root="/srv/\ufffd"} 1.0\n'
