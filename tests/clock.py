"""Time in tests of what is said about slow work."""

import time
from dataclasses import dataclass


@dataclass
class Clock:
    """What `time.monotonic` shows under the fixture `clock`."""

    now: float = 0.0


def wait_for_messages(caplog, count=1):
    """Waits until timers have logged this many messages, ten seconds at most."""
    ends = time.monotonic() + 10
    while len(caplog.messages) < count and time.monotonic() < ends:
        time.sleep(0.01)
