"""`umbel.llama_index`: runs programs and agents written for LlamaIndex, unchanged."""

from umbel.tasks.llama_index.install import install, is_installed

__all__ = ["install", "is_installed"]
