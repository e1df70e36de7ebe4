from app.views import health, models, ollama, pages, tasks, uploads
from app.views.protocol import blobs, create

BLUEPRINTS = (
    *(models.blueprint, uploads.blueprint, tasks.blueprint, ollama.blueprint),
    *(pages.blueprint, health.blueprint, blobs.blueprint, create.blueprint),
)
