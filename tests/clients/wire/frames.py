"""What one direction of an HTTP/2 connection says, without what every hop says for itself (SETTINGS, WINDOW_UPDATE, PING).

Reads the bytes from standard input and prints, stream by stream in the order of their beginning, every list of headers,
all data, and how it ended.
"""
import hashlib
import sys

from hpack import Decoder
from hyperframe.frame import ContinuationFrame, DataFrame, Frame, HeadersFrame, RstStreamFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

wire = memoryview(sys.stdin.buffer.read().removeprefix(PREFACE))
decoder = Decoder()
decoder.max_allowed_table_size = 1 << 20
decoder.max_header_list_size = 1 << 20
streams, block = {}, b""
while wire:
    frame, length = Frame.parse_frame_header(wire[:9])
    frame.parse_body(wire[9 : 9 + length])
    wire = wire[9 + length :]
    said = streams.setdefault(frame.stream_id, []) if frame.stream_id else []
    if isinstance(frame, (HeadersFrame, ContinuationFrame)):
        block += frame.data
        if "END_HEADERS" in frame.flags:
            headers = decoder.decode(block)
            # The order of these means nothing, that of the others is kept.
            pseudo = sorted(pair for pair in headers if pair[0].startswith(":"))
            said.append(("headers", pseudo + [pair for pair in headers if pair not in pseudo]))
            block = b""
    elif isinstance(frame, DataFrame):
        if said[-1][0] != "data":
            said.append(("data", b""))
        said[-1] = ("data", said[-1][1] + frame.data)
    elif isinstance(frame, RstStreamFrame):
        said.append(("reset", frame.error_code))
    if "END_STREAM" in frame.flags:
        said.append(("end", None))

for stream in streams.values():
    for kind, what in stream:
        if kind == "data":
            what = len(what), hashlib.sha256(what).hexdigest()
        # An empty frame of data says nothing but that the stream ends.
        if what != (0, hashlib.sha256(b"").hexdigest()):
            print(kind, what)
