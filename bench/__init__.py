"""Every speed claim, runnable: baseline and candidate in one run, several repeats, the ratios printed."""
