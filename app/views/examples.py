"""An example of each route, and the lines that the fixed ones answer with: for the description of
the service, and so for /docs. `$service` is the service's address; the tests run them in order."""

from app.service.lines import Script
from app.service.work import (
    CREATE,
    DEPLOY_CREATE,
    DEPLOY_UPLOAD,
    FAILED_CREATE,
    FAILED_UPLOAD,
    UPLOAD,
)

_JSON = "-H 'Content-Type: application/json'"
_TUS = "-H 'Tus-Resumable: 1.0.0'"
_CHUNK = "-H 'Content-Type: application/offset+octet-stream'"

EXAMPLES = {
    "POST /models/upload/": "curl -F Model=@my_model.zip $service/models/upload/",
    "PUT /models/upload/{filename}": "curl -T my_model.zip $service/models/upload/my_model.zip",
    "POST /models/check/": "curl -F Model=@my_model.zip $service/models/check/",
    "POST /models/preview/": (
        "size=$(stat -c %s base.gguf); head=$((size < 4000000 ? size : 4000000))\n"
        "{ echo '{\"files\": [{\"name\": \"base.gguf\", \"size\": '$size', \"head\": '$head'}]}'\n"
        "  head -c $head base.gguf; } |\n"
        "  curl -H 'Content-Type: application/octet-stream' --data-binary @- \\\n"
        "    $service/models/preview/"
    ),
    "POST /models/create/": (
        f"curl {_JSON} $service/models/create/ \\\n"
        '  -d \'{"model": "my_model", "model_name_on_ollama": "my-model"}\''
    ),
    "POST /models/deploy/": (
        "curl -N -F model_name_on_ollama=my-model -F Model=@my_model.zip $service/models/deploy/"
    ),
    "PUT /models/deploy/{filename}": (
        "curl -N -T my_model.zip"
        ' "$service/models/deploy/my_model.zip?model_name_on_ollama=my-model"'
    ),
    "GET /models/": "curl $service/models/",
    "GET /models/{name}/": "curl $service/models/my_model/",
    "GET /models/{name}/modelfile": "curl $service/models/my_model/modelfile",
    "POST /models/{name}/modelfile": (
        f"curl {_JSON} $service/models/my_model/modelfile -d '{{\"system\": \"You are terse.\"}}'"
    ),
    "GET /models/{name}/download": (
        "curl -o copy_of_my_model.zip $service/models/my_model/download"
    ),
    "POST /models/missing/": (
        f"curl {_JSON} $service/models/missing/ -d '{{\"files\": []}}'"
    ),
    "POST /uploads/": (
        "size=$(stat -c %s my_model.zip); name=$(printf my_model.zip | base64)\n"
        f"curl -i -X POST {_TUS} -H \"Upload-Length: $size\" \\\n"
        '  -H "Upload-Metadata: filename $name" $service/uploads/'
    ),
    "PATCH /uploads/{upload_id}": (
        f"curl -X PATCH -T my_model.zip {_TUS} {_CHUNK} \\\n"
        "  -H 'Upload-Offset: 0' $service/uploads/$upload"
    ),
    "GET /uploads/{upload_id}": f"curl -I {_TUS} $service/uploads/$upload",
    "POST /uploads/{upload_id}": (
        f"curl -i -X POST {_TUS} -H 'X-HTTP-Method-Override: HEAD' $service/uploads/$upload"
    ),
    "DELETE /uploads/{upload_id}": f"curl -X DELETE {_TUS} $service/uploads/$upload",
    "GET /state/": "curl $service/state/",
    "GET /ollama/": "curl $service/ollama/",
    "POST /ollama/generate": (
        f"curl -N {_JSON} $service/ollama/generate \\\n"
        '  -d \'{"model": "my-model", "prompt": "Hello"}\''
    ),
    "POST /ollama/chat": (
        f"curl -N {_JSON} $service/ollama/chat \\\n"
        '  -d \'{"model": "my-model", "messages": [{"role": "user", "content": "Hello"}]}\''
    ),
    "GET /api/version": "curl $service/api/version",
    "POST /api/blobs/{digest}": (
        "digest=$(sha256sum my_model.zip | cut -c -64)\n"
        "curl -T my_model.zip -X POST $service/api/blobs/sha256:$digest"
    ),
    "POST /api/create": (
        f"curl -N {_JSON} $service/api/create -d '{{\"model\": \"terse\", \"from\": \"my-model\",\n"
        "  \"system\": \"You are terse.\"}'"
    ),
    "GET /list": "curl $service/list",
    "GET /tasks/": "curl $service/tasks/",
    "GET /tasks/{uuid}": "curl $service/tasks/$task",
    "GET /": "curl $service/",
    "POST /deploy": (
        "curl -F model_name_on_ollama=my-model -F Model=@my_model.zip $service/deploy"
    ),
    "GET /healthz": "curl $service/healthz",
    "GET /readyz": "curl $service/readyz",
    "GET /metrics": "curl $service/metrics",
    "GET /openapi.json": "curl $service/openapi.json",
    "GET /docs": "curl $service/docs",
    "POST /delete": (
        "curl -T my_model.zip $service/models/upload/old.zip\n"
        "curl -d model=old $service/delete"
    ),
    "DELETE /models/": (
        f"curl -X DELETE {_JSON} $service/models/ -d '{{\"model\": \"my_model\"}}'"
    ),
}  # fmt: skip

Lines = list[dict[str, object]]
_FILE, _MODEL = {"model": "FILE"}, {"model": "NAME"}
_MADE = {"model": "NAME", "model_name_on_ollama": "NEW"}


def _of(script: Script, details: dict[str, str], last: dict[str, str] | None = None) -> Lines:
    """The three lines of a half of the work."""
    steps = (script.begin, script.middle, script.success)
    said = (details, details, last or details)
    return [
        {"action": action, "ratio": ratio, "details": each}
        for (action, ratio), each in zip(steps, said, strict=True)
    ]


def _deleting(action: str, ratio: float) -> dict[str, object]:
    return {"action": action, "ratio": ratio, "details": {"model_name": "NAME"}}


_UPLOAD, _CREATE = _of(UPLOAD, _FILE), _of(CREATE, _MODEL, _MADE)
_DEPLOY = [*_of(DEPLOY_UPLOAD, _FILE), *_of(DEPLOY_CREATE, _MODEL, _MADE)]
LINES: dict[str, Lines] = {
    "GET /models/": [{"action": "Get model.", "ratio": "k/n", "details": _MODEL}],
    "DELETE /models/": [
        _deleting("Start delete model.", 0.5),
        _deleting("Success delete model.", 1.0),
    ],
    "POST /models/upload/": _UPLOAD,
    "PUT /models/upload/{filename}": _UPLOAD,
    "POST /models/create/": _CREATE,
    "POST /models/deploy/": _DEPLOY,
    "PUT /models/deploy/{filename}": _DEPLOY,
}
"""In order; FILE is the uploaded file's or folder's name, NAME the model's, NEW its name on Ollama.
The ratio's key is `progress` in deploy, and `progress_ratio` elsewhere."""

FAILURES = {
    "GET /models/": "Failed get model list.",
    "DELETE /models/": "Failed delete model.",
    "POST /models/upload/": FAILED_UPLOAD,
    "PUT /models/upload/{filename}": FAILED_UPLOAD,
    "POST /models/create/": FAILED_CREATE,
    "POST /models/deploy/": f"{FAILED_UPLOAD} / {FAILED_CREATE}",
    "PUT /models/deploy/{filename}": f"{FAILED_UPLOAD} / {FAILED_CREATE}",
}
"""The action of the line that says what failed."""
