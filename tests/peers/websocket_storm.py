"""Many websockets by the `websockets` library that come back as soon as they are closed.

websocket_storm.py HOST:PORT COUNT

Prints `open` when each has heard its color; when each has been closed once and is back, one line of JSON: for every
websocket the color before, when it was closed and how, when it was back and with which color.
"""

import asyncio
import json
import resource
import sys
import time

import websockets

WHERE, COUNT = sys.argv[1], int(sys.argv[2])
HOST, PORT = WHERE.rsplit(":", 1)
# So many handshakes at once: a thousand at the same moment would be a test of accept queues.
GATE = asyncio.Semaphore(64)


def connect():
    options = {"compression": None, "ping_interval": None, "open_timeout": 30, "max_queue": 4}
    return websockets.connect("ws://portal.example/hold", host=HOST, port=int(PORT), **options)


async def first():
    async with GATE:
        ws = await connect()
        return ws, await ws.recv()


async def life(ws, before):
    try:
        extra = await ws.recv()
        return {"fault": f"heard {extra!r}"}
    except websockets.ConnectionClosed as closed:
        ended = time.time()
        code, reason = ws.close_code, ws.close_reason
        clean = closed.rcvd is not None and closed.sent is not None
    try:
        again = await connect()
        after = await again.recv()
        back = time.time()
        await again.close()
    except Exception as why:
        return {"fault": f"not back: {type(why).__name__}: {why}"}
    return {"before": before, "ended": ended, "code": code, "reason": reason, "clean": clean, "back": back, "after": after}


async def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    opened = await asyncio.gather(*[first() for _ in range(COUNT)])
    lives = [asyncio.create_task(life(ws, color)) for ws, color in opened]
    print("open")
    print(json.dumps(await asyncio.gather(*lives)))


asyncio.run(main())
