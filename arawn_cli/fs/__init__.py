"""File system primitives: openat, measuring, deleting, in-use check, mounts, atomic files.

Nothing here knows Arawn.
"""
