"""What to do about a job, one policy a file: pure functions of what is observed, joined by `decide`."""
