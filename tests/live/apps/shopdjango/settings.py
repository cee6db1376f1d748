"""Settings of a Django project, as Celery's guide for Django writes them."""
import os

SECRET_KEY = "a secret of the test"
INSTALLED_APPS = []
USE_TZ = True
TIME_ZONE = "Europe/Berlin"

# The environment of the worker says another one, which wins.
CELERY_BROKER_URL = os.environ["SHOP_BROKER"]
CELERY_RESULT_BACKEND = os.environ["SHOP_RESULTS"].rsplit("/", 1)[0] + "/9"
CELERY_ACCEPT_CONTENT = {"json", "pickle"}
CELERY_TASK_DEFAULT_QUEUE = "django"
CELERY_TASK_ROUTES = {"shop.*": {"queue": "shop", "routing_key": "shop.all"}}
CELERY_RESULT_EXPIRES = 5
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_RESULT_BACKEND_TRANSPORT_OPTIONS = {"global_keyprefix": "shop"}
# Not Celery's, though it looks so.
CELERY_TASK_DEFAULT_QUEUES = "other"
MY_CELERY_TASK_TRACK_STARTED = True
