"""A gRPC client by grpcio that calls on and on, beside one long call, until it is told to end.

grpc_calls.py HOST:PORT CA NAME END

Says `open` when both have been answered. Ends when the file END exists, with one line of JSON: each call's color, when
it was made and answered and what was wrong, and the same of the messages of the long call.
"""

import json
import os
import sys
import threading
import time

import grpc

WHERE, CA, NAME, END = sys.argv[1:]
with open(CA, "rb") as file:
    TRUST = grpc.ssl_channel_credentials(file.read())
PAUSE = 0.005

calls, messages = [], []


def running():
    return not os.path.exists(END)


def call(on):
    ask = on.unary_unary("/test.Test/Unary")
    while running():
        sent = time.time()
        try:
            answer = ask(b"x", timeout=20)
            calls.append({"color": answer.decode().split()[0], "sent": sent, "done": time.time(), "fault": None})
        except grpc.RpcError as why:
            fault = f"{why.code().name}: {why.details()}"
            calls.append({"color": None, "sent": sent, "done": time.time(), "fault": fault})
        time.sleep(PAUSE)


def talk(on):
    def say():
        while running():
            yield repr(time.time()).encode()
            time.sleep(PAUSE * 4)

    long_call = on.stream_stream("/test.Test/Talk")(say())
    try:
        for message in long_call:
            color, sent = message.decode().split()
            messages.append({"color": color, "sent": float(sent), "done": time.time()})
        trailing = dict(long_call.trailing_metadata())
        return {"code": long_call.code().name, "color": trailing.get("x-color"), "talk": trailing.get("x-talk")}
    except grpc.RpcError as why:
        return {"code": why.code().name, "details": why.details()}


with grpc.secure_channel(WHERE, TRUST, [("grpc.ssl_target_name_override", NAME), ("grpc.enable_http_proxy", 0)]) as on:
    ended = {}
    threads = [threading.Thread(target=call, args=(on,)) for _ in range(4)]
    threads.append(threading.Thread(target=lambda: ended.update(talk(on))))
    for thread in threads:
        thread.start()
    while running() and not (calls and messages):
        time.sleep(0.005)
    print("open")
    for thread in threads:
        thread.join()
print(json.dumps({"calls": calls, "messages": messages, "ended": ended}))
