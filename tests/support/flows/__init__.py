"""Workflows for real worker processes. Read `everyday` first: the others use its effects and gates."""
