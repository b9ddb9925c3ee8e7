"""Telling the steps of a process at once that their run has ended."""

from __future__ import annotations
