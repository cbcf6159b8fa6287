"""Asks for everything with requests, on one session, and prints what it got."""
import hashlib
import sys

import requests

BASE = sys.argv[1]
session = requests.Session()
session.trust_env = False


def chunks():
    yield b"first"
    yield b"second, which is longer"
    yield b"x" * 70_000


def show(method, path, **arguments):
    response = session.request(method, BASE + path, timeout=20, **arguments)
    digest = hashlib.sha256(response.content).hexdigest()
    print(method, path, response.status_code, response.reason, response.raw.headers.items(), digest)


for path in ["/plain", "/chunked", "/trailers", "/extensions", "/none", "/plain", "/old", "/old-kept", "/large", "/large-chunked"]:
    show("GET", path)
show("HEAD", "/plain")
show("POST", "/plain", data=b"a body of known length")
show("POST", "/plain", data=b"z" * 300_000)
show("POST", "/chunked", data=chunks())
show("PUT", "/plain", data=b"", headers={"X-oDD": "1", "x-Second": "  2 "[2:]})
show("DELETE", "/none")
