"""Fan-outs with join, from 100 to 5,000 wide."""

from .run import main

if __name__ == "__main__":
    main(group="fan")
