"""A server in the manner of httpbin, on Python's own http.server: `bin_server.py ADDRESS PORT`.

/status/N, /fail/N/COUNT/KEY (status N for the first COUNT requests of the same KEY, then 200), /reset/COUNT/KEY,
/delay/SECONDS, /stream/LINES (chunks), /drip/BYTES, /post (says back what came), /events (server-sent events),
/count/KEY (how many requests of this KEY came).
"""
import collections
import hashlib
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

counts = collections.Counter()
lock = threading.Lock()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def body(self):
        if "chunked" in self.headers.get("transfer-encoding", ""):
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("content-length", 0)))

    def say(self, status, text=""):
        data = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def chunk(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def stream(self, kind):
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()

    def handle_any(self):
        body = self.body()
        _, what, *words = self.path.split("/")
        if what in ("fail", "reset", "ok"):
            with lock:
                counts[words[-1]] += 1
                count = counts[words[-1]]
        if what == "status":
            self.say(int(words[0]))
        elif what == "fail":
            self.say(int(words[0]) if count <= int(words[1]) else 200, f"execution {count}\n")
        elif what == "reset" and count <= int(words[0]):
            linger = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.close_connection = True
        elif what in ("reset", "ok"):
            self.say(200, f"execution {count}\n")
        elif what == "count":
            self.say(200, str(counts[words[-1]]))
        elif what == "delay":
            time.sleep(float(words[0]))
            self.say(200, "at last\n")
        elif what == "stream":
            self.stream("text/plain")
            for number in range(int(words[0])):
                self.chunk(f"line {number}\n")
            self.chunk("")
        elif what == "drip":
            length = int(words[0])
            self.send_response(200)
            self.send_header("content-length", str(length))
            self.end_headers()
            for _ in range(length):
                self.wfile.write(b"*")
                time.sleep(0.002)
        elif what == "events":
            # One at a time: the next comes when the client has told that it has the one before.
            self.stream("text/event-stream")
            for number in range(5):
                self.chunk(f"data: {number}\n\n")
                heard.acquire(timeout=10)
            self.chunk("")
        elif what == "heard":
            heard.release()
            self.say(200)
        elif what == "post":
            self.say(200, f"{self.command} {len(body)} {hashlib.sha256(body).hexdigest()}\n")
        else:
            self.say(404)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_any

    def log_message(self, *_):
        pass


heard = threading.Semaphore(0)


class Server(ThreadingHTTPServer):
    request_queue_size = 1024

    def handle_error(self, request, address):
        pass


if __name__ == "__main__":
    server = Server((sys.argv[1], int(sys.argv[2])), Handler)
    print("ready", flush=True)
    server.serve_forever()
