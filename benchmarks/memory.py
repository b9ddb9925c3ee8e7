"""What a run takes in Redis, while it runs and afterwards."""

from .run import main

if __name__ == "__main__":
    main(group="memory")
