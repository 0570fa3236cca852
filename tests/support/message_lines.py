"""Lines of a `messages.jsonl`, readable or damaged in every way, and what they prove by a second,
simple implementation."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import strategies as st

from arawn_cli import timestamps
from arawn_cli.timestamps import DAY, SECOND

NOW = 1_700_000_000 * SECOND
CUTOFF = NOW - 7 * DAY
SESSIONS = ("a", "b", "c")


@dataclass(frozen=True)
class Line:
    """A line without its newline: a message with a time and perhaps a session, or damage that names
    sessions or none."""

    text: bytes
    at: int | None = None
    names: tuple[str, ...] = ()


def message(session: str | None, at: int, content: object = "x") -> bytes:
    fields = {"id": "m", "workstream_id": "scratch", "session_id": session, "role": "user", "content": content}
    return json.dumps({**fields, "timestamp": timestamps.render(at)}).encode()


def _damaged(first: str, second: str, at: int, noise: bytes) -> list[Line]:
    whole, other = message(first, at), message(second, at)
    time = timestamps.render(at)
    nameless = [
        noise,
        b"\0" * 7,
        whole.decode().encode("utf-16-le").replace(b"\n", b""),
        gzip.compress(whole, mtime=0).replace(b"\n", b""),
        b"[1]",
        b"{}",
        whole[: whole.index(b'"session_id"') + 14],
        whole.replace(b"session_id", b"sess\0on_id"),
        whole.replace(b"session_id", b"sessixn_id"),
        whole.replace(f'"{first}"'.encode(), b"5"),
        whole[: whole.index(b'"role"')] + b"\0" * 60 + other[-30:],
        whole.replace(b"session_id", b"session\\u005fid") + b"}",
        whole[: whole.index(b'"session_id"') - 9] + other,
        whole[:1] + other,
        whole[whole.index(b'"timestamp"') :] + other,
        other[:-5] + whole[: whole.index(b'"workstream_id"')] + other,
    ]
    named = [
        whole[:-20],
        whole[: whole.index(b'"role"')],
        whole + b"}",
        whole.replace(time.encode(), b"yesterday"),
        whole.replace(b'"x"', b'"\x07"'),
        whole.replace(b'"x"', b'"\xff\xfe"'),
        whole.replace(b'"x"', b"NaN"),
        whole.replace(b'"timestamp"', b'"timestamp": 1, "timestamp"'),
        whole.replace(b'"x"', b"[" * 100_000),
    ]
    both = [
        whole[: whole.index(b'"role"')] + other,
        whole.replace(b'"role"', f'"session_id": "{second}", "role"'.encode()),
        whole.replace(b'"role"', f'"session\\u005fid": "{second}", "role"'.encode()),
        whole.replace(b'"role"', f'"session_id": "\\u{ord(second[0]):04x}{second[1:]}", "role"'.encode()),
    ]
    return [
        *(Line(text) for text in nameless),
        *(Line(text, names=(first,)) for text in named),
        *(Line(text, names=(first, second)) for text in both),
    ]


_times = st.integers(CUTOFF - 20 * DAY, NOW).map(lambda at: at // 1000 * 1000)  # as precise as `render`
_ids = st.sampled_from((*SESSIONS, "other"))
_noise = st.binary(min_size=1, max_size=60).map(lambda noise: noise.translate(None, b'\n"') + b"~")


@st.composite
def lines(draw: st.DrawFn) -> list[Line]:
    """Any lines in any order."""
    found: list[Line] = []
    for _ in range(draw(st.integers(0, 12))):
        at = draw(_times)
        if draw(st.booleans()):
            session = draw(st.none() | _ids)
            found.append(Line(message(session, at), at, (session,) if session else ()))
        else:
            found.append(draw(st.sampled_from(_damaged(draw(_ids), draw(_ids), at, draw(_noise)))))
    return found


def newest(found: Sequence[Line], session: str) -> int | None:
    """The newest message of a session."""
    return max((line.at for line in found if line.at is not None and session in line.names), default=None)


def damage(found: Sequence[Line], session: str, mtime: int) -> int | None:
    """The newest time of the damage that counts for a session."""
    times: list[int] = []
    for number, line in enumerate(found):
        if line.at is None and (session in line.names or not line.names):
            before = [other.at for other in found[:number] if other.at is not None]
            after = [other.at for other in found[number:] if other.at is not None]
            times.append(max([*before, after[0] if after else mtime]))
    return max(times, default=None)
