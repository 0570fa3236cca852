"""The schema of the state file, as the steps that led to it."""

from __future__ import annotations

TABLES = frozenset({"outbox", "runs", "alerts", "transitions", "scopes", "samples", "sizes", "marks"})
"""The tables of the newest version."""

# One script a schema version, oldest first; `PRAGMA user_version` counts those that were applied.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        """
        CREATE TABLE outbox (
            sequence INTEGER PRIMARY KEY AUTOINCREMENT,
            event_id TEXT NOT NULL UNIQUE,
            type TEXT NOT NULL,
            time TEXT NOT NULL,
            source TEXT NOT NULL,
            scope TEXT NOT NULL,
            level TEXT NOT NULL,
            worth INTEGER NOT NULL,
            body BLOB NOT NULL,
            attempts INTEGER NOT NULL DEFAULT 0,
            answer TEXT
        ) STRICT
        """,
        "CREATE INDEX outbox_by_worth ON outbox (worth, sequence)",
        "CREATE INDEX outbox_by_scope ON outbox (scope, sequence) WHERE scope <> ''",
    ),
    ("CREATE TABLE runs (job TEXT, root TEXT, last_run INTEGER NOT NULL, PRIMARY KEY (job, root)) STRICT",),
    (
        """
        CREATE TABLE alerts (
            root TEXT NOT NULL,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            unit TEXT NOT NULL,
            usage INTEGER NOT NULL,
            warning_limit INTEGER NOT NULL,
            critical_limit INTEGER NOT NULL,
            level TEXT NOT NULL,
            warnings INTEGER NOT NULL,
            criticals INTEGER NOT NULL,
            told_at INTEGER,
            PRIMARY KEY (root, scope)
        ) STRICT, WITHOUT ROWID
        """,
        """
        CREATE TABLE transitions (
            number INTEGER PRIMARY KEY,
            time INTEGER NOT NULL,
            root TEXT NOT NULL,
            scope TEXT NOT NULL,
            name TEXT NOT NULL,
            unit TEXT NOT NULL,
            usage INTEGER NOT NULL,
            warning_limit INTEGER NOT NULL,
            level_before TEXT NOT NULL,
            level TEXT NOT NULL
        ) STRICT
        """,
        "CREATE TABLE scopes (id INTEGER PRIMARY KEY, root TEXT NOT NULL, scope TEXT NOT NULL, UNIQUE (root, scope)) STRICT",
        # By hour first: what is read, compared and pruned are always the rows of some hours.
        """
        CREATE TABLE samples (
            hour INTEGER NOT NULL,
            scope INTEGER NOT NULL REFERENCES scopes,
            usage INTEGER NOT NULL,
            PRIMARY KEY (hour, scope)
        ) STRICT, WITHOUT ROWID
        """,
        "ALTER TABLE outbox ADD COLUMN target TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE outbox ADD COLUMN root TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE runs ADD COLUMN last_success INTEGER",
        "ALTER TABLE runs ADD COLUMN removed_sessions INTEGER NOT NULL DEFAULT 0",
        "ALTER TABLE runs ADD COLUMN reclaimed_bytes INTEGER NOT NULL DEFAULT 0",
    ),
    (
        """
        CREATE TABLE sizes (
            root TEXT NOT NULL,
            session TEXT NOT NULL,
            measured_at INTEGER NOT NULL,
            shape TEXT NOT NULL,
            apparent INTEGER NOT NULL,
            allocated INTEGER NOT NULL,
            files INTEGER NOT NULL,
            directories INTEGER NOT NULL,
            newest INTEGER,
            PRIMARY KEY (root, session)
        ) STRICT, WITHOUT ROWID
        """,
        "CREATE TABLE marks (root TEXT PRIMARY KEY, identity TEXT NOT NULL, position INTEGER NOT NULL) STRICT",
    ),
    # What was measured without its largest file is measured anew.
    ("DELETE FROM sizes", "ALTER TABLE sizes ADD COLUMN largest INTEGER NOT NULL DEFAULT 0"),
)
