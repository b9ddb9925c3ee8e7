"""The command line: targets, fields, output, progress; one file per command in `commands`.

Read `main.py` first.
"""

import os
import signal

if os.getpid() == 1:
    # Process 1 of a container: the kernel drops signals that it does not handle. Until a command has handlers of its
    # own, nothing has begun, and there is nothing to end but the process.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
