"""A WebSocket echo and its client: `websocket_app.py serve ADDRESS PORT` and `websocket_app.py call ADDRESS PORT`."""
import asyncio
import sys

from websockets.asyncio.client import connect
from websockets.asyncio.server import serve


async def echo(connection):
    # The server speaks first on the tunnel, then answers.
    await connection.send("welcome")
    async for message in connection:
        await connection.send(message)


async def main(what, address, port):
    if what == "serve":
        async with serve(echo, address, port, max_size=None):
            print("ready", flush=True)
            await asyncio.get_running_loop().create_future()
    async with connect(f"ws://{address}:{port}/chat", proxy=None, max_size=None, compression=None) as connection:
        print(await connection.recv())
        for message in ["text", "é" * 1000, b"\x00\xff" * 40_000, b"x" * 3_000_000]:
            await connection.send(message)
            print(len(message), await connection.recv() == message)
        pong = await connection.ping()
        print("pong", await asyncio.wait_for(pong, 10) >= 0)
    print("closed", connection.close_code)


asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
