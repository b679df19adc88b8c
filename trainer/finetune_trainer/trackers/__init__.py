"""Sends a run's metrics to trackers, each in a process of its own, so that none can stop or slow training."""
