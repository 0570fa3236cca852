"""Find, read and validate the configuration.

Nothing here opens Arawn's tree.
"""
