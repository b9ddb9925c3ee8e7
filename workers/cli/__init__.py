"""The command line: targets, fields, output, progress; one file per command in `commands`.

Read `main.py` first.
"""
