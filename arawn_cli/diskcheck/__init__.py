"""The `disk-check` job: measure usage, compare it with limits, keep levels and history.

Formatting and sending belong to `output` and `delivery`.
"""
