"""Timers for both jobs: systemd units and crontab lines from the configuration."""
