"""Install the peers (the extra `bench`) one by one: a failed installation does not affect the others.

python -m benchmarks.install_peers
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires

EXTRA = 'extra == "bench"'


def main() -> None:
    """Install all peers."""
    for requirement in requires("umbel") or ():
        package, _, marker = requirement.partition(";")
        if EXTRA in marker:
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                package.strip(),
            ]
            if subprocess.run(command, check=False).returncode:
                print(f"{package.strip()} is not installed; the others are measured without it", file=sys.stderr)


if __name__ == "__main__":
    main()
