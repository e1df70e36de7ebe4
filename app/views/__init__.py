from app.views import health, models, pages, tasks

BLUEPRINTS = (models.blueprint, tasks.blueprint, pages.blueprint, health.blueprint)
