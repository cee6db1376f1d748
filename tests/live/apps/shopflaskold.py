"""Celery in a Flask app, as many wrote it: the whole configuration of Flask is given to Celery."""
import os

from celery import Celery
from flask import Flask

flask_app = Flask(__name__)
flask_app.config.update(
    CELERY_BROKER_URL=os.environ["SHOP_BROKER"],
    CELERY_RESULT_BACKEND=os.environ["SHOP_RESULTS"],
    CELERY_TASK_RESULT_EXPIRES=3600,
    CELERY_ACCEPT_CONTENT=["json", "yaml"],
    CELERY_TRACK_STARTED=True,
)
app = Celery(flask_app.name, broker=flask_app.config["CELERY_BROKER_URL"])
app.conf.update(flask_app.config)
