"""Typer commands: one module per command group, and the runner that runs a job.

Nothing here decides, measures or removes; commands call the packages below.
"""
