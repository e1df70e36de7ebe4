"""The service's routes: pages, its own HTTP API, tus, and the part of Ollama's API it answers."""

from app.views import health, inspection, models, ollama, pages, preview, state, tasks, uploads
from app.views.ollama_protocol import blobs, create

BLUEPRINTS = (
    *(
        models.blueprint,
        inspection.blueprint,
        preview.blueprint,
        uploads.blueprint,
        tasks.blueprint,
        ollama.blueprint,
    ),
    *(pages.blueprint, state.blueprint, health.blueprint, blobs.blueprint, create.blueprint),
)
