"""Is the process there?"""

from flask import Blueprint

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict[str, str]:
    """Answers at once and touches nothing: the process serves requests."""
    return {"status": "ok"}
