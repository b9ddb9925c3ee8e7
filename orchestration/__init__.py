"""How events are routed and runs are kept: plan, decisions, store, scripts. Knows neither Celery nor user classes."""
