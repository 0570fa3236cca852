"""Formats of output: JSON lines, tables, the report, Nagios and Prometheus.

The figures come from the jobs. Commands and exit codes belong to `cli`.
"""
