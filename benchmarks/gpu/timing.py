"""How long something takes on a device, as a median with quantiles."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds of `repeats` runs."""

    median: float
    p10: float
    p90: float
    p95: float
    repeats: int


def measure(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Run for about `seconds`, 5 to 200 times, after a warm-up of two, and return the quantiles.

    On a GPU every run is timed with device events, and the host waits in between, as it does for a search.
    """
    first = [_once(run, device) for _ in range(3)][-1]
    repeats = max(5, min(200, int(seconds * 1e3 / max(first, 1e-3))))
    times = sorted(_once(run, device) for _ in range(repeats))
    quantiles = statistics.quantiles(times, n=20, method="inclusive")
    return Timing(statistics.median(times), quantiles[1], quantiles[17], quantiles[18], repeats)


def _once(run: Callable[[], object], device: str) -> float:
    if device != "cuda":
        started = time.perf_counter()
        run()
        return (time.perf_counter() - started) * 1e3
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    begin.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end)


def wall(run: Callable[[], object], device: str, seconds: float) -> Timing:
    """Return what `measure` does by the host's clock: for work that the host has a part in."""

    def waited() -> None:
        run()
        if device == "cuda":
            torch.cuda.synchronize()

    return measure(waited, "cpu", seconds)
