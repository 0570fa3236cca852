"""Events that a relay refuses: they block none behind them, are asked about again, and cost a run little."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import pytest

from arawn_cli.delivery.message import Answer, Delivered, Parcel, Refused, Undelivered
from arawn_cli.delivery.sending import REFUSED_TRIES
from tests.support.simulated_relay import Relay, backlog, deliver, ids, of_a_newer_version, refuse, relay, waiting

__all__ = ["relay"]

pytestmark = pytest.mark.usefixtures("told")


@pytest.mark.parametrize("batch", [1, 10])
def test_a_refused_event_blocks_none_behind_it_and_is_asked_about_again(
    tmp_path: Path, relay: Relay, batch: int, caplog: pytest.LogCaptureFixture
) -> None:
    relay.batch = batch
    relay.answer = refuse(2)
    run = deliver(tmp_path, relay, 1, 2, 3)
    assert (run.tally.refused, run.tally.lost) == (1, 0)
    assert relay.arrived == ids(1, 3)
    assert waiting(tmp_path) == ids(2)
    assert "refuses event event-2 (disk_pressure scope-2 warning): 413 too large" in caplog.text
    assert "1 event waits in the outbox, 1 of them refused by the relay: 413 too large; the first is event-2" in caplog.text
    relay.answer = refuse()
    deliver(tmp_path, relay, 4)
    assert relay.arrived == ids(1, 3, 2, 4)


def test_the_same_refusal_of_many_events_is_told_once(tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture) -> None:
    relay.answer = refuse(*range(9), answer="401 bad token")
    deliver(tmp_path, relay, *range(9))
    assert caplog.text.count("the relay refuses event") == 1
    assert "9 events wait in the outbox, 9 of them refused by the relay: 401 bad token" in caplog.text


def test_old_refusals_cost_a_run_no_more_than_some_requests(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 20
    relay.answer = refuse(*range(count))
    deliver(tmp_path, relay, *range(count), limit=count + 1)
    relay.tried.clear()
    deliver(tmp_path, relay, count, limit=count + 1)
    assert len(relay.tried) == REFUSED_TRIES + 1
    assert relay.arrived == ids(count)


def test_refusals_that_cannot_be_noted_are_told_once_and_the_events_wait(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    backlog(tmp_path, relay, 1, 2, 3)
    relay.answer = refuse(1, 2)
    caplog.set_level(logging.INFO)
    with of_a_newer_version(tmp_path):
        tally = deliver(tmp_path, relay).tally
    assert "1 event was delivered, and 2 refused by the relay" in caplog.text
    assert (tally.refused, tally.delivered, tally.lost) == (2, 1, 0)
    assert caplog.text.count("how often events were tried is not noted") == 1
    assert waiting(tmp_path) == ids(1, 2, 3)


def test_a_relay_that_dies_while_a_refused_batch_is_tried_singly_keeps_the_rest(
    tmp_path: Path, relay: Relay, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(parcels: Sequence[Parcel]) -> Answer:
        if len(parcels) > 1:
            return Refused("413 too large")
        return Delivered() if parcels[0].event_id == "event-1" else Undelivered("nobody listens", hopeless=True)

    relay.batch, relay.answer = 10, answer
    assert deliver(tmp_path, relay, 1, 2, 3).tally.lost == 0
    assert waiting(tmp_path) == ids(2, 3)
    assert "2 events wait in the outbox: nobody listens; the first is event-2" in caplog.text


def test_after_a_mended_token_everything_arrives_in_order_in_one_run(tmp_path: Path, relay: Relay) -> None:
    count = REFUSED_TRIES + 50
    relay.answer = refuse(*range(count), answer="401 bad token")
    deliver(tmp_path, relay, *range(count), limit=1000)
    relay.answer = refuse()
    deliver(tmp_path, relay, count, limit=1000)
    assert relay.arrived == ids(*range(count + 1))
