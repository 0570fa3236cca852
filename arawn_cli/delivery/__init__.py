"""Deliver events, notifications and pings: the outbox, retries, the clients of relays and Apprise.

Which events exist is decided by the jobs.
"""
