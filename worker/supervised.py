"""One of the workers of `run --processes N`: it drains and ends when its supervisor is gone, however that went.

A supervisor that is killed can pass no signal on. Without this its workers would go on, without an owner and with the
ports that the next start needs.
"""

import os
import signal
import threading

from worker.cli import main


def end_with_supervisor() -> None:
    """Wait until the other end of standard input is closed: the supervisor holds it open and never writes."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    threading.Thread(target=end_with_supervisor, name="supervisor-watch", daemon=True).start()
    main()
