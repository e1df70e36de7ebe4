"""gunicorn's settings."""

import os

from app.config import from_environ
from app.metrics import mark_process_dead
from app.worker import Worker, bounds

_settings = from_environ(os.environ)

wsgi_app = "wsgi:app"
bind = _settings["BIND"]
worker_class = Worker
workers = _settings["WORKERS"]
threads = _settings["THREADS"]
graceful_timeout = _settings["GRACEFUL_TIMEOUT"]
keepalive = 15
worker_connections = 4000
sendfile = False
bounds.request_seconds = _settings["REQUEST_TIMEOUT"]
bounds.unread_seconds = _settings["UNREAD_TIMEOUT"]
accesslog = "-"
logconfig_dict = {
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
}
control_socket_disable = True


def child_exit(server: object, worker: Worker) -> None:
    """Forget what a worker that is gone was doing."""
    mark_process_dead(worker.pid)  # type: ignore[no-untyped-call]
