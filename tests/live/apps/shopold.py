"""An app with the names of Celery 3, and no namespace."""
import os

from celery import Celery


class Settings:
    BROKER_URL = os.environ["SHOP_BROKER"]
    CELERY_RESULT_BACKEND = os.environ["SHOP_RESULTS"]
    CELERY_DEFAULT_QUEUE = "old"
    CELERY_ACCEPT_CONTENT = ["pickle", "json"]
    CELERY_ACKS_LATE = True
    CELERYD_PREFETCH_MULTIPLIER = 2
    CELERY_TASK_RESULT_EXPIRES = None
    CELERY_ROUTES = ({"shop.mail": {"queue": "mail"}}, "shop.routers.route")


app = Celery("shopold")
app.config_from_object(Settings)
