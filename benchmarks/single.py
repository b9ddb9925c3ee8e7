"""One step, from start to result."""

from .run import main

if __name__ == "__main__":
    main(group="single")
