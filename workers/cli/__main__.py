"""`python -m umbel.workers.cli` does what `umbel` does."""

from .main import main

if __name__ == "__main__":
    main()
