import json
import os
import re
import sys

sys.path.insert(0, os.getcwd())

from celery.app.utils import find_app
from kombu import Exchange, Queue
from kombu.common import Broadcast

SETTINGS = [
    'task_default_queue', 'task_default_queue_type', 'task_default_exchange', 'task_default_exchange_type',
    'task_default_routing_key', 'task_create_missing_queues', 'task_create_missing_queue_type',
    'task_create_missing_queue_exchange_type', 'task_queues', 'task_queue_max_priority', 'task_routes',
]
ARGUMENTS = [('expires', 'x-expires', 1000), ('message_ttl', 'x-message-ttl', 1000), ('max_length', 'x-max-length', 1),
             ('max_length_bytes', 'x-max-length-bytes', 1), ('max_priority', 'x-max-priority', 1)]


def plain(value):
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Queue):
        arguments = dict(value.queue_arguments or {})
        for name, key, factor in ARGUMENTS:
            number = getattr(value, name, None)
            if number is not None:
                arguments[key] = int(number * factor)
        if value.bindings:
            return {'$unknown': 'a queue with several bindings'}
        exchange = value.exchange or Exchange('')
        return {'$queue': {'name': value.name, 'exchange': exchange.name, 'exchange_type': exchange.type,
                           'routing_key': value.routing_key, 'alias': value.alias, 'durable': value.durable,
                           'auto_delete': value.auto_delete, 'broadcast': isinstance(value, Broadcast),
                           'arguments': arguments}}
    if isinstance(value, Exchange):
        return value.name
    if isinstance(value, re.Pattern):
        return {'$regex': value.pattern} if value.flags == re.compile('').flags else {'$unknown': 'a pattern with flags'}
    if isinstance(value, dict):
        return {'$pairs': [[plain(key), plain(item)] for key, item in value.items()]}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    return {'$unknown': type(value).__name__}


app = find_app(sys.argv[1])
app.loader.import_default_modules()
app.finalize()
settings = {}
for name in SETTINGS:
    try:
        value = getattr(app.conf, name)
    except (AttributeError, KeyError):
        continue
    if name in ('task_default_exchange', 'task_default_routing_key') and not app.conf.value_set_for(name):
        value = None
    settings[name] = plain(value)
tasks = {}
for name, task in app.tasks.items():
    if not name.startswith('celery.'):
        options = {key: plain(getattr(task, key, None)) for key in ('queue', 'exchange', 'routing_key')}
        tasks[name] = {key: value for key, value in options.items() if value is not None}
print('\ncelery-doctor-export:' + json.dumps({'settings': settings, 'tasks': tasks}), flush=True)
