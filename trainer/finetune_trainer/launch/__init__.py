"""Starts the ranks of a run under Ray Train or torchrun, and carries progress and stop requests to and fro."""
