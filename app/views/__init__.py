from app.views import health, models, ollama, pages, tasks, uploads

BLUEPRINTS = (
    *(models.blueprint, uploads.blueprint, tasks.blueprint, ollama.blueprint),
    *(pages.blueprint, health.blueprint),
)
