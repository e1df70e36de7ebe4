"""What a test can make the stand-in do: record, hold, fail."""

import threading
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Recorded:
    """A request as it arrived. `body_bytes` grows while a blob's body is read."""

    method: str
    path: str
    json: Any = None
    body_bytes: int = 0

    @property
    def is_probe(self) -> bool:
        """Whether it only asks if adapters are taken: gates and faults let it pass."""
        return isinstance(self.json, dict) and self.json.get("model") == "!"


@dataclass
class Gate:
    """Holds requests until it is opened. As a context manager it opens at the block's end."""

    path: str
    method: str | None = None
    _reached: threading.Event = field(default_factory=threading.Event)
    _opened: threading.Event = field(default_factory=threading.Event)

    def wait_reached(self, timeout: float = 10) -> bool:
        """Wait until a request stands at the gate: True. Raises TimeoutError after `timeout` s."""
        if not self._reached.wait(timeout):
            raise TimeoutError(f"no request reached the gate at {self.path}")
        return True

    def open(self) -> None:
        """Let those that wait pass, and all that come."""
        self._opened.set()

    def stand(self) -> None:
        """Called by the server for a request that the gate is for."""
        self._reached.set()
        self._opened.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.open()


@dataclass(frozen=True)
class Fault:
    """An answer in place of the real one."""

    path: str
    method: str | None
    status: int
    body: bytes
    lines: list[bytes] | None
    reset: bool


@dataclass
class Script:
    """The gates and faults that wait for a request, and the requests so far."""

    requests: list[Recorded] = field(default_factory=list)
    _gates: list[Gate] = field(default_factory=list)
    _faults: list[Fault] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def record(self, request: Recorded) -> None:
        """Note a request's arrival."""
        with self._lock:
            self.requests.append(request)

    def add_gate(self, gate: Gate) -> Gate:
        """Hold the requests that `gate` is for, from now on."""
        with self._lock:
            self._gates.append(gate)
        return gate

    def add_fault(self, fault: Fault) -> None:
        """Answer one request, the next that `fault` is for, with it."""
        with self._lock:
            self._faults.append(fault)

    def hold(self, request: Recorded) -> None:
        """Wait at each gate that is for `request`."""
        with self._lock:
            gates = [gate for gate in self._gates if _is_for(gate, request)]
        for gate in gates:
            gate.stand()

    def take_fault(self, request: Recorded) -> Fault | None:
        """The first fault that is for `request`, which is then used up."""
        with self._lock:
            for fault in self._faults:
                if _is_for(fault, request):
                    self._faults.remove(fault)
                    return fault
        return None

    def open_all(self) -> None:
        """Open every gate."""
        with self._lock:
            gates = list(self._gates)
        for gate in gates:
            gate.open()


def _is_for(plan: Gate | Fault, request: Recorded) -> bool:
    if request.is_probe:
        return False
    return request.path.startswith(plan.path) and plan.method in (None, request.method)
