"""An S3 server (moto), and one in front of it that fails every few requests, for tests/e2e/stores.rs.

Prints a line of JSON with the addresses of both. Then it reads a command a line, its words between tabs, and answers each with a
line of JSON:
    put BUCKET KEY FILE     delete BUCKET KEY     sign BUCKET KEY (a URL for who has no credentials)
    open BUCKET (what it has, to all)     faults
It ends when its standard input does.
"""

import http.client
import http.server
import itertools
import json
import logging
import os
import socket
import sys
import threading

# Override the machine's settings, so that only this server receives requests.
for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
    del os.environ[name]
os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_DEFAULT_REGION="us-east-1")

import boto3  # noqa: E402
from moto.server import ThreadedMotoServer  # noqa: E402

# Cycle of responses to requests.
TURNS = ["well", "500", "well", "503", "cut", "well", "hangup", "well", "cut"]


class Flaky(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream = None
    lock = threading.Lock()
    turns = itertools.cycle(TURNS)
    faults = dict.fromkeys(TURNS, 0)

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def log_message(self, *args):
        pass

    def answer(self):
        with self.lock:
            turn = next(self.turns)
        if turn == "hangup":
            self.count(turn)
            # Close without reading the request: the client sees a reset, or an end without a response.
            self.close_connection = True
            return
        if turn in ("500", "503"):
            self.count(turn)
            body = b"<Error><Code>SlowDown</Code><Message>later</Message></Error>"
            self.head(int(turn), {"Content-Length": len(body)})
            if self.command != "HEAD":
                self.wfile.write(body)
            return
        connection = http.client.HTTPConnection(*self.upstream)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "connection"}
        connection.request(self.command, self.path, headers=headers)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        drop = ("connection", "transfer-encoding", "date", "server")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in drop}
        if self.command != "HEAD":
            kept["Content-Length"] = len(body)
        self.head(answer.status, kept)
        if self.command == "HEAD":
            return
        # Cut off only large successful bodies: clients do not request an error's text again.
        if turn == "cut" and len(body) > 100 and answer.status < 300:
            self.count(turn)
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True
            return
        self.count("well")
        self.wfile.write(body)

    def head(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def count(self, turn):
        with self.lock:
            self.faults[turn] += 1


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass  # A client that hangs up is no failure here.


def main():
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    Flaky.upstream = moto.get_host_and_port()
    flaky = Server(("127.0.0.1", 0), Flaky)
    threading.Thread(target=flaky.serve_forever, daemon=True).start()
    well, unwell = "http://{}:{}".format(*Flaky.upstream), "http://127.0.0.1:{}".format(flaky.server_port)
    s3, signer = (boto3.client("s3", endpoint_url=endpoint) for endpoint in (well, unwell))
    say({"well": well, "flaky": unwell})
    buckets = set()
    for line in sys.stdin:
        command, *args = line.rstrip("\n").split("\t")
        if command == "put":
            bucket, key, file = args
            if bucket not in buckets:
                s3.create_bucket(Bucket=bucket)
                buckets.add(bucket)
            with open(file, "rb") as body:
                s3.put_object(Bucket=bucket, Key=key, Body=body.read())
            say({"put": key})
        elif command == "delete":
            bucket, key = args
            s3.delete_object(Bucket=bucket, Key=key)
            say({"delete": key})
        elif command == "open":
            for found in s3.list_objects_v2(Bucket=args[0])["Contents"]:
                s3.put_object_acl(Bucket=args[0], Key=found["Key"], ACL="public-read")
            say({"open": args[0]})
        elif command == "sign":
            bucket, key = args
            say({"url": signer.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": key})})
        else:
            with Flaky.lock:
                say(Flaky.faults)
    moto.stop()


def say(answer):
    print(json.dumps(answer), flush=True)


main()
