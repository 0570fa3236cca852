from __future__ import annotations

import importlib.util
import os
import random
import resource
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arawn_cli.fs import measure
from arawn_cli.fs.measure import Subtree
from tests.conftest import WITHOUT_FILE_POWERS, make_deep, needs, needs_namespaces, needs_setpriv, needs_strace
from tests.support.exercise_native import check_equal, linked_names, measure_both, random_tree

SOURCES = sorted(Path(measure.__file__).parent.glob("*.c"))
HEADER = Path(sysconfig.get_path("include"), "Python.h")

needs_native = needs(measure.native is not None, "the native module")
needs_compiler = needs(bool(SOURCES) and shutil.which("gcc") is not None and HEADER.exists(), "the C sources, gcc and Python's headers")

COMPARE = (
    "import os, sys; from arawn_cli.fs.measure import Subtree; from tests.support.exercise_native import measure_both;"
    "one, two = measure_both(os.open(sys.argv[1], os.O_RDONLY), [Subtree(('top',))], 8);"
    "print(one == two, one[0].complete, *(failure.path for failure in one[0].failures), *one[0].other_filesystems)"
)


def library(name: str) -> str:
    return subprocess.run(["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(
    ("sanitizers", "libraries"), [("address,undefined", ["libasan.so", "libubsan.so"]), ("thread", ["libtsan.so"])], ids=["memory", "races"]
)
def test_sanitizers_find_nothing_and_the_native_walk_equals_python(tmp_path: Path, sanitizers: str, libraries: list[str]) -> None:
    module = tmp_path / "_measure.so"
    flags = ["-Wall", "-Wextra", "-Werror", "-g", "-O1", "-fPIC", "-shared", "-pthread", f"-I{HEADER.parent}"]
    checks = [f"-fsanitize={sanitizers}", "-fno-sanitize-recover=all"]
    subprocess.run(["gcc", *flags, *checks, "-o", str(module), *map(str, SOURCES)], check=True)
    (tmp_path / "trees").mkdir()
    environment = {
        **{key: value for key, value in os.environ.items() if not key.startswith("COV")},
        "LD_PRELOAD": " ".join(library(name) for name in libraries),
        "PYTHONMALLOC": "malloc",
        # Python 3.12 and later leak strings themselves.
        "ASAN_OPTIONS": f"detect_leaks={int(sys.version_info < (3, 12))}",
        "TSAN_OPTIONS": "exitcode=66",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.exercise_native", str(module), str(tmp_path / "trees")],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_native
@needs(shutil.which("nm") is not None, "nm")
def test_the_native_module_exports_its_init_function_alone() -> None:
    spec = importlib.util.find_spec("arawn_cli.fs._measure")
    assert spec is not None
    assert spec.origin is not None
    shown = subprocess.run(["nm", "-D", "--defined-only", "-j", spec.origin], capture_output=True, text=True, check=True).stdout
    assert shown == "PyInit__measure\n"


@needs_native
@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_both_walks_are_equal_on_random_trees(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    top = tmp_path_factory.mktemp("trees")
    random_tree(top / "tree", random.Random(seed), 60)  # noqa: S311 - a tree, no secret
    check_equal(top / "tree")


@needs_native
def test_both_walks_are_equal_ten_thousand_levels_deep(tmp_path: Path) -> None:
    make_deep(tmp_path / "deep", 10_000)
    start = os.open(tmp_path, os.O_RDONLY)
    in_c, python = measure_both(start, [Subtree(("deep",))], 8)
    os.close(start)
    assert in_c == python
    assert (in_c[0].directories, in_c[0].files) == (10_001, 1)
    subprocess.run(["rm", "-rf", str(tmp_path / "deep")], check=True)


@needs_native
@needs_setpriv
def test_both_walks_report_unreadable_directories_and_files(tmp_path: Path) -> None:
    for name in ("top/closed/inner", "top/open/closed", "top/listed"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "top" / "listed" / "file").touch()
    for name, mode in (("top/closed", 0o700), ("top/open/closed", 0o711), ("top/listed", 0o744)):
        os.chown(tmp_path / name, 65534, 65534)
        (tmp_path / name).chmod(mode)
    done = subprocess.run([*WITHOUT_FILE_POWERS, sys.executable, "-c", COMPARE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "True False top/closed top/listed top/open/closed\n", done.stderr


@needs_native
@needs_namespaces
def test_both_walks_stop_where_another_filesystem_begins(tmp_path: Path) -> None:
    (tmp_path / "top" / "inner" / "mount").mkdir(parents=True)
    mounted = f"mount -t tmpfs none '{tmp_path}/top/inner/mount' && touch '{tmp_path}/top/inner/mount/file' && exec \"$@\""
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", sys.executable, "-c", COMPARE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "True True top/inner/mount\n", done.stderr


def test_a_file_with_many_names_costs_no_more_than_one_with_two(tmp_path: Path) -> None:
    if measure.native is None:
        pytest.skip("needs the native module")
    linked_names(tmp_path / "top", 1200)
    start = os.open(tmp_path, os.O_RDONLY)
    try:
        result = measure.native.measure(start, ((b"top", False),), 1, lambda _finished: None, (0, True, 2**32 - 1))
    finally:
        os.close(start)
    assert result is not None
    ((*_, links, findings),) = result
    assert sorted((size, found, names) for _, _, size, _, found, names in links) == [(0, 400, 400), (1, 400, 400), (2, 400, 400)]
    assert findings == []


@needs_native
@needs_strace
def test_both_walks_are_incomplete_if_the_parent_directory_is_gone(tmp_path: Path) -> None:
    """A directory that was moved out of a bind mount has no parent."""
    make_deep(tmp_path / "top", 60)
    fault = ["strace", "-f", "-o", os.devnull, "-P", "..", "-e", "trace=openat", "-e", "inject=openat:error=ENOENT"]
    done = subprocess.run([*fault, sys.executable, "-c", COMPARE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == f"True False top/{'d/' * 29}..\n", done.stderr


@needs_native
@needs_strace
def test_python_measures_if_no_thread_can_be_started(tmp_path: Path) -> None:
    """As with TasksMax= of systemd, RLIMIT_NPROC, or pids.max of a container."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "file").write_bytes(b"12345")
    code = (
        "import os, sys; from arawn_cli.fs.measure import Subtree, measure, measure_all, native\n"
        "start, steps = os.open(sys.argv[1], os.O_RDONLY), []\n"
        "print(native.measure(start, ((b'top', False),), 4, steps.append, (0, True, 2**32 - 1)), steps)\n"
        "(usage,) = measure_all(start, [Subtree(('top',))], 4, steps.append)\n"
        "print(usage == measure(start, 'top', 'top'), usage.apparent_bytes, steps)\n"
    )
    fault = ["strace", "-f", "-o", os.devnull, "-e", "inject=clone,clone3:error=EAGAIN"]
    done = subprocess.run([*fault, sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "None []\nTrue 5 [1]\n", done.stderr


@needs_native
@pytest.mark.parametrize("descriptors", [12, 16, 40])
def test_the_result_is_complete_with_few_descriptors(tmp_path: Path, descriptors: int) -> None:
    random_tree(tmp_path / "top", random.Random(descriptors), 400)  # noqa: S311 - a tree, no secret
    make_deep(tmp_path / "top" / "deep", 100)
    done = subprocess.run(
        [sys.executable, "-c", COMPARE, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
    )
    assert done.stdout == "True True\n", done.stderr


@needs_native
def test_a_signal_stops_a_walk(tmp_path: Path) -> None:
    """`advance` is a method of list, so no Python code runs that would handle the signal."""
    (tmp_path / "tree").mkdir()
    code = (
        "import os, signal, sys; from arawn_cli.fs.measure import native\n"
        "signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(InterruptedError()))\n"
        "start, subtrees, finished = os.open(sys.argv[1], os.O_RDONLY), ((b'tree', False),) * 1_000_000, []\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "try: native.measure(start, subtrees, 2, finished.append, (0, True, 2**32 - 1))\n"
        "except InterruptedError: print(sum(finished) < len(subtrees))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "True\n", done.stderr


@needs_native
def test_the_threads_of_a_walk_block_all_signals(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    code = (
        "import os, sys, pathlib; from arawn_cli.fs.measure import native\n"
        "masks = set()\n"
        "def check(finished):\n"
        "    for task in pathlib.Path('/proc/self/task').iterdir():\n"
        "        if int(task.name) != os.getpid():\n"
        "            masks.update(line for line in (task / 'status').read_text().splitlines() if line.startswith('SigBlk'))\n"
        "    if masks: raise InterruptedError\n"
        "try: native.measure(os.open(sys.argv[1], os.O_RDONLY), ((b'tree', False),) * 1_000_000, 2, check, (0, True, 2**32 - 1))\n"
        "except InterruptedError: print(*{int(mask.split()[1], 16) >> 14 & 1 for mask in masks}, signal.pthread_sigmask(0, ()))\n"
    )
    done = subprocess.run([sys.executable, "-c", f"import signal\n{code}", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stdout == "1 set()\n", done.stderr


def test_a_name_with_a_slash_is_rejected(tmp_path: Path) -> None:
    if measure.native is None:
        pytest.skip("needs the native module")
    start = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(ValueError, match="slash"):
            measure.native.measure(start, ((b"../../etc", False),), 1, lambda _finished: None, (0, True, 2**32 - 1))
    finally:
        os.close(start)


@needs_native
@needs_namespaces
def test_a_sum_of_more_than_64_bits_saturates(tmp_path: Path) -> None:
    code = (
        "import os, sys; from arawn_cli.fs.measure import Subtree, measure_all;"
        "(usage,) = measure_all(os.open(sys.argv[1], os.O_RDONLY), [Subtree(('top',))], 1);"
        "print(usage.apparent_bytes, usage.largest_file_bytes)"
    )
    files = f"mkdir top && truncate -s {2**63 - 1} top/a top/b && echo 12345 >top/c"
    filled = f"mount -t tmpfs none '{tmp_path}' && cd '{tmp_path}' && {files} && exec \"$@\""
    command = ["unshare", "-m", "sh", "-c", filled, "sh", sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{2**64 - 1} {2**63 - 1}\n", done.stderr


def test_a_module_that_was_built_for_another_version_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    old = ModuleType("arawn_cli.fs._measure")
    monkeypatch.setitem(sys.modules, old.__name__, old)
    monkeypatch.setattr("arawn_cli.fs._measure", old, raising=False)
    assert measure.load() is None
