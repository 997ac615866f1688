"""The soak of benchmarks/service/search.py counts what breaks, and goes on."""

import asyncio
import os

from benchmarks.service.search import soak_load


async def answer(reader, writer):
    """Answer searches; break the connection of every write."""
    head = await reader.readuntil(b"\r\n\r\n")
    if head.startswith(b"POST"):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        # Not a thousand searches a second.
        await asyncio.sleep(0.05)
    writer.close()


async def soaked():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await soak_load(port, os.getpid(), ["a query"], 1, 0.5)


def test_a_broken_write_is_counted():
    found = asyncio.run(soaked())
    assert set(found["statuses"]) == {"200"}
    (kind,) = found["writes"]
    assert kind in ("RemoteDisconnected", "ConnectionResetError", "BrokenPipeError")
    assert found["writes"][kind] == len(found["memory"]) >= 1
