"""The command line: targets, fields, output and progress are here; the commands are in packages by subject.

Read `main.py` first.
"""

import os
import signal

if os.getpid() == 1:
    # Process 1 of a container: the kernel drops signals that it does not handle. Until a command installs handlers of
    # its own, nothing has begun, so ending the process is enough.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(128 + signal.SIGTERM))
