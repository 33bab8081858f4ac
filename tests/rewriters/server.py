"""A chat completion server on loopback that misbehaves as real ones do."""

import json
import threading
import time
from collections import Counter
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server(ThreadingHTTPServer):
    """Answers `text(content, temperature)`, after the failures that it is given for a content.

    A failure is an HTTP status, or: "cut" (the connection ends without an answer), "cut_body" (in
    the middle of it), "hang" (nothing comes), "trickle" (a blank now and then), "broken" (half a
    JSON), "html" (a web page), "error" (an error with status 200), a dict (the answer itself), or
    (status, body, where the body is cut, if at all).
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.failures = {}  # content → what happens to its first requests, in order
        self.always = None  # what happens to every request
        self.headers = {}  # of failures
        self.text = lambda content, temperature: f"{content} at {temperature}"
        self.finish_reason = "stop"
        self.delay = lambda content: 0.0
        self.asked = []  # (path, body) of every request
        self.times = []
        self.keys = set()
        self.answered = Counter()  # content → successful answers
        self.cancelled = 0  # clients that went away before their answer
        self.under_way = self.most_under_way = 0
        self.lock = threading.Lock()
        self.released = threading.Event()  # ends all hanging

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}/v1"

    def tries(self):
        return Counter(body["messages"][-1]["content"] for _, body in self.asked)

    def handle_error(self, *_):  # a client that gave up is no news
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][-1]["content"]
        with server.lock:
            server.asked.append((self.path, body))
            server.times.append(time.monotonic())
            server.keys.add(self.headers["Authorization"])
            server.under_way += 1
            server.most_under_way = max(server.most_under_way, server.under_way)
            pending = server.failures.get(content, [])
            failure = pending.pop(0) if pending else server.always
        time.sleep(server.delay(content))
        with server.lock:
            server.under_way -= 1
        self._reply(failure, content, body)

    def _reply(self, failure, content, body):
        server = self.server
        if failure in ("hang", "trickle"):
            self._stall(failure)
        elif failure == "cut":
            self.close_connection = True
        elif failure == "html":
            self._send(200, b"<html>Welcome</html>", "text/html")
        elif failure == "error":
            self._send(200, b'{"error": {"message": "upstream is down"}}')
        elif failure in ("broken", "cut_body"):
            data = json.dumps(_completion(body, "lost", "stop")).encode()
            half = data[: len(data) // 2]
            self._send(200, half, length=len(data) if failure == "cut_body" else len(half))
            self.close_connection = True
        elif isinstance(failure, tuple):
            status, data, *cut = failure
            sent = data[: cut[0]] if cut else data
            self._send(status, sent, length=len(data), **server.headers)
            self.close_connection = bool(cut)
        elif isinstance(failure, int):
            error = {"error": {"message": f"no, {self.headers['Authorization']}", "code": None}}
            self._send(failure, json.dumps(error).encode(), **server.headers)
        elif failure is not None:
            status = failure.pop("status", 200)
            self._send(status, json.dumps(failure).encode())
        else:
            text = server.text(content, body.get("temperature"))
            data = json.dumps(_completion(body, text, server.finish_reason)).encode()
            with server.lock:
                server.answered[content] += 1
            self._send(200, data)

    def _stall(self, failure):
        if failure == "trickle":
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", "1000")
            self.end_headers()
        while not self.server.released.wait(0.02):
            try:
                if failure == "trickle":
                    self.wfile.write(b" ")
                else:
                    self.connection.setblocking(False)
                    if self.connection.recv(1) == b"":
                        raise ConnectionResetError
            except BlockingIOError:
                continue
            except OSError:
                with self.server.lock:
                    self.server.cancelled += 1
                break
        self.close_connection = True

    def _send(self, status, data, kind="application/json", length=None, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value() if callable(value) else value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data) if length is None else length))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


def _completion(body, text, finish_reason):
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
    }
    usage = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
    return {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice],
        "usage": usage,
    }


@contextmanager
def serving():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.released.set()
            server.shutdown()
            thread.join()
