"""Has `make coverage` see what runs in other machines; Python imports this at its start wherever it
is on the path."""

import os

if "COVERAGE_PROCESS_CONFIG" in os.environ or "COVERAGE_PROCESS_START" in os.environ:
    import coverage

    coverage.process_startup()
