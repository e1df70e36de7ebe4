"""gunicorn's settings: threads, so that an upload in progress never delays another request."""

import os

from gunicorn.workers.gthread import ThreadWorker

from app.config import from_environ
from app.metrics import mark_process_dead


class Worker(ThreadWorker):  # type: ignore[misc]
    """A worker that, told to stop, refuses new connections at once: gunicorn's own keeps its
    listening socket open while requests end, and connections wait in its queue for nothing."""

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            for listener in self.sockets:
                listener.close()


_settings = from_environ(os.environ)

wsgi_app = "wsgi:app"
bind = _settings["BIND"]
worker_class = Worker
workers = _settings["WORKERS"]
threads = _settings["THREADS"]
graceful_timeout = _settings["GRACEFUL_TIMEOUT"]
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
