"""File system operations: openat, measuring, deleting, in-use check, mounts, accounts, files.

Nothing here knows Arawn.
"""
