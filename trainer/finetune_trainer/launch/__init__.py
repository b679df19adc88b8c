"""Starts the ranks of a run under Ray Train or torchrun, and carries progress and stop requests between them and the user."""
