"""What is answered to a request that never reaches the application."""

import json
import logging
from uuid import uuid4

from app.logs import as_pairs

log = logging.getLogger(__name__)


def refusal(status: int, reason: str, sentence: str) -> bytes:
    """The whole answer to a request that never came to be one, in the contract's shape; it stands
    in the log too."""
    task = str(uuid4())
    facts = {"task_uuid": task, "status": status, "error": sentence}
    log.warning("task %s: refused %s", task, as_pairs(facts), extra=facts)
    message = {
        "action": "Failed request.",
        "task_uuid": task,
        "progress_ratio": 0,
        "details": {"error": sentence},
    }
    body = json.dumps({"status": status, "message": message}) + "\n"
    head = f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\n"
    head += f"X-Task-UUID: {task}\r\n"
    typed = f"Content-Type: application/x-ndjson\r\nContent-Length: {len(body)}\r\n\r\n"
    return (head + typed + body).encode()


class GunicornAnswer:
    """In a socket's place, takes what gunicorn answers, as HTML, to what it can't read."""

    status, reason = 500, "Internal Server Error"

    def gettimeout(self) -> float:
        return 0.0

    def sendall(self, answer: bytes) -> None:
        _, status, self.reason = answer.partition(b"\r\n")[0].decode("latin-1").split(" ", 2)
        self.status = int(status)
