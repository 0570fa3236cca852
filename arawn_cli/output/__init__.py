"""Everything a user or a monitoring system reads: JSON lines, tables, reports, Nagios and Prometheus formats.

Formats only; figures come from the jobs.
"""
