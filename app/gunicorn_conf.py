"""gunicorn's settings."""

import os

from app.config import from_environ
from app.metrics import forget_process, share_between_processes
from app.worker import Worker, bounds

_settings = from_environ(os.environ)

_FORMATTERS = {
    "json": {"()": "app.logs.JSONFormatter"},
    "text": {
        "()": "app.logs.EscapingFormatter",
        "format": "%(asctime)s [%(process)d] [%(levelname)s] %(message)s",
        "datefmt": "[%Y-%m-%d %H:%M:%S %z]",
    },
}

wsgi_app = "wsgi:app"
bind = _settings["BIND"]
worker_class = Worker
workers = _settings["WORKERS"]
threads = _settings["THREADS"]
graceful_timeout = _settings["GRACEFUL_TIMEOUT"]
keepalive = 15
worker_connections = 4000
sendfile = False
# What proxies say is believed by MODEL_HANDLER_TRUSTED_PROXIES alone, in the application.
forwarded_allow_ips = ""
secure_scheme_headers: dict[str, str] = {}
forwarder_headers = ""
bounds.request_seconds = _settings["REQUEST_TIMEOUT"]
bounds.unread_seconds = _settings["UNREAD_TIMEOUT"]
accesslog = "-"
access_log_format = '%(h)s %(l)s %(u)s %(t)s "%(r)s" %(s)s %(b)s "%(f)s" "%(a)s" %({x-task-uuid}o)s'
logconfig_dict = {
    "formatters": {"generic": _FORMATTERS[_settings["LOG_FORMAT"]]},
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False},
        "gunicorn.access": {"level": "INFO", "handlers": ["console"], "propagate": False},
    },
}
control_socket_disable = True


def on_starting(server: object) -> None:
    """Count over all workers, which are forked from here."""
    share_between_processes()


def child_exit(server: object, worker: Worker) -> None:
    """Keep what a worker that is gone has counted, and forget what it was doing."""
    forget_process(worker.pid)
