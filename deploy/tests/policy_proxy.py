"""A proxy in front of DynamoDB and SQS that permits what the policies of deploy/iam permit.

The access key id of a request names its program, and the program's policies decide. Every request is
recorded with the permissions that it needs.
"""

import http.client
import http.server
import json
import re
import sys
import threading
import time

import iam

CREDENTIAL = re.compile(r"Credential=([^/]+)/")
HOP_HEADERS = {"connection", "content-length", "host", "transfer-encoding"}


class PolicyProxy:
    """Serves on a port of the loopback address, in threads, until `stop`."""

    def __init__(self, dynamodb, sqs, policies):
        """`dynamodb` and `sqs` are (host, port); `policies` maps a program to its permissions."""
        self.endpoints = {"dynamodb": dynamodb, "sqs": sqs}
        self.policies = policies
        # (program, operation, permissions) of every request, and those of the denied ones.
        self.requests = set()
        self.denied = set()
        self.errors = []
        self.streams = {}
        # Seconds by which the requests of a program to DynamoDB are delayed.
        self.delays = {}
        self.lock = threading.Lock()
        handler = type("Bound", (Handler,), {"proxy": self})
        self.server = Server(("127.0.0.1", 0), handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def stop(self):
        self.server.shutdown()
        self.server.server_close()

    def decide(self, program, service, operation, body):
        """Records the request, and returns the first permission that it lacks."""
        with self.lock:
            try:
                checks = iam.required(service, operation, body, self.streams)
            except (iam.UnknownToIam, KeyError) as error:
                self.errors.append(f"{program}: {operation}: {error!r}")
                return operation
            self.requests.add((program, operation, frozenset(checks)))
            allowed = self.policies.get(program, [])
            for check in checks:
                if not any(permission.allows(check) for permission in allowed):
                    self.denied.add((program, check))
                    return check
        return None

    def remember(self, operation, body, response):
        """Remembers to which stream the iterators in a response belong."""
        names = {"GetShardIterator": "ShardIterator", "GetRecords": "NextShardIterator"}
        iterator = json.loads(response).get(names[operation])
        with self.lock:
            arn = body.get("StreamArn") or self.streams.get(body.get("ShardIterator"))
            if iterator and arn:
                self.streams[iterator] = arn


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """Ignores connections that end early: programs are killed, and the emulator stops."""
        if not isinstance(sys.exc_info()[1], (OSError, http.client.HTTPException)):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Else small responses wait for the acknowledgement of their headers.
    disable_nagle_algorithm = True
    proxy = None

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        prefix, operation = self.headers["X-Amz-Target"].split(".")
        service = "sqs" if prefix == "AmazonSQS" else "dynamodb"
        program = CREDENTIAL.search(self.headers.get("Authorization", ""))
        program = program[1] if program else ""
        body = json.loads(raw or b"{}")
        missing = self.proxy.decide(program, service, operation, body)
        if missing is not None:
            self.deny(program, missing)
            return
        if service == "dynamodb":
            time.sleep(self.proxy.delays.get(program, 0))
        status, headers, response = self.forward(service, raw)
        if status == 200 and operation in ("GetShardIterator", "GetRecords"):
            self.proxy.remember(operation, body, response)
        self.answer(status, headers, response)

    def forward(self, service, raw):
        headers = {k: v for k, v in self.headers.items() if k.lower() not in HOP_HEADERS}
        connection = http.client.HTTPConnection(*self.proxy.endpoints[service], timeout=60)
        try:
            connection.request("POST", self.path, raw, headers)
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()
        finally:
            connection.close()

    def deny(self, program, missing):
        text = f"User: {program} is not authorized to perform: {missing}"
        kind = "com.amazon.coral.service#AccessDeniedException"
        body = json.dumps({"__type": kind, "message": text}).encode()
        self.answer(400, [("Content-Type", "application/x-amz-json-1.0")], body)

    def answer(self, status, headers, body):
        self.send_response(status)
        for name, value in headers:
            if name.lower() not in HOP_HEADERS:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
