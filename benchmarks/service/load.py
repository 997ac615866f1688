"""Many clients at once, as cheap as they can be, for they share the processor with what they measure."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """Bodies in the order of the requests, each request's seconds, and the seconds of all together."""

    bodies: list[bytes]
    seconds: list[float]
    total: float


def post_all(host: str, port: int, path: str, bodies: Sequence[bytes], clients: int) -> Measured:
    """Send all bodies over so many connections, each waiting for its answer before it sends the next.

    Raises RuntimeError for an answer other than 200.
    """
    return asyncio.run(_post_all(host, port, path, bodies, clients))


async def _post_all(host: str, port: int, path: str, bodies: Sequence[bytes], clients: int) -> Measured:
    head = f"POST {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\nContent-Length: "
    requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    answers: list[bytes] = [b""] * len(bodies)
    seconds = [0.0] * len(bodies)
    numbers = iter(range(len(bodies)))

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, port, limit=2**24)
        for number in numbers:
            started = time.perf_counter()
            writer.write(requests[number])
            answers[number] = await _answer(reader)
            seconds[number] = time.perf_counter() - started
        writer.close()

    started = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(clients)))
    return Measured(answers, seconds, time.perf_counter() - started)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    header = await reader.readuntil(b"\r\n\r\n")
    lines = header.lower().split(b"\r\n")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    body = await reader.readexactly(length)
    if not lines[0].startswith(b"http/1.1 200"):
        raise RuntimeError(f"{header.decode()}{body[:500]!r}")
    return body
