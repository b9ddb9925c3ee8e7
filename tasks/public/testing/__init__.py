"""`umbel.testing`: running workflows in tests."""

from umbel.tasks.client.testing import WorkflowTestResult, WorkflowTestRunner

__all__ = ["WorkflowTestResult", "WorkflowTestRunner"]
