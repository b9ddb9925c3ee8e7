"""The modules that users import besides `umbel` itself: `umbel.events`, `umbel.context`, `umbel.retry_policy`, …

One folder each, installed directly below `umbel` (`package-dir` in pyproject.toml): the paths are those of LlamaIndex
Workflows, so that existing code ports by changing the import root. They hold no code, only names. Their imports are
absolute, against the rule of this package, because a relative one would resolve differently here and where it is
installed.
"""
