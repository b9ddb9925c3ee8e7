"""Programs for LlamaIndex, executed both by LlamaIndex itself and by umbel."""
