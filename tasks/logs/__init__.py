"""Log lines of step code: buffered while steps run, stored with the run.

Not here: umbel's own log, and reading the stored lines (`orchestration/inspection/content/step_logs.py`). Read
`gathered.py` first.
"""
