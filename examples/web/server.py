"""Serves the pictures of a WebDataset tar on a loopback port, with the failures of the real web.

    server.py PICTURES.tar        prints its address first, then one line per request

/well/NAME    the picture
/gone/NAME    404
/hiccup/NAME  500 the first time, then the picture
/noai/NAME    the picture, with X-Robots-Tag: noai
/slow/NAME    the picture, after two seconds
"""

import sys
import tarfile
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

asked = set()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        print(f"{self.path}\n", end="", flush=True)
        _, how, name = self.path.split("/", 2)
        first = self.path not in asked
        asked.add(self.path)
        if how == "gone":
            return self.answer(404, b"no such picture")
        if how == "hiccup" and first:
            return self.answer(500, b"try again")
        if how == "slow":
            time.sleep(2)
        # Opened for each request: the tar is created after the server starts, because its URLs contain the port.
        with tarfile.open(sys.argv[1]) as tar:
            picture = tar.extractfile(name).read()
        self.answer(200, picture, {"X-Robots-Tag": "noai"} if how == "noai" else {})

    def answer(self, status, body, headers={}):
        self.send_response(status)
        for header in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(*header)
        with suppress(ConnectionError):  # The client closed the connection.
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
