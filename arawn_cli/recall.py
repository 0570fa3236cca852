"""What the state file tells a check before it begins: alerts, and how fast each scope grows. Read without a trace."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from arawn_cli import alerts, history
from arawn_cli.events import Level
from arawn_cli.forecast import WINDOW_HOURS, Sample, days_until, pace
from arawn_cli.pressure import Remembered, ScopeUsage, next_limit
from arawn_cli.state import State
from arawn_cli.state_file import StateUnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recall:
    """What is remembered of a root: alerts and samples by scope, at the hour of the check."""

    hour: int
    alerts: Mapping[str, Remembered] = field(default_factory=dict)
    samples: Mapping[str, list[Sample]] = field(default_factory=dict)

    def pace(self, scope: str, usage: int) -> float | None:
        """Growth per day of a scope that uses so much now, or None when nobody knows."""
        earlier = [sample for sample in self.samples.get(scope, ()) if sample[0] < self.hour]
        return pace([*earlier, (self.hour, usage)], self.hour) if earlier else None

    def level(self, scope: str) -> Level:
        """The level that the last check left a scope at."""
        before = self.alerts.get(scope)
        return before.alert.level if before else Level.OK

    def forecast(self, usage: ScopeUsage) -> int | None:
        """Days until a scope comes to the limit that is next for it; None when it has none, or nobody knows."""
        limit = next_limit(usage, self.level(usage.scope))
        if limit is None or not usage.complete:
            return None
        return days_until(limit, usage.usage, self.pace(usage.scope, usage.usage))


def recall(state: State, root: Path, now: int, *, hours: int = WINDOW_HOURS) -> Recall:
    """What is remembered, with the samples of so many hours; nothing, after a warning, where the state cannot be read."""
    hour = history.hour_of(now)
    try:
        return Recall(hour, alerts.read(state, root), history.read(state, root, hour - hours))
    except StateUnavailableError as error:
        log.warning("%s: earlier levels and usage are not known", error)
        return Recall(hour)
