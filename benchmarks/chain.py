"""Chains of ten steps: latency alone, steps per second at once."""

from .run import main

if __name__ == "__main__":
    main(group="chain")
