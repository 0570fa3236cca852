"""Arawn's own files: directory layout, database, messages.

Code above this package does not parse them.
"""
