"""Deliver events and notifications: the outbox, retries, and the clients of relays and of Apprise.

Which events exist is decided by the jobs.
"""
