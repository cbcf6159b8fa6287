"""Between an agent and an API server: `liar.py PORT UPSTREAM` passes on what both say, until SIGUSR1. From then on every connection
is cut and every request gets garbage, until the next SIGUSR1. It prints a line once it listens, and one for each piece of garbage.
"""

import asyncio
import itertools
import os
import signal
import sys


def answer(status, body, length=None, kind="application/json"):
    length = len(body) if length is None else length
    head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    return head.encode() + body


def chunked(body):
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + f"{len(body):x}\r\n".encode() + body + b"\r\n"


GARBAGE = [
    answer("200 OK", b"this is no JSON"),
    # It ends before its end.
    answer("200 OK", b'{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"na', length=1 << 20),
    answer("200 OK", b'{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":7},"items":"many"}'),
    answer("200 OK", b"{" * 100_000),
    answer("200 OK", os.urandom(4096), kind="application/octet-stream"),
    answer("500 Internal Server Error", b"\xff\x00" * 1000),
    answer("410 Gone", b"[]"),
    # What is no HTTP, and an event of a watch that is none, or has no end.
    os.urandom(4096),
    chunked(b'{"type":"DELETED","object":{"kind":"Nothing","metadata":{"uid":5}}}\n'),
    chunked(b"a" * (8 << 20)),
    b"",
]


class Liar:
    def __init__(self, upstream):
        self.upstream = upstream
        self.lies = False
        self.open = set()
        self.garbage = itertools.cycle(GARBAGE)

    def turn(self):
        self.lies = not self.lies
        for writer in list(self.open):
            writer.transport.abort()

    async def serve(self, reader, writer):
        self.open.add(writer)
        try:
            if self.lies:
                await reader.readuntil(b"\r\n\r\n")
                writer.write(next(self.garbage))
                print("lied", flush=True)
                await writer.drain()
            else:
                await self.relay(reader, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self.open.discard(writer)
            writer.close()

    async def relay(self, reader, writer):
        from_upstream, to_upstream = await asyncio.open_connection("127.0.0.1", self.upstream)
        self.open.add(to_upstream)

        async def pass_on(one, other):
            while data := await one.read(1 << 16):
                other.write(data)
                await other.drain()
            other.close()

        try:
            await asyncio.gather(pass_on(reader, to_upstream), pass_on(from_upstream, writer))
        finally:
            self.open.discard(to_upstream)
            to_upstream.close()


async def main():
    port, upstream = map(int, sys.argv[1:])
    liar = Liar(upstream)
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, liar.turn)
    server = await asyncio.start_server(liar.serve, "127.0.0.1", port)
    print("listens", flush=True)
    await server.serve_forever()


asyncio.run(main())
