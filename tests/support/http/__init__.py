"""Workflows and servers for the tests of the HTTP protocol."""
