"""The Celery application of the live tests.

Every setting comes from LABAPP_CONFIG, a JSON object of Celery settings, so that one module serves every test.
"""
import json
import os
import time

from celery import Celery, chain
from celery.exceptions import Ignore
from kombu import Exchange, Queue
from kombu.common import Broadcast
from kombu.serialization import register

# JSON under a house's own name and content type, and something that nobody else can read.
register("house", json.dumps, json.loads, content_type="application/x-house", content_encoding="utf-8")
register("sealed", lambda data: "sealed:" + json.dumps(data)[::-1], lambda text: json.loads(text[7:][::-1]),
         content_type="application/x-sealed", content_encoding="utf-8")

config = json.loads(os.environ["LABAPP_CONFIG"])
if config.pop("with_broadcast", False):
    config["task_queues"] = [Queue("celery", Exchange("celery"), "celery"), Broadcast("everyone")]
app = Celery("labapp")
app.conf.update(config)


@app.task(name="labapp.add")
def add(a, b):
    return a + b


@app.task(name="labapp.total")
def total(numbers):
    return sum(numbers)


@app.task(name="labapp.sleep")
def sleep(seconds):
    time.sleep(seconds)
    return seconds


@app.task(name="labapp.fail")
def fail(reason="as asked"):
    raise ValueError(reason)


@app.task(name="labapp.retry", bind=True, max_retries=3)
def retry(self, countdown=3600):
    raise self.retry(countdown=countdown)


@app.task(name="labapp.skip")
def skip():
    raise Ignore()


@app.task(name="labapp.replace", bind=True)
def replace(self, seconds):
    raise self.replace(chain(sleep.si(seconds), add.si(1, 2)))


@app.task(name="labapp.ignored", ignore_result=True)
def ignored():
    return "never stored"


@app.task(name="labapp.ratelimited", rate_limit="1/h")
def ratelimited():
    return None


@app.task(name="labapp.late", acks_late=True, reject_on_worker_lost=True, time_limit=7200)
def late(seconds=0):
    time.sleep(seconds)


if os.environ.get("LABAPP_EXTRA"):

    @app.task(name="labapp.extra")
    def extra():
        return "known only where LABAPP_EXTRA is set"
