"""The chaos suite: its workflows, its deployments, what was observed, and the invariants it is checked against."""
