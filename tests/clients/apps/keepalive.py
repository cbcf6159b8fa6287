"""Clients with kept connections: `keepalive.py URL CLIENTS REQUESTS REST_MS METHOD...`.

Each makes its requests one after the other, by turns of these methods, on one connection for as long as that lasts, and
rests between them for up to so long. Prints a line for each that failed, then how many did not. With 0 requests they go
on until standard input ends.
"""
import http.client
import random
import sys
import threading
import time
import urllib.parse

url = urllib.parse.urlsplit(sys.argv[1])
clients, requests, rest = map(int, sys.argv[2:5])
methods = sys.argv[5:]
good = [0] * clients
enough = threading.Event()


def fail(path, why):
    # In one piece, as others print at the same time.
    print(f"failed {path} {why}\n", end="", flush=True)


def client(number):
    pause = random.Random(number)
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=20)
    done = 0
    while not enough.is_set() and (not requests or done < requests):
        path = f"{url.path}/{number}-{done}"
        try:
            connection.request(methods[done % len(methods)], path, body="body" if done % 2 else None)
            response = connection.getresponse()
            response.read()
            if response.status == 200:
                good[number] += 1
            else:
                fail(path, response.status)
        except (OSError, http.client.HTTPException) as error:
            fail(path, type(error).__name__)
            connection.close()
        done += 1
        time.sleep(pause.random() * rest / 1000)


threads = [threading.Thread(target=client, args=[number]) for number in range(clients)]
for thread in threads:
    thread.start()
if not requests:
    sys.stdin.read()
    enough.set()
for thread in threads:
    thread.join()
print("good", sum(good))
