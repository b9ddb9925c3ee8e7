"""Programs for LlamaIndex that are executed by LlamaIndex itself and by umbel."""
