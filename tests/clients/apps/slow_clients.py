"""Many clients at once that send their requests byte by byte: `slow_clients.py ADDRESS PORT CLIENTS`."""
import asyncio
import sys

REQUEST = (
    b"POST /post HTTP/1.1\r\nHost: slow\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    b"5;x=y\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\nX-Trailer: t\r\n\r\n"
)


async def client():
    reader, writer = await asyncio.open_connection(sys.argv[1], int(sys.argv[2]))
    writer.transport.get_extra_info("socket").setsockopt(6, 1, 1)
    for byte in REQUEST:
        writer.write(bytes([byte]))
        await asyncio.sleep(0.005)
    answer = await reader.read()
    writer.close()
    whole = answer.startswith(b"HTTP/1.1 200 ") and answer.endswith(b"whole\n")
    if not whole:
        print("not answered:", answer)
    return whole


async def main():
    answers = await asyncio.gather(*(client() for _ in range(int(sys.argv[3]))))
    print(sum(answers), "answered")


asyncio.run(main())
