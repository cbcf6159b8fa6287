"""What an application does with the server of bin_server.py; prints what it saw. Its argument is the base URL."""
import hashlib
import sys

import requests

BASE = sys.argv[1]
session = requests.Session()
session.trust_env = False


def ask(method, path, **arguments):
    try:
        response = session.request(method, BASE + path, timeout=20, **arguments)
        return response.status_code, response.text.strip()
    except requests.RequestException as error:
        return "failed", type(error).__name__


for path in ["/status/200", "/status/404", "/delay/0.2", "/drip/50"]:
    print("GET", path, *ask("GET", path))
lines = ask("GET", "/stream/2000")[1].splitlines()
print("stream", len(lines), lines[-1])
body = bytes(range(256)) * 4096
echoed = ask("POST", "/post", data=body)
print("post", echoed[0], echoed[1] == f"POST {len(body)} {hashlib.sha256(body).hexdigest()}")

print("503 twice", *ask("GET", "/fail/503/2/a"))
print("503 for ever", *ask("GET", "/fail/503/99/b"), ask("GET", "/count/b")[1])
print("500", *ask("GET", "/fail/500/1/c"))
print("reset twice", *ask("GET", "/reset/2/d"))
print("PUT, reset once", *ask("PUT", "/reset/1/e", data=b"z" * 200_000))
print("POST, 503 once", *ask("POST", "/fail/503/1/f", data=b"x"), ask("GET", "/count/f")[1])
print("POST, reset once", *ask("POST", "/reset/1/g", data=b"x"), ask("GET", "/count/g")[1])
headers = {"Idempotency-Key": "1"}
print("POST with a key, 503 once", *ask("POST", "/fail/503/1/h", data=b"x", headers=headers))

# Each event is told before the next is made: one that is held back anywhere would be waited for in vain.
events = []
with session.get(BASE + "/events", stream=True, timeout=20) as response:
    for line in response.iter_lines():
        if line:
            events.append(line.decode())
            ask("GET", "/heard")
print("events", events)
