"""Retries: pauses, deadline, signals, and attempts that hang."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Delivered, Failed, OutgoingEvent, SendResult
from arawn_cli.fs import mounts
from tests.support.simulated_relay import Relay, deliver, delivery, ids, pressure, queued, relay

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


def test_pauses_double_and_end_before_the_deadline(tmp_path: Path, relay: Relay) -> None:
    relay.answer = lambda _events: Failed("connection refused")
    deliver(tmp_path, relay, 1)
    gaps = [round(later - earlier, 6) for earlier, later in zip(relay.tried, relay.tried[1:], strict=False)]
    assert gaps == [0.25, 0.5, 1, 2, 4, 8, 8]
    assert relay.clock.now < 30


@pytest.mark.parametrize(("chance", "pause"), [(0.0, 0.25), (0.5, 0.1875), (0.999, 0.125)])
def test_chance_shortens_a_pause_by_half_at_most(relay: Relay, chance: float, pause: float) -> None:
    answers: list[SendResult] = [Failed("once"), Delivered()]
    relay.answer = lambda _events: answers.pop(0)
    relay.retrying(chance).send([])
    assert relay.tried[1] == pytest.approx(pause, abs=0.001)


def test_retry_after_is_obeyed(relay: Relay) -> None:
    answers: list[SendResult] = [Failed("busy", retry_after=7), Delivered()]
    relay.answer = lambda _events: answers.pop(0)
    assert relay.retrying().send([]) == Delivered()
    assert relay.tried == [0, pytest.approx(7)]


def test_a_retry_after_past_the_deadline_ends_the_run_at_once(relay: Relay) -> None:
    relay.answer = lambda _events: Failed("busy", retry_after=3600)
    relay.retrying().send([])
    assert relay.tried == [0]
    assert relay.clock.now == 0


def test_a_permanent_failure_is_not_retried(relay: Relay) -> None:
    relay.answer = lambda _events: Failed("wrong certificate", retryable=False)
    relay.retrying().send([])
    assert relay.tried == [0]


def test_a_signal_ends_the_retries(relay: Relay) -> None:
    def answer(_events: Sequence[OutgoingEvent]) -> SendResult:
        relay.clock.stopping = True
        return Failed("connection refused")

    relay.answer = answer
    relay.retrying().send([])
    assert relay.tried == [0]


def test_after_a_pause_that_takes_too_long_the_last_failure_is_the_reason(relay: Relay) -> None:
    relay.answer = lambda _events: Failed("connection refused")
    late = replace(relay.clock.timing(), sleep=lambda _seconds: relay.clock.sleep(60))
    assert replace(relay.retrying(), timing=late).send([]) == Failed("connection refused")
    assert relay.tried == [0]


@pytest.mark.parametrize("retryable", [True, False])
def test_an_attempt_that_the_deadline_cuts_short_does_not_hide_why_the_one_before_failed(relay: Relay, retryable: bool) -> None:
    def answer(_events: Sequence[OutgoingEvent]) -> SendResult:
        if len(relay.tried) == 1:
            return Failed("the relay answers 503")
        relay.clock.sleep(60)
        return Failed("no answer within 0.01 s", retryable=retryable)

    relay.answer = answer
    assert relay.retrying().send([]) == Failed("the relay answers 503")
    assert len(relay.tried) == 2


def test_an_attempt_that_never_ends_is_abandoned_at_the_deadline(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    release = threading.Event()

    def hang(_events: Sequence[OutgoingEvent]) -> SendResult:
        release.wait(10)
        return Failed("released")

    relay.answer = hang
    run = delivery(tmp_path, relay, deadline=0.2)
    run.store(pressure(1))
    assert run.finish().lost == 0
    assert "no result within 0.2 s; the event may have arrived" in caplog.text
    release.set()


def test_an_attempt_without_a_thread_has_failed(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse_thread(*_arguments: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(mounts, "start_new_thread", refuse_thread)
    assert relay.retrying().send([]) == Failed("can't start new thread")


def test_an_attempt_is_abandoned_soon_after_a_signal(relay: Relay) -> None:
    release = threading.Event()

    def hang(_events: Sequence[OutgoingEvent]) -> SendResult:
        relay.clock.stopping = True
        release.wait(30)
        return Delivered()

    relay.answer = hang
    began = time.monotonic()
    result = relay.retrying().send([])
    assert time.monotonic() - began < 4
    assert result == Failed("interrupted; the event may have arrived")
    release.set()


def test_an_unexpected_exception_of_a_client_loses_nothing(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    def fail(_events: Sequence[OutgoingEvent]) -> SendResult:
        raise RecursionError

    relay.answer = fail
    assert deliver(tmp_path, relay, 1).stats.lost == 0
    assert queued(tmp_path) == ids(1)
    assert "the relay's answer cannot be understood: RecursionError" in caplog.text
