"""gunicorn's settings."""

import gc
import os
import sys
from typing import Any, NoReturn

from gunicorn import systemd

from app.config import SettingError, from_environ
from app.metrics import forget_process, share_between_processes
from app.start import check_address, check_folders, say_what_is_served, say_which_ollamas
from app.worker import Worker, bounds


def _refuse(error: SettingError) -> NoReturn:
    print(f"Error: {error}", file=sys.stderr)
    sys.exit(2)


try:
    _settings = from_environ(os.environ)
    check_folders(_settings)
except SettingError as error:
    _refuse(error)

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
preload_app = True
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
    "filters": {"news": {"()": "app.logs.NewsOnly"}},
    "root": {"level": "INFO", "handlers": ["console"]},
    "loggers": {
        "gunicorn.error": {"level": "INFO", "handlers": ["console"], "propagate": False},
        "gunicorn.access": {
            "level": "INFO",
            "handlers": ["console"],
            "filters": ["news"],
            "propagate": False,
        },
    },
}
control_socket_disable = True


def on_starting(server: Any) -> None:
    """Refuse an address where nobody can listen; count over all workers, which are forked from
    here."""
    config = server.cfg
    is_open = server.master_pid or systemd.listen_fds(unset_environment=False)
    try:
        for text, address in () if is_open else zip(config.bind, config.address, strict=True):
            source = "MODEL_HANDLER_BIND" if text == bind else "--bind"
            check_address(text, address, source)
    except SettingError as error:
        _refuse(error)
    share_between_processes()


def when_ready(server: Any) -> None:
    """Say what is served, and where; have no worker's garbage collector look at what is loaded."""
    gc.collect()
    gc.freeze()
    not_applied = []
    if server.systemd and os.environ.get("MODEL_HANDLER_BIND"):
        not_applied.append("MODEL_HANDLER_BIND")
    say_what_is_served(_settings, map(str, server.LISTENERS), not_applied)


def post_worker_init(worker: Any) -> None:
    """Say, once, which folders aren't listed, and which Ollama servers there are; nothing waits for
    them. Later workers remove what one before has left that was killed."""
    service = worker.wsgi.extensions["service"]
    if worker.age == 1:
        service.say_unlisted()
        say_which_ollamas(service.ollamas())
    else:
        service.storage.prepare()


def child_exit(server: object, worker: Worker) -> None:
    """Keep what a worker that is gone has counted, and forget what it was doing."""
    forget_process(worker.pid)
