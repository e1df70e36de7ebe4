from app.gunicorn_conf import *  # noqa: F403
