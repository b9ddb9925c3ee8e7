"""Workflows for real worker processes. `everyday` comes first: the others use its effects and gates."""
