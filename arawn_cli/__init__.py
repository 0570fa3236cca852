"""Scratch cleanup and disk-pressure checks for an Arawn server."""

__version__ = "0.1.0"
