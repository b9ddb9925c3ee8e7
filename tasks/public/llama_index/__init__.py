"""`umbel.llama_index`: programs and agents written for LlamaIndex, without a changed line."""

from umbel.tasks.llama_index.install import install, is_installed

__all__ = ["install", "is_installed"]
