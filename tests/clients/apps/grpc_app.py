"""A gRPC service and its client: `grpc_app.py serve ADDRESS` and `grpc_app.py call|good|cancel ADDRESS`.

Messages are bytes as they are, so that no schema has to be compiled. What is to become of a call is in its metadata:
`fail: STATUS COUNT` fails the first COUNT executions of the calls with the same `id`. The client prints what it saw.
"""
import collections
import sys
import threading
from concurrent import futures

import grpc

SERVICE = "apps.Echo"
CASES = [("good", "OK 0"), ("retried", "UNAVAILABLE 2"), ("not retried", "NOT_FOUND 1"), ("lost", "UNAVAILABLE 9")]

executed = collections.Counter()
cancelled = threading.Event()


def admit(context):
    metadata = dict(context.invocation_metadata())
    executed[metadata["id"]] += 1
    context.set_trailing_metadata((("x-execution", str(executed[metadata["id"]])),))
    status, count = metadata.get("fail", "OK 0").split()
    if executed[metadata["id"]] <= int(count):
        context.abort(grpc.StatusCode[status], "as told")


def unary(request, context):
    admit(context)
    return request


def server_stream(request, context):
    admit(context)
    for number in range(5):
        yield request + str(number).encode()


def client_stream(requests, context):
    admit(context)
    return b",".join(requests)


def both(requests, context):
    admit(context)
    for request in requests:
        yield request + b"!"


def hang(request, context):
    """Ends with the call, and remembers that it did."""
    admit(context)
    ended = threading.Event()
    context.add_callback(ended.set)
    ended.wait(30)
    cancelled.set()
    return request


def was_cancelled(request, context):
    admit(context)
    return b"yes" if cancelled.wait(10) else b"no"


def serve(address):
    server = grpc.server(futures.ThreadPoolExecutor(8))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
        "Hang": grpc.unary_unary_rpc_method_handler(hang),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(address)
    server.start()
    print("ready", flush=True)
    sys.stdin.read()


def show(what, call, said):
    """Prints what a call gave: its messages, or its status; and how often it was executed, as far as one knows."""
    try:
        said = said()
    except grpc.RpcError as error:
        said = f"{error.code().name} ({error.details()})"
    executions = [value for key, value in call.trailing_metadata() or () if key == "x-execution"]
    print(f"{what}: {said}, executions {executions}", flush=True)


def one(what, call):
    show(what, call, call.result)


def many(what, call):
    show(what, call, lambda: list(call))


def call(address, cases=CASES):
    # The library's own retries would hide what is in between.
    channel = grpc.insecure_channel(address, [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)])
    unary = channel.unary_unary(f"/{SERVICE}/Unary")
    server_stream = channel.unary_stream(f"/{SERVICE}/ServerStream")
    client_stream = channel.stream_unary(f"/{SERVICE}/ClientStream")
    both = channel.stream_stream(f"/{SERVICE}/Both")
    hang = channel.unary_unary(f"/{SERVICE}/Hang")

    for name, fail in cases:
        options = [{"metadata": (("id", f"{kind} {name}"), ("fail", fail)), "timeout": 20} for kind in range(4)]
        one(f"unary {name}", unary.future(b"question", **options[0]))
        many(f"server-stream {name}", server_stream(b"n", **options[1]))
        one(f"client-stream {name}", client_stream.future(iter([b"a", b"b"]), **options[2]))
        many(f"both {name}", both(iter([b"x", b"y"]), **options[3]))

    # Each message is answered before the next is sent.
    answered = threading.Semaphore(1)

    def questions():
        for number in range(20):
            answered.acquire()
            yield b"q%d" % number

    stream, count = both(questions(), metadata=(("id", "dialogue"),), timeout=20), 0
    for _ in stream:
        count += 1
        answered.release()
    print("dialogue", count)

    large = bytes(range(256)) * 8192
    print("large", unary(large, metadata=(("id", "large"),), timeout=20) == large)

    if cases is not CASES:
        return
    one("deadline", hang.future(b"", metadata=(("id", "deadline"),), timeout=0.5))
    asked = channel.unary_unary(f"/{SERVICE}/WasCancelled")
    print("the server was told", asked(b"", metadata=(("id", "w"),), timeout=20))


def call_cancelled(address):
    channel = grpc.insecure_channel(address, [("grpc.enable_retries", 0), ("grpc.enable_http_proxy", 0)])
    hang = channel.unary_unary(f"/{SERVICE}/Hang").future(b"", metadata=(("id", "cancel"),), timeout=20)
    # A second call on the same connection is answered, so the first is with the server.
    channel.unary_unary(f"/{SERVICE}/Unary")(b"", metadata=(("id", "marker"),), timeout=20)
    hang.cancel()
    asked = channel.unary_unary(f"/{SERVICE}/WasCancelled")(b"", metadata=(("id", "w"),), timeout=20)
    print("cancelled", hang.cancelled(), asked)


def call_good(address):
    """What goes over the wire does not depend on who is faster."""
    call(address, CASES[:1])


if __name__ == "__main__":
    {"serve": serve, "call": call, "good": call_good, "cancel": call_cancelled}[sys.argv[1]](sys.argv[2])
