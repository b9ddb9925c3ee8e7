"""Workflows and runs as pictures: a neutral representation, layout, HTML and Mermaid.

Read `draw.py` first.
"""
