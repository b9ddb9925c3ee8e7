"""What the code of steps logs: gathered while they run, kept with the run.

Not here: umbel's own log, and reading what was kept (`orchestration/inspection/content/step_logs.py`). Begin with
`gathered.py`.
"""
