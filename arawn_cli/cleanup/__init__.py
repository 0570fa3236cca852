"""The `scratch-cleanup` job: list sessions, collect evidence, decide, remove, keep the trash.

Generic file operations belong to `fs`, Arawn's file formats to `arawn`.
"""
