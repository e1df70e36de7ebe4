"""The ways to call the service: in-process, with requests, and with curl, all answering alike."""

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import requests
from flask.testing import FlaskClient

Fields = Sequence[tuple[str, str | Path]]


@dataclass(frozen=True)
class Answer:
    """A response: header names in lower case, and the body as it was sent."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The lines, with the task's uuid (one for all of them) written as UUID."""
        lines = self.lines
        uuids = {line["message"]["task_uuid"] for line in lines}
        assert len(uuids) <= 1, "a request has one uuid"
        text = self.body.decode()
        return text.replace(uuids.pop(), "UUID") if uuids else text

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Each line's object."""
        text = self.body.decode()
        assert text == "" or text.endswith("\n"), "every line ends with a newline"
        return [json.loads(line) for line in text.splitlines()]

    @property
    def last(self) -> dict[str, Any]:
        """The last line's message, with the line's status."""
        line = self.lines[-1]
        return {"status": line["status"], **line["message"]}


class Caller(Protocol):
    """One way to call the service."""

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer: ...
    def send_json(self, method: str, path: str, value: object) -> Answer: ...
    def send_form(self, path: str, fields: Fields) -> Answer: ...
    def send_file(self, path: str, file: Path, query: str = "") -> Answer: ...


class FlaskCaller:
    """Through Flask's test client, without a server."""

    def __init__(self, client: FlaskClient) -> None:
        self._client = client

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self._answer(self._client.get(path, headers=headers))

    def send_json(self, method: str, path: str, value: object) -> Answer:
        return self._answer(self._client.open(path, method=method, json=value))

    def send_form(self, path: str, fields: Fields) -> Answer:
        files = [value.open("rb") if isinstance(value, Path) else value for _, value in fields]
        data: dict[str, list[Any]] = {}
        for (name, source), value in zip(fields, files, strict=True):
            entry = (value, source.name) if isinstance(source, Path) else value
            data.setdefault(name, []).append(entry)
        answer = self._client.post(path, data=data, content_type="multipart/form-data")
        for value in files:
            if not isinstance(value, str):
                value.close()
        return self._answer(answer)

    def send_file(self, path: str, file: Path, query: str = "") -> Answer:
        with file.open("rb") as body:
            return self._answer(self._client.put(f"{path}{file.name}{query}", data=body))

    @staticmethod
    def _answer(response: Any) -> Answer:
        headers = {name.lower(): value for name, value in response.headers}
        body = response.get_data()
        response.close()
        return Answer(response.status_code, headers, body)


class RequestsCaller:
    """With requests, over HTTP."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        return self._send("GET", path, headers=headers)

    def send_json(self, method: str, path: str, value: object) -> Answer:
        return self._send(method, path, json=value)

    def send_form(self, path: str, fields: Fields) -> Answer:
        parts = [
            (name, (value.name, value.read_bytes()) if isinstance(value, Path) else (None, value))
            for name, value in fields
        ]
        return self._send("POST", path, files=parts)

    def send_file(self, path: str, file: Path, query: str = "") -> Answer:
        with file.open("rb") as body:
            return self._send("PUT", f"{path}{file.name}{query}", data=body)

    def _send(self, method: str, path: str, **options: Any) -> Answer:
        with requests.request(method, self.url + path, timeout=60, **options) as response:
            headers = {name.lower(): value for name, value in response.headers.items()}
            return Answer(response.status_code, headers, response.content)


class CurlCaller:
    """With curl, as a shell script would."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, headers: dict[str, str] | None = None) -> Answer:
        given = [f"-H{name}: {value}" for name, value in (headers or {}).items()]
        return self._curl(path, *given)

    def send_json(self, method: str, path: str, value: object) -> Answer:
        header = "-HContent-Type: application/json"
        return self._curl(path, "-X", method, header, "-d", json.dumps(value))

    def send_form(self, path: str, fields: Fields) -> Answer:
        given = []
        for name, value in fields:
            given += ["-F", f"{name}=@{value}" if isinstance(value, Path) else f"{name}={value}"]
        return self._curl(path, *given)

    def send_file(self, path: str, file: Path, query: str = "") -> Answer:
        # curl adds the file's name itself where the address ends with a slash.
        return self._curl(f"{path}{file.name}{query}" if query else path, "-T", str(file))

    def _curl(self, path: str, *arguments: str) -> Answer:
        with tempfile.TemporaryDirectory() as folder:
            head, body = Path(folder, "head"), Path(folder, "body")
            command = ["curl", "-sS", "--max-time", "60", "-D", str(head), "-o", str(body)]
            subprocess.run([*command, *arguments, self.url + path], check=True)
            # The last block of headers is the answer's: 100 Continue comes before it.
            last = head.read_text().replace("\r\n", "\n").strip().split("\n\n")[-1].split("\n")
            headers = {
                name.lower(): value for name, value in (line.split(": ", 1) for line in last[1:])
            }
            return Answer(
                int(last[0].split()[1]), headers, body.read_bytes() if body.exists() else b""
            )
