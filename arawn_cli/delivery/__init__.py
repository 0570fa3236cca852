"""Deliver events: the outbox, retries, and the HTTP and WebSocket relay clients.

Which events exist is decided by the jobs.
"""
