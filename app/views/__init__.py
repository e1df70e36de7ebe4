from app.views import health, models, ollama, pages, tasks

BLUEPRINTS = (
    *(models.blueprint, tasks.blueprint, ollama.blueprint),
    *(pages.blueprint, health.blueprint),
)
