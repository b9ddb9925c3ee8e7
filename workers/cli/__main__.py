"""The entry point: `umbel`, and `python -m umbel.workers.cli`, which does the same."""

import importlib

from .interrupts import next_interrupt_ends


def main() -> None:
    """Run the command of `sys.argv`. Exit codes: 0 success, 1 an error that was printed, 2 a usage error, 130 Ctrl-C.

    Before a command is imported and after it has ended, there is nothing that must end cleanly, so Ctrl-C ends the
    process at once: an exception during Python's imports or exit would be shown as a traceback.
    """
    next_interrupt_ends()
    try:
        importlib.import_module(".main", __package__).cli(prog_name="umbel")
    finally:
        next_interrupt_ends()


if __name__ == "__main__":
    main()
