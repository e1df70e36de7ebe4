"""The application, put together from its parts."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.middleware.proxy_fix import ProxyFix

from app import config as settings
from app.archive.limits import Limits
from app.modelfile.templates import Templates
from app.ollama.client import Ollama
from app.service.planner import Planner
from app.service.work import Service
from app.storage.directory import Storage
from app.storage.tasks import TaskLog
from app.views import BLUEPRINTS, assets, sentences, texts
from app.views.access import harden, refuse_other_hosts, refuse_other_origins, require_key
from app.views.failures import register_failures
from app.views.json import JSONProvider
from app.views.ollama_protocol.proxy import answer_for_ollama
from app.views.upload import UploadRequest


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """The application: settings from the environment, overridden by `config`.

    Makes the models directory where it isn't there, and removes what killed tasks left in it.
    Raises config.SettingError for a setting that can't be read.
    """
    pages_folder = data_folder("templates")
    app = Flask(__package__, template_folder=str(pages_folder), static_folder=None)
    app.config.from_mapping(settings.from_environ(os.environ))
    app.config.from_mapping(settings.from_mapping(config or {}))
    app.config["MAX_CONTENT_LENGTH"] = app.config.pop("MAX_UPLOAD_BYTES")  # Flask's name for it
    # Flask's own check of TRUSTED_HOSTS answers 400, and would refuse every address.
    app.config["NAMES"], app.config["TRUSTED_HOSTS"] = app.config["TRUSTED_HOSTS"], None
    app.extensions["service"] = _service(app.config)
    _add_views(app, pages_folder / "static")
    if count := app.config["TRUSTED_PROXIES"]:
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=count, x_proto=count, x_host=count, x_prefix=count
        )
    return app


def _service(config: Mapping[str, Any]) -> Service:
    """The work, with what it is done with, by the settings."""
    limits = Limits(entries=config["MAX_ENTRIES"])
    storage = Storage(Path(config["MODELS_DIR"]), limits, config["UPLOAD_LIFETIME"])
    storage.prepare()
    owners = [Path(config["MODELFILES_DIR"])] if config["MODELFILES_DIR"] else []
    planner = Planner(
        storage=storage,
        templates=Templates(*owners, data_folder("modelfiles")),
        merge=config["MERGE"],
        quantize=config["DEFAULT_QUANTIZE"],
        converter=config["CONVERTER"],
        ollama_models=config["OLLAMA_MODELS"],
    )
    tasks = TaskLog(storage.state_folder / "tasks")
    return Service(storage, tasks, planner, kept_clients(config), config["VERIFY"])


def _add_views(app: Flask, static_folder: Path) -> None:
    """Have the application answer: what is asked first of every request, then the routes."""
    app.request_class = UploadRequest
    app.json = JSONProvider(app)
    app.url_map.strict_slashes = False
    for check in (refuse_other_hosts, refuse_other_origins, require_key, answer_for_ollama):
        app.before_request(check)
    app.after_request(harden)
    assets.init_app(app, static_folder)
    texts.init_app(app)
    sentences.init_app(app)
    register_failures(app)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)


def kept_clients(config: Mapping[str, Any]) -> Callable[[], list[Ollama]]:
    """What gives the clients of the Ollama servers that are set, each made once."""
    made: dict[str, Ollama] = {}

    def clients() -> list[Ollama]:
        urls = config["OLLAMA_HOST"]
        for url in urls:
            if url not in made:
                made[url] = Ollama(url, config["CONNECT_TIMEOUT"], config["SILENCE_TIMEOUT"])
        return [made[url] for url in urls]

    return clients


def data_folder(name: str) -> Path:
    """The folder `name` of files that come along: inside the installed package, or beside it in a
    checkout."""
    package = Path(__file__).parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name
