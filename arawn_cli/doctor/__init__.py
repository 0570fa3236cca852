"""What would keep the timers from doing their job, and how to mend it."""
