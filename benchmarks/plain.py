"""What a Flask application does about an upload if nobody thinks about it: the benchmark's other
end. Served by `gunicorn benchmarks.plain:app`."""

import hashlib
import os
import zipfile
from pathlib import Path

from flask import Flask, request

app = Flask(__name__)
FOLDER = Path(os.environ.get("PLAIN_FOLDER", "."))


@app.post("/models/upload/")
def upload() -> dict[str, str]:
    """Save the form's file, extract it, read it all again for its hashes."""
    zipped = FOLDER / "upload.zip"
    request.files["Model"].save(zipped)
    model = FOLDER / "model"
    with zipfile.ZipFile(zipped) as archive:
        archive.extractall(model)
    digests = {}
    for path in model.iterdir():
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests
