"""The chaos suite: its workflows, its deployments, what was observed, and the invariants that judge it."""
