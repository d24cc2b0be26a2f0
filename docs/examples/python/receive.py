"""Receives webhooks: verifies and stores each one, responds, and then processes it.

WEBHOOK_SECRET  the signing secret of the sender (whsec_…)
INBOX           the folder for the webhooks [inbox]
PORT            the port to listen on, or 0 for a free port [9002]
"""

import os
import queue
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 1024 * 1024

VERIFIER = Webhook(os.environ["WEBHOOK_SECRET"])
INBOX = Path(os.environ.get("INBOX", "inbox"))
WORK = queue.SimpleQueue()


def store(webhook_id: str, body: bytes) -> bool:
    """Stores a webhook atomically. Returns False for a duplicate."""
    with tempfile.NamedTemporaryFile(dir=INBOX, prefix=".") as part:
        part.write(body)
        part.flush()
        try:
            os.link(part.name, INBOX / f"{webhook_id}.json")
        except FileExistsError:
            return False
    return True


def work() -> None:
    """Processes the webhooks one by one. After a crash, it can process a webhook again."""
    while True:
        webhook_id = WORK.get()
        body = (INBOX / f"{webhook_id}.json").read_bytes()
        print(f"handled {webhook_id}: {len(body)} bytes", flush=True)  # your code
        (INBOX / f"{webhook_id}.done").touch()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", -1))
        if not 0 <= length <= MAX_BODY_BYTES:
            self.close_connection = True
            return self.respond(413)
        # Verify the raw bytes. The signature does not match reserialized JSON.
        body = self.rfile.read(length)
        try:
            VERIFIER.verify(body, dict(self.headers), json_parse=False)
        except (WebhookVerificationError, ValueError):  # ValueError: not decodable
            return self.respond(401)
        webhook_id = self.headers["webhook-id"]
        if store(webhook_id, body):
            WORK.put(webhook_id)
        self.respond(204)

    def respond(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    INBOX.mkdir(parents=True, exist_ok=True)
    for stored in INBOX.glob("*.json"):
        if not stored.with_suffix(".done").exists():
            WORK.put(stored.stem)
    threading.Thread(target=work, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9002"))), Receiver)
    print(f"listening at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
