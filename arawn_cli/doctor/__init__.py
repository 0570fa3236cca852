"""Checks of configuration, tree and timers, each with a fix.

A check looks and reports. It changes nothing.
"""
