"""Celery in a Flask app, as Flask's guide writes it: a dictionary of new names in the app's configuration."""
import os
from datetime import timedelta

from celery import Celery
from flask import Flask

flask_app = Flask(__name__)
flask_app.config.from_mapping(
    CELERY={
        "broker_url": os.environ["SHOP_BROKER"],
        "result_backend": os.environ["SHOP_RESULTS"],
        "task_ignore_result": True,
        "result_expires": timedelta(hours=2),
        "task_routes": {"shop.mail": "mail", "shop.*": {"queue": "shop"}},
    },
)
app = Celery(flask_app.name)
app.config_from_object(flask_app.config["CELERY"])
app.set_default()
flask_app.extensions["celery"] = app
# What is set on the app itself wins.
app.conf.task_default_queue = "flask"
