"""Asks for everything with httpx, on one client, and prints what it got."""
import hashlib
import sys

import httpx

BASE = sys.argv[1]
client = httpx.Client(trust_env=False, timeout=20)


def chunks():
    yield b"first"
    yield b"second, which is longer"
    yield b"x" * 70_000


def show(method, path, **arguments):
    response = client.request(method, BASE + path, **arguments)
    digest = hashlib.sha256(response.content).hexdigest()
    print(method, path, response.status_code, response.reason_phrase, response.headers.raw, digest)


for path in ["/plain", "/chunked", "/trailers", "/extensions", "/early", "/none", "/plain", "/old", "/old-kept", "/large"]:
    show("GET", path)
show("GET", "/large-chunked")
show("HEAD", "/plain")
show("POST", "/plain", content=b"a body of known length")
show("POST", "/plain", content=b"z" * 300_000)
show("POST", "/chunked", content=chunks())
show("POST", "/continue", content=b"not waited for", headers={"Expect": "100-continue"})
show("PUT", "/plain", content=b"", headers=[("X-oDD", "1"), ("x-odd", "2"), ("X-Second", "3")])
show("DELETE", "/none")
