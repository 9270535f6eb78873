"""A gRPC client by grpcio: runs its checks and prints what came of each, as JSON.

grpc_checks.py unix SOCKET | tls HOST:PORT CA NAME
"""

import json
import sys
import threading
import time

import grpc

HOW, WHERE, *TRUST = sys.argv[1:]
OPTIONS = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.enable_http_proxy", 0)]


def channel():
    if HOW == "unix":
        return grpc.insecure_channel(f"unix:{WHERE}", OPTIONS)
    with open(TRUST[0], "rb") as file:
        trust = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(WHERE, trust, [*OPTIONS, ("grpc.ssl_target_name_override", TRUST[1])])


def plain(metadata):
    """As text, without what a library adds of its own."""
    return sorted([key, value.hex() if isinstance(value, bytes) else value] for key, value in metadata or () if key.startswith("x-"))


def told(call):
    return {"code": call.code().name, "details": call.details(), "trailing": plain(call.trailing_metadata())}


def unary(on):
    answer, call = on.unary_unary("/test.Test/Unary").with_call(b"hello", metadata=(("x-said", "a thing"),), timeout=20)
    return {"answer": answer.decode(), "initial": plain(call.initial_metadata()), **told(call)}


def unary_of_three_megabytes(on):
    message = bytes(range(250)) * 12_000
    answer, call = on.unary_unary("/test.Test/Unary").with_call(message, timeout=20)
    return {"right": answer.endswith(b" " + message), **told(call)}


def client_stream(on):
    messages = (b"x" * (at * 97) for at in range(200))
    answer, call = on.stream_unary("/test.Test/Size").with_call(messages, timeout=20)
    return {"answer": answer.decode(), **told(call)}


def server_stream(on):
    call = on.unary_stream("/test.Test/Count")(b"300 5000", timeout=20)
    right = [message == bytes([at % 251]) * 5000 for at, message in enumerate(call)]
    return {"count": len(right), "right": all(right), **told(call)}


def server_stream_of_nothing(on):
    call = on.unary_stream("/test.Test/Count")(b"0 0", timeout=20)
    return {"count": len(list(call)), **told(call)}


def both_streams(on):
    """Strictly in turn: the next message is sent when the answer to the one before has come."""
    heard = []

    def say():
        for at in range(50):
            while len(heard) < at:
                time.sleep(0.001)
            yield str(at).encode()

    call = on.stream_stream("/test.Test/Talk")(say(), timeout=20)
    for message in call:
        heard.append(message.decode())
    return {"heard": heard, **told(call)}


def failure(on):
    try:
        on.unary_unary("/test.Test/Fail")(b"", timeout=20)
    except grpc.RpcError as call:
        return told(call)


def failure_after_messages(on):
    heard = []
    call = on.unary_stream("/test.Test/FailLate")(b"", timeout=20)
    try:
        for message in call:
            heard.append(message.decode())
    except grpc.RpcError as why:
        return {"heard": heard, **told(why)}


def unknown_method(on):
    try:
        on.unary_unary("/test.Test/Unheard")(b"", timeout=20)
    except grpc.RpcError as call:
        return call.code().name


def deadline(on):
    """The client gives up in time, and the server is told."""
    began = time.monotonic()
    try:
        on.unary_unary("/test.Test/Slow")(b"", timeout=0.3)
        code = "OK"
    except grpc.RpcError as call:
        code = call.code().name
    return {"code": code, "soon": time.monotonic() - began < 5, "told": on.unary_unary("/test.Test/Gone")(b"", timeout=20).decode()}


def canceled(on):
    over = threading.Event()

    def say():
        yield b"a"
        # Were this the end, the server's end of the call might come first.
        over.wait(20)

    call = on.stream_stream("/test.Test/Talk")(say(), timeout=20)
    first = next(call).decode()
    call.cancel()
    over.set()
    return {"first": first, "code": call.code().name}


CHECKS = [
    unary,
    unary_of_three_megabytes,
    client_stream,
    server_stream,
    server_stream_of_nothing,
    both_streams,
    failure,
    failure_after_messages,
    unknown_method,
    deadline,
    canceled,
]

results = {}
with channel() as on:
    for check in CHECKS:
        try:
            results[check.__name__] = check(on)
        except Exception as why:
            results[check.__name__] = f"failed: {type(why).__name__}: {why}"
print(json.dumps(results))
