import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shopdjango.settings")

from celery import Celery

app = Celery("shopdjango")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
