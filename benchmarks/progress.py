"""A progress event from the step that writes it to its reader."""

from .run import main

if __name__ == "__main__":
    main(group="progress")
