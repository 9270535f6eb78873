"""A websocket client by the `websockets` library: runs its checks and prints what came of each, as JSON.

websocket_checks.py unix SOCKET | tcp HOST:PORT | tls HOST:PORT CA NAME
"""

import asyncio
import hashlib
import json
import random
import ssl
import sys

import websockets

HOW, WHERE, *TRUST = sys.argv[1:]
MIB = 1 << 20


def connect(path, **options):
    options = {"max_size": 4 * MIB, "open_timeout": 20, "close_timeout": 10, **options}
    if HOW == "unix":
        return websockets.unix_connect(WHERE, f"ws://portal.example{path}", **options)
    host, port = WHERE.rsplit(":", 1)
    if HOW == "tcp":
        return websockets.connect(f"ws://portal.example{path}", host=host, port=int(port), **options)
    trust = ssl.create_default_context(cafile=TRUST[0])
    return websockets.connect(
        f"wss://{TRUST[1]}{path}", host=host, port=int(port), ssl=trust, server_hostname=TRUST[1], **options
    )


def digest(message):
    return hashlib.sha256(message if isinstance(message, bytes) else message.encode()).hexdigest()


async def echo_text(ws):
    await ws.send("hello")
    return await ws.recv()


async def echo_empty(ws):
    await ws.send("")
    await ws.send(b"")
    return [await ws.recv(), (await ws.recv()).hex()]


async def echo_unicode(ws):
    await ws.send("h\u00e9llo \u4e16\u754c \U0001f6aa")
    return await ws.recv()


async def echo_binary(ws):
    await ws.send(bytes(range(256)))
    return (await ws.recv()).hex()


async def echo_mebibyte_of_noise(ws):
    message = random.Random(1).randbytes(MIB)
    await ws.send(message)
    return digest(await ws.recv()) == digest(message)


async def echo_mebibyte_of_text(ws):
    message = "0123456789abcdef" * (MIB // 16)
    await ws.send(message)
    return digest(await ws.recv()) == digest(message)


async def echo_fragments(ws):
    await ws.send(["a" * 10, "b" * 70_000, "", "c"])
    return digest(await ws.recv())


async def echo_each_length_around_a_frame_size(ws):
    lengths = [0, 1, 125, 126, 127, 65_535, 65_536, 65_537]
    for length in lengths:
        await ws.send(b"x" * length)
    return [len(await ws.recv()) for _ in lengths]


async def echo_a_thousand_in_order(ws):
    async def send():
        for number in range(1000):
            await ws.send(str(number))

    sending = asyncio.create_task(send())
    right = all([await ws.recv() == str(number) for number in range(1000)])
    await sending
    return right


async def ping(ws):
    for payload in (b"", b"x" * 125):
        await (await ws.ping(payload))
    await ws.send("and on")
    return await ws.recv()


async def pinged(ws):
    return await ws.recv()


async def fragments(ws):
    return await ws.recv()


async def headers(ws):
    return json.loads(await ws.recv())


async def end(ws):
    """How it ends when the other side ends it."""
    try:
        return await ws.recv()
    except websockets.ConnectionClosed as closed:
        return [type(closed).__name__, ws.close_code, ws.close_reason]


async def negotiated(ws):
    await ws.send("x" * 5000)
    echoed = len(await ws.recv())
    return {"subprotocol": ws.subprotocol, "extensions": [each.name for each in ws.extensions], "echoed": echoed}


async def told(key, code, reason):
    """How the server sees that a client ends it, and the client itself."""
    async with connect(f"/tell/{key}") as ws:
        await ws.recv()
        await ws.close(code, reason)
        own = [ws.close_code, ws.close_reason]
    async with connect(f"/told/{key}") as ws:
        return {"client": own, "server": json.loads(await ws.recv())}


async def told_gone(key):
    """The client vanishes without a word."""
    ws = await connect(f"/tell/{key}")
    await ws.recv()
    ws.transport.abort()
    async with connect(f"/told/{key}") as ws:
        return json.loads(await ws.recv())


async def refused(path):
    try:
        async with connect(path):
            return "not refused"
    except websockets.InvalidStatusCode as refusal:
        return refusal.status_code


def on(path, check, **options):
    async def run():
        async with connect(path, **options) as ws:
            return await check(ws)

    return run


CHECKS = {
    **{
        check.__name__: on("/echo", check)
        for check in (
            echo_text,
            echo_empty,
            echo_unicode,
            echo_binary,
            echo_mebibyte_of_noise,
            echo_mebibyte_of_text,
            echo_fragments,
            echo_each_length_around_a_frame_size,
            echo_a_thousand_in_order,
            ping,
        )
    },
    "pinged by the server": on("/ping", pinged),
    "fragments of the server": on("/fragments", fragments),
    "headers": on("/headers", headers, origin="https://portal.example", extra_headers={"Cookie": "a=1; b=2", "X-Thing": "x"}),
    "closed by the server with 1000": on("/close/1000", end),
    "closed by the server with 1001": on("/close/1001", end),
    "closed by the server with 4000": on("/close/4000", end),
    "dropped by the server": on("/drop", end),
    "closed by the client with 1000": lambda: told("a", 1000, "done"),
    "closed by the client with 1001": lambda: told("b", 1001, "going"),
    "closed by the client with 4000": lambda: told("c", 4000, "own reasons"),
    "dropped by the client": lambda: told_gone("d"),
    "nothing negotiated": on("/echo", negotiated, compression=None),
    "deflate": on("/echo", negotiated),
    "subprotocol": on("/echo", negotiated, subprotocols=["superchat", "other"]),
    "subprotocol that is unknown": on("/echo", negotiated, subprotocols=["other"]),
    "refused": lambda: refused("/refused"),
}


async def main():
    results = {}
    for name, check in CHECKS.items():
        try:
            results[name] = await asyncio.wait_for(check(), 30)
        except Exception as why:
            results[name] = f"failed: {type(why).__name__}: {why}"
    print(json.dumps(results))


asyncio.run(main())
