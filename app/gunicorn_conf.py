"""gunicorn's settings: threads, so that an upload in progress never delays another request."""

import os

from app.config import from_environ

_settings = from_environ(os.environ)

wsgi_app = "wsgi:app"
bind = _settings["BIND"]
worker_class = "gthread"
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
