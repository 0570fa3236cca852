"""How fast the jobs are, beside other tools and over a year; scripts to run by hand, and no tests."""
