"""Programs written for LlamaIndex, unchanged: its import paths, and its agents as workflows of umbel.

Read `install` first: it answers `import workflows`. What such workflows need beyond umbel's own is in `workflow`.
"""
