"""Arawn's own files: directory layout, database, messages.

Code above this package knows sessions and workstreams, not files.
"""
