"""Timers that run the jobs: systemd units, crontab lines and Cloacina workflows.

The jobs themselves are in `cleanup` and `diskcheck`.
"""
