"""Formats of output: JSON lines, tables, the report, Nagios, Prometheus, and schemas.

The figures come from the packages of the jobs. Commands and exit codes belong to `cli`.
"""
