"""The files for node_exporter's textfile collector, and the rules that read them."""

from __future__ import annotations

import os
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

from arawn_cli.events import JobName
from arawn_cli.fs.permissions import account_name
from arawn_cli.output.prometheus import Metric, exposition, file_name
from tests.conftest import RunCommand, needs, needs_namespaces, needs_setpriv
from tests.support.doctor_inputs import public_directory
from tests.support.owner import READABLE
from tests.support.relay_fixtures import free_port
from tests.support.tree import SampleTree

__all__ = ["public_directory"]

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
    own = [(name, re.sub(r',?(root|account)="[^"]*"', "", labels).strip(","), float(value)) for name, labels, value in found]
    return {f"{name} {labels}".strip(): value for name, labels, value in own}


def test_what_the_metrics_tell(written: Path, filled: SampleTree) -> None:
    told = samples("".join(path.read_text() for path in written.iterdir()))
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
    assert told == [metric for path in sorted(written.iterdir()) for metric in metrics_in(path)]


def metrics_in(file: Path) -> Iterator[tuple[str, str, str, str]]:
    """Name, type, labels beside the root, and meaning of each metric of a file."""
    text = file.read_text()
    for name, meaning, kind in re.findall(r"^# HELP (\w+) (.*)\.\n# TYPE \w+ (\w+)$", text, re.MULTILINE):
        labels = {label for series in re.findall(rf"^{name}\{{(.*)\}} ", text, re.MULTILINE) for label in re.findall(r'(\w+)="', series)}
        assert labels >= {"account", "root"}
        yield name, kind, ", ".join(f"`{label}`" for label in sorted(labels - {"account", "root"})), meaning


def test_counters_go_on_and_a_failed_run_is_no_success(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path
) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)})
    assert run("scratch-cleanup", "--base-path", filled.root, "--config", path).code == 0
    (cleanup,) = textfiles.iterdir()
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


def test_a_cleanup_that_does_not_meet_its_budget_is_no_success(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path
) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)}, cleanup={"max_total": 1})
    assert run("scratch-cleanup", "--base-path", filled.root, "--config", path).code == 1
    (cleanup,) = textfiles.iterdir()
    assert samples(cleanup.read_text())["arawn_scratch_cleanup_last_success_timestamp_seconds"] == 0


def test_files_are_whole_readable_by_all_and_alone(written: Path, filled: SampleTree) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in written.iterdir()} == {
        file_name(job, account_name(os.geteuid()), filled.root): 0o644 for job in JobName
    }


NAMES = st.text(st.sampled_from("ab/.-_\\\\ é\udcff"), min_size=1, max_size=6)


@given(st.lists(st.tuples(st.sampled_from(JobName), NAMES, NAMES), max_size=20))
def test_a_file_has_a_name_of_its_own_for_each_job_account_and_root(keys: list[tuple[JobName, str, str]]) -> None:
    named = {(job, account, Path("/", root)): file_name(job, account, Path("/", root)) for job, account, root in keys}
    assert len(set(named.values())) == len(named)
    assert all(re.fullmatch(r"arawn_[a-z_]+\.[A-Za-z0-9_-]+\.[0-9a-f]{8}\.prom", name) for name in named.values())


@needs_setpriv
@needs_namespaces
def test_two_accounts_share_a_directory_and_a_scrape(run: RunCommand, public_directory: Path) -> None:
    textfiles = public_directory / "prom"
    textfiles.mkdir()
    textfiles.chmod(0o1777)
    for account in (5, 7):
        home = public_directory / str(account)
        (home / "a" / "workstreams" / "scratch" / "sessions").mkdir(parents=True)
        (home / "c.toml").write_text(
            f'[paths]\nbase_path = "{home}/a"\n[maintenance]\nstate_dir = "{home}/s"\n[maintenance.metrics]\ntextfile_dir = "{textfiles}"\n'
        )
        for path in (home, *home.rglob("*")):
            os.chown(path, account, account)
        prefix = (*READABLE, "setpriv", f"--reuid={account}", f"--regid={account}", "--clear-groups")
        done = run("disk-check", "--config", home / "c.toml", prefix=prefix, HOME=str(home))
        assert (done.code, "metrics" in done.stderr) == (0, False)
    names = [path.name for path in textfiles.iterdir()]
    assert len(names) == 2
    assert {re.sub(r"\.[0-9a-f]{8}\.prom$", "", name) for name in names} == {
        f"arawn_disk_check.{account_name(number)}" for number in (5, 7)
    }
    if shutil.which("prometheus-node-exporter"):
        with node_exporter(textfiles) as url, urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310 - a loopback address
            served = answer.read().decode()
        assert "node_textfile_scrape_error 0" in served
        assert served.count("arawn_disk_check_complete{") == 2


def test_a_run_takes_the_place_of_its_old_file_and_doctor_names_those_of_others(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path
) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)})
    (textfiles / "arawn_disk_check.prom").write_text(f'arawn_disk_check_complete{{root="{filled.root}"}} 1\n')
    (textfiles / "arawn_disk_check.lab.prom").write_text('arawn_disk_check_complete{root="/elsewhere"} 1\n')
    (textfiles / ".arawn_disk_check.prom.ab_d1234").touch()
    assert run("disk-check", "--base-path", filled.root, "--config", path).code == 0
    current = file_name(JobName.DISK_CHECK, account_name(os.geteuid()), filled.root)
    assert sorted(os.listdir(textfiles)) == sorted(["arawn_disk_check.lab.prom", current])
    (finding,) = [event for event in run("doctor", "--base-path", filled.root, "--config", path).events if event.get("check") == "metrics"]
    assert (finding["status"], finding["fix"]) == ("warn", f"rm -f {textfiles}/arawn_disk_check.lab.prom")


def test_doctor_says_that_the_directory_is_missing(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path
) -> None:
    path = config(metrics={"textfile_dir": str(tmp_path / "missing")})
    (finding,) = [event for event in run("doctor", "--base-path", filled.root, "--config", path).events if event.get("check") == "metrics"]
    assert (finding["status"], "does not exist" in str(finding["detail"])) == ("fail", True)


def test_removing_a_schedule_removes_the_metrics_of_its_root_alone(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path, tmp_path: Path
) -> None:
    other = SampleTree(tmp_path / "other", filled.now)
    path = config(metrics={"textfile_dir": str(textfiles)})
    for tree in (filled, other):
        assert run("disk-check", "--base-path", tree.root, "--config", path).code == 0
    where = ("--base-path", filled.root, "--config", path)
    assert run("schedule", "install", "--cron", "--user", "--yes", *where).code == 0
    assert run("schedule", "remove", "--cron", "--user", "--yes", *where).code == 0
    assert os.listdir(textfiles) == [file_name(JobName.DISK_CHECK, account_name(os.geteuid()), other.root)]


def test_a_dry_run_writes_no_metrics(run: RunCommand, filled: SampleTree, config: Callable[..., Path], textfiles: Path) -> None:
    path = config(metrics={"textfile_dir": str(textfiles)})
    for command in ("disk-check", "scratch-cleanup"):
        assert run(command, "--base-path", filled.root, "--config", path, "--dry-run").code == 0
    assert list(textfiles.iterdir()) == []


def test_a_missing_folder_is_one_warning(run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path) -> None:
    path = config(metrics={"textfile_dir": str(tmp_path / "missing")})
    done = run("disk-check", "--base-path", filled.root, "--config", path)
    name = file_name(JobName.DISK_CHECK, account_name(os.geteuid()), filled.root)
    assert done.code == 0
    assert [line for line in done.stderr.splitlines() if "metrics" in line] == [
        f"WARNING: cannot write the metrics {tmp_path}/missing/{name}: No such file or directory"
    ]


@needs_namespaces
def test_a_full_disk_under_state_and_metrics_costs_one_warning_each(
    run: RunCommand, filled: SampleTree, config: Callable[..., Path], tmp_path: Path
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    fill = f"(dd if=/dev/zero of={full}/fill bs=4k 2>/dev/null; true)"
    mounted = f'mount -t tmpfs -o size=64k tmpfs {full} && mkdir {full}/state && {fill} && exec "$@"'
    every = {"disk_check": "1h"}  # the first run of an hour tells its problems
    path = config(limit=3_000, for_checks=3, state_dir=str(full / "state"), metrics={"textfile_dir": str(full)}, schedule=every)
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


RULES_TEST = """
rule_files: [{rules}]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {{series: 'arawn_disk_check_last_run_timestamp_seconds{{root="/a"}}', values: '0x10 _x60'}}
      - {{series: 'arawn_scratch_cleanup_last_run_timestamp_seconds{{root="/a"}}', values: '0x10 _x60'}}
    alert_rule_test:
      - {{eval_time: 5m, alertname: ArawnDiskCheckAbsent, exp_alerts: []}}
      - {{eval_time: 60m, alertname: ArawnDiskCheckAbsent, exp_alerts: [{{exp_labels: {{severity: warning}}}}]}}
      - {{eval_time: 60m, alertname: ArawnScratchCleanupAbsent, exp_alerts: [{{exp_labels: {{severity: warning}}}}]}}
  - interval: 1m
    input_series:
      - {{series: 'arawn_disk_check_last_run_timestamp_seconds{{root="/a"}}', values: '0x60'}}
      - {{series: 'arawn_disk_check_scope_level{{root="/a",scope="total"}}', values: '0x10 2x20'}}
    alert_rule_test:
      - {{eval_time: 15m, alertname: ArawnDiskCheckMissing, exp_alerts: []}}
      - {{eval_time: 30m, alertname: ArawnDiskCheckMissing, exp_alerts: [{{exp_labels: {{severity: warning, root: /a}}}}]}}
      - {{eval_time: 5m, alertname: ArawnDiskPressureCritical, exp_alerts: []}}
      - eval_time: 15m
        alertname: ArawnDiskPressureCritical
        exp_alerts: [{{exp_labels: {{severity: critical, root: /a, scope: total}}}}]
"""


@needs_promtool
def test_the_rules_fire_when_figures_are_high_old_or_absent(tmp_path: Path) -> None:
    rules = yaml_without_annotations(RULES.read_text())
    (tmp_path / "rules.yml").write_text(rules)
    (tmp_path / "test.yml").write_text(RULES_TEST.format(rules=tmp_path / "rules.yml"))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def yaml_without_annotations(text: str) -> str:
    """Return rules without what promtool would compare word by word."""
    return re.sub(r"(?m)^        annotations:\n          summary: .*\n", "", text)


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
