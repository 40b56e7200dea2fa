"""The application that the Celery worker and its client share. REDIS: the socket of the broker."""

import os

from celery import Celery

redis = "redis+socket://" + os.environ["REDIS"]
app = Celery("celery_app", broker=redis + "?virtual_host=0", backend=redis + "?virtual_host=1")
# A task that its worker was killed with is run again.
app.conf.task_acks_late = True
app.conf.worker_prefetch_multiplier = 64


@app.task
def noop():
    return None
