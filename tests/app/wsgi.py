"""The application behind nginx and uwsgi in the tests: every answer says which color gave it.

It is controlled by files in MARKS, so that a test waits for conditions instead of sleeping:
`NAME` appears when a request has arrived here, `NAME.go` lets it go on, `unready` makes /ready answer 503.
"""

import hashlib
import json
import os
import time
from urllib.parse import parse_qsl

COLOR = os.environ["COLOR"]
MARKS = os.environ["MARKS"]
BLOCK = 64 * 1024


def application(environ, start_response):
    query = dict(parse_qsl(environ.get("QUERY_STRING", ""), keep_blank_values=True))
    path = environ.get("PATH_INFO", "/")
    name = path.strip("/").split("/")[0] or "index"
    page = PAGES.get(name)
    if page is None:
        return answer(start_response, 404, b"no such page\n")
    return page(environ, query, start_response)


def answer(start_response, status, body, headers=()):
    head = [("X-Color", COLOR), ("Content-Type", "text/plain")]
    if status not in (204, 304):
        head.append(("Content-Length", str(len(body))))
    start_response(f"{status} {REASONS.get(status, 'Some')}", head + list(headers))
    return [body]


def index(environ, query, start_response):
    return answer(start_response, 200, f"{COLOR}\n".encode())


def ready(environ, query, start_response):
    if os.path.exists(mark("unready")):
        return answer(start_response, 503, b"migrating the database\n")
    return answer(start_response, 200, b"ready\n")


def echo(environ, query, start_response):
    """What arrived: the request as JSON, its body as length and digest (read in blocks, never held whole)."""
    digest, length = hashlib.sha256(), 0
    while block := environ["wsgi.input"].read(BLOCK):
        digest.update(block)
        length += len(block)
    headers = {
        key[5:].replace("_", "-").lower(): value
        for key, value in environ.items()
        if key.startswith("HTTP_")
    }
    for key in ("CONTENT_TYPE", "CONTENT_LENGTH"):
        if environ.get(key):
            headers[key.replace("_", "-").lower()] = environ[key]
    said = {
        "color": COLOR,
        "method": environ["REQUEST_METHOD"],
        "target": environ["REQUEST_URI"],
        "path": environ["PATH_INFO"],
        "query": environ.get("QUERY_STRING", ""),
        "client": environ.get("REMOTE_ADDR", ""),
        "headers": headers,
        "length": length,
        "sha256": digest.hexdigest(),
    }
    return answer(start_response, 200, json.dumps(said).encode())


def slow(environ, query, start_response):
    """Says in MARKS that it has the request, then takes `ms`."""
    arrived(query)
    time.sleep(min(float(query.get("ms", "100")), 30_000) / 1000)
    return answer(start_response, 200, f"{COLOR}\n".encode())


def hold(environ, query, start_response):
    """Says in MARKS that it has the request, then waits until the test lets it go."""
    arrived(query)
    await_go(query)
    return answer(start_response, 200, f"{COLOR}\n".encode())


def stream(environ, query, start_response):
    """`chunks` lines, one every `every_ms`; with `id` the last one waits until the test lets it go."""
    chunks, pause = int(query.get("chunks", "3")), float(query.get("every_ms", "10")) / 1000
    streaming_head(start_response, "text/plain")
    for number in range(chunks):
        if number == chunks - 1 and "id" in query:
            arrived(query)
            await_go(query)
        elif number:
            time.sleep(pause)
        yield f"{COLOR} {number}\n".encode()


def sse(environ, query, start_response):
    """An event stream: `events` of them (many unless told), one every `every_ms`."""
    streaming_head(start_response, "text/event-stream")
    pause = float(query.get("every_ms", "20")) / 1000
    for number in range(int(query.get("events", "1500"))):
        yield f"id: {number}\ndata: {COLOR}\n\n".encode()
        time.sleep(pause)


def status(environ, query, start_response):
    code = int(environ["PATH_INFO"].rsplit("/", 1)[-1])
    body = b"" if code in (204, 304) else f"{code}\n".encode()
    headers = [("ETag", '"one"')] if code == 304 else []
    return answer(start_response, code, body, headers)


def big(environ, query, start_response):
    """`bytes` bytes: 0, 1, .. 250, 0, 1, .. so that a missing or doubled block shows."""
    size = int(query.get("bytes", "1048576"))
    pattern = bytes(range(251)) * 256
    head = [("X-Color", COLOR), ("Content-Type", "application/octet-stream"), ("Content-Length", str(size))]
    start_response("200 OK", head)
    whole, rest = divmod(size, len(pattern))
    for _ in range(whole):
        yield pattern
    yield pattern[:rest]


def cookies(environ, query, start_response):
    """Sets two cookies in two header lines; the body is the Cookie header that came."""
    headers = [("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2; Path=/; HttpOnly")]
    return answer(start_response, 200, environ.get("HTTP_COOKIE", "").encode("latin-1"), headers)


def redirect(environ, query, start_response):
    return answer(start_response, 302, b"", [("Location", query.get("to", "/"))])


def streaming_head(start_response, kind):
    # Without X-Accel-Buffering nginx would hold the pieces back until its buffer is full.
    start_response("200 OK", [("X-Color", COLOR), ("Content-Type", kind), ("X-Accel-Buffering", "no")])


def mark(name):
    return os.path.join(MARKS, os.path.basename(name))


def arrived(query):
    if "id" in query:
        open(mark(query["id"]), "w").close()


def await_go(query):
    until = time.monotonic() + 30
    while "id" in query and not os.path.exists(mark(query["id"]) + ".go") and time.monotonic() < until:
        time.sleep(0.005)


PAGES = {
    "index": index,
    "ready": ready,
    "echo": echo,
    "slow": slow,
    "hold": hold,
    "stream": stream,
    "sse": sse,
    "status": status,
    "big": big,
    "cookies": cookies,
    "redirect": redirect,
}

REASONS = {200: "OK", 204: "No Content", 302: "Found", 304: "Not Modified", 404: "Not Found", 503: "Service Unavailable"}
