"""Speed of the jobs, beside other tools and over a year: scripts to run by hand, not tests."""
