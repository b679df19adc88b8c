"""Memory, time and cost of a job, before anything of it runs: pure functions of the manifest. Imports no torch."""
