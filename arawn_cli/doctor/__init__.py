"""Checks of configuration, tree, environment and timers, each with a fix.

A check reads and reports. It changes nothing. Running and printing the checks belongs to `cli`.
"""
