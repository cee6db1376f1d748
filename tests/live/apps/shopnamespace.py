"""An app whose settings stand under a namespace of several words, one that makes Celery star their values too."""
import os

from celery import Celery


class Settings:
    MY_API_BROKER_URL = os.environ["SHOP_BROKER"]
    MY_API_RESULT_BACKEND = os.environ["SHOP_RESULTS"]
    MY_API_TASK_DEFAULT_QUEUE = "api"
    MY_API_RESULT_EXPIRES = 60
    MY_API_TASK_ROUTES = {}


app = Celery("shopnamespace")
app.config_from_object(Settings, namespace="MY_API")
app.conf.task_default_queue = "api.late"
