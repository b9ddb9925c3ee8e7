"""Where runs are started and followed: `Workflow`, `Runtime`, `WorkflowHandler`, the test runner.

Read `workflow.py` first.
"""
