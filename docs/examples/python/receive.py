"""Receives webhooks: verifies each, keeps it once, answers, and only then works on it.

WEBHOOK_SECRET  the secret that the sender signs with (whsec_…)
INBOX           the folder that keeps them [inbox]
PORT            where it listens; 0 takes a free port [9002]
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


def keep(webhook_id: str, body: bytes) -> bool:
    """Keeps a webhook under its id, whole or not at all. False: it is there already."""
    with tempfile.NamedTemporaryFile(dir=INBOX, prefix=".") as part:
        part.write(body)
        part.flush()
        try:
            os.link(part.name, INBOX / f"{webhook_id}.json")
        except FileExistsError:
            return False
    return True


def work() -> None:
    """Handles what is in the inbox, one after the other. After a crash in between, one may be handled again."""
    while True:
        webhook_id = WORK.get()
        body = (INBOX / f"{webhook_id}.json").read_bytes()
        print(f"handled {webhook_id}: {len(body)} bytes", flush=True)  # your own code
        (INBOX / f"{webhook_id}.done").touch()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length", -1))
        if not 0 <= length <= MAX_BODY_BYTES:
            self.close_connection = True
            return self.answer(413)
        body = self.rfile.read(length)  # the bytes as they came: parsed and written anew, they would not verify
        try:
            VERIFIER.verify(body, dict(self.headers), json_parse=False)
        except (WebhookVerificationError, ValueError):  # a header or a body that cannot even be decoded is a ValueError
            return self.answer(401)
        webhook_id = self.headers["webhook-id"]
        if keep(webhook_id, body):
            WORK.put(webhook_id)
        self.answer(204)

    def answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    INBOX.mkdir(parents=True, exist_ok=True)
    for kept in INBOX.glob("*.json"):
        if not kept.with_suffix(".done").exists():
            WORK.put(kept.stem)
    threading.Thread(target=work, daemon=True).start()
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ.get("PORT", "9002"))), Receiver)
    print(f"listens at http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
