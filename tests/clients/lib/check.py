"""Used by the Python cases."""

import os
import time

DEMO_URL = os.environ["DEMO_URL"]


def check(what: str, good: bool, why: object = "") -> None:
    """Prints one result; `why` is shown if it is not good."""
    print(f"ok - {what}" if good else f"not ok - {what}: {why}", flush=True)


def equal(what: str, got: object, wanted: object) -> None:
    check(what, got == wanted, f"got {got!r}, wanted {wanted!r}")


class Arrivals:
    """Notes when things came."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def note(self) -> None:
        self.times.append(time.monotonic())

    @property
    def spread_ms(self) -> float:
        """From the first to the last: about 0 when a paced stream was held back and came at once."""
        return (self.times[-1] - self.times[0]) * 1000 if self.times else 0.0
