"""A small piece of the web: serves the pictures of a WebDataset tar on a loopback port, and behaves as the web does.

    server.py PICTURES.tar        its address is its first line of output; each request is a line after it

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
        # Opened each time: the tar is made after the server, for the URLs beside it have the server's port.
        with tarfile.open(sys.argv[1]) as tar:
            picture = tar.extractfile(name).read()
        self.answer(200, picture, {"X-Robots-Tag": "noai"} if how == "noai" else {})

    def answer(self, status, body, headers={}):
        self.send_response(status)
        for header in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(*header)
        with suppress(ConnectionError):  # A client that did not wait.
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
