"""Cleanup in a loop, beside a process that uses, locks and makes sessions all the while."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

from tests.support.in_process import cleaned
from tests.support.tree import SampleTree

ROUNDS = int(os.environ.get("RACE_ROUNDS", "10"))

_USER = """
import fcntl, json, os, random, sys, threading, time
sessions = sys.argv[1]
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
old = time.time_ns() - 30 * 86_400 * 10**9
chance = random.Random(7)
used, lost_locks, locks, made = [], 0, 0, 0

def file_of(session):
    return os.path.join(session, "work", "f")

def make():
    global made
    made += 1
    top = f"{sessions}/s{made}"
    file = file_of(top)
    os.makedirs(os.path.dirname(file))
    open(file, "w").close()
    for path in (file, os.path.dirname(file), top):
        os.utime(path, ns=(old, old))

for _ in range(30):
    make()
os.write(1, b"ready\\n")
while not stop.is_set():
    if len(os.listdir(sessions)) < 120:
        make()
    name = f"{sessions}/{chance.choice(os.listdir(sessions) or ['none'])}"
    try:
        if chance.random() < 0.5:
            with open(file_of(name), "a") as file:
                file.write("used")
                file.flush()
                own = os.fstat(file.fileno()).st_ino
            # It stands in its place after it was used: from now on it must stay.
            if os.stat(file_of(name)).st_ino == own:
                used.append(file_of(name))
        else:
            lock = os.open(name, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.stat(name).st_ino == os.fstat(lock).st_ino:
                    locks += 1
                    time.sleep(0.002)
                    lost_locks += not os.path.exists(name)
            finally:
                os.close(lock)
    except (FileNotFoundError, BlockingIOError):
        pass  # removed, or in the hands of the cleanup
print(json.dumps({"used": used, "locks": locks, "lost_locks": lost_locks, "made": made}))
"""


def test_nothing_that_is_used_or_locked_is_lost_while_cleanup_runs_in_a_loop(tree: SampleTree) -> None:
    user = subprocess.Popen([sys.executable, "-c", _USER, str(tree.sessions)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert user.stdout
    os.read(user.stdout.fileno(), 6)
    removed = 0
    for _ in range(ROUNDS):
        tree.now = time.time_ns()
        summary, _ = cleaned(tree)
        assert not summary.failures
        removed += summary.sessions_cleaned
    said, _ = user.communicate("stop\n")
    told = json.loads(said)
    assert removed > 0
    assert told["used"]
    assert told["locks"]
    assert [path for path in told["used"] if not os.path.exists(path)] == []
    assert told["lost_locks"] == 0
