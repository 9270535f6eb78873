"""A gRPC server by grpcio, one color, without generated code: grpc_server.py SOCKET COLOR

Messages are bytes. Every call's trailing metadata names the color.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

PATH, COLOR = sys.argv[1:]
DETAILS = "x-details-bin"


def trailing(context, *more):
    context.set_trailing_metadata((("x-color", COLOR), *more))


def unary(request, context):
    context.send_initial_metadata((("x-initial", "first"),))
    sent = dict(context.invocation_metadata())
    trailing(context, ("x-heard", sent.get("x-said", "nothing")), ("x-bytes-bin", bytes(range(256))))
    return COLOR.encode() + b" " + request


def size(requests, context):
    """Client stream: how many messages and bytes came."""
    count = total = 0
    for request in requests:
        count, total = count + 1, total + len(request)
    trailing(context)
    return f"{count} {total}".encode()


def count(request, context):
    """Server stream: as many messages as were asked for, of so many bytes."""
    number, length = map(int, request.split())
    for at in range(number):
        yield bytes([at % 251]) * length
    trailing(context, ("x-count", str(number)))


def talk(requests, context):
    """Both streams: an answer for each message, as it comes."""
    trailing(context, ("x-talk", "over"))
    for request in requests:
        yield COLOR.encode() + b" " + request


def fail(request, context):
    trailing(context, (DETAILS, b"\x08\x05\x12\x04why?"))
    context.abort(grpc.StatusCode.NOT_FOUND, "there is no such thing: 100% \u00fcberhaupt nicht")


def fail_late(request, context):
    """Some messages first, then an error."""
    yield b"one"
    yield b"two"
    trailing(context)
    context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "enough")


gone = threading.Event()


def slow(request, context):
    """Takes longer than its client waits; tells /test.Test/Gone that it was told so."""
    context.add_callback(gone.set)
    while context.is_active() and context.time_remaining() is not None:
        time.sleep(0.01)
    return b"late"


def told_gone(request, context):
    trailing(context)
    return b"yes" if gone.wait(10) else b"no"


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Size": grpc.stream_unary_rpc_method_handler(size),
    "Count": grpc.unary_stream_rpc_method_handler(count),
    "Talk": grpc.stream_stream_rpc_method_handler(talk),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "FailLate": grpc.unary_stream_rpc_method_handler(fail_late),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "Gone": grpc.unary_unary_rpc_method_handler(told_gone),
}

server = grpc.server(
    futures.ThreadPoolExecutor(24), options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
)
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", METHODS),))
if server.add_insecure_port(f"unix:{PATH}") == 0:
    sys.exit("cannot listen")
server.start()
server.wait_for_termination()
