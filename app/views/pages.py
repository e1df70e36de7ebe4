"""The page for people."""

from flask import Blueprint, render_template

blueprint = Blueprint("pages", __name__)


@blueprint.get("/")
def index() -> str:
    """A form that deploys a zip."""
    return render_template("index.html")
