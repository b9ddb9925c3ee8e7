"""`umbel.decorators`: what makes a method a step."""

from umbel.tasks.steps.decorators import StepConfig, StepFunction, catch_error, step

__all__ = ["StepConfig", "StepFunction", "catch_error", "step"]
