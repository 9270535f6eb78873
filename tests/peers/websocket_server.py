"""A websocket server by the `websockets` library, one color: websocket_server.py SOCKET COLOR

What it does with a websocket is in the path: /echo, /close/CODE, /drop, /ping, /fragments, /tell/KEY and /told/KEY
(the close code that a websocket at /tell/KEY ended with), /hold (says its color and stays), /refused.
"""

import asyncio
import http
import json
import resource
import sys

import websockets

PATH, COLOR = sys.argv[1:]
ended = {}


async def serve(ws, path):
    name, _, rest = path.lstrip("/").partition("/")
    if name == "echo":
        async for message in ws:
            await ws.send(message)
    elif name == "hold":
        await ws.send(COLOR)
        async for message in ws:
            await ws.send(f"{COLOR} {message}")
    elif name == "close":
        await ws.close(int(rest), f"by {rest}")
    elif name == "drop":
        ws.transport.abort()
    elif name == "ping":
        pong = await ws.ping(b"are you there?")
        await asyncio.wait_for(pong, 10)
        await ws.send("ponged")
        await ws.wait_closed()
    elif name == "fragments":
        await ws.send(["one ", "two ", "", "three"])
        await ws.wait_closed()
    elif name == "headers":
        await ws.send(json.dumps({key: ws.request_headers.get_all(key) for key in ("Origin", "Cookie", "X-Thing")}))
        await ws.wait_closed()
    elif name == "tell":
        ended[rest] = asyncio.get_running_loop().create_future()
        await ws.send("told")
        await ws.wait_closed()
        ended[rest].set_result([ws.close_code, ws.close_reason])
    elif name == "told":
        await ws.send(json.dumps(await asyncio.wait_for(ended[rest], 10)))


async def before(path, headers):
    """Plain requests (probes) are answered, and what is to be refused is refused."""
    color = [("X-Color", COLOR)]
    if "Upgrade" not in headers:
        return http.HTTPStatus.OK, color, f"{COLOR}\n".encode()
    if path == "/refused":
        return http.HTTPStatus.FORBIDDEN, color, b"not you\n"
    return None


async def main():
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 65536), most))
    options = {"process_request": before, "subprotocols": ["chat", "superchat"], "extra_headers": {"X-Color": COLOR}}
    # Its own pings are off: a thousand clients that are slow for a moment are not to be judged by it.
    async with websockets.unix_serve(serve, PATH, max_size=4 << 20, backlog=2048, ping_interval=None, **options):
        await asyncio.Future()


asyncio.run(main())
