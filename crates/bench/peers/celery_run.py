"""No-op tasks on Celery, its results in Redis. Prints one JSON line. Arguments: how many tasks."""

import json
import os
import subprocess
import sys
import time
from importlib.metadata import version

import redis
from celery_app import app, noop

tasks = int(sys.argv[1])
results = redis.Redis(unix_socket_path=os.environ["REDIS"], db=1)
command = [sys.executable, "-m", "celery", "-A", "celery_app", "worker", "--concurrency", str(os.cpu_count())]
command += ["--loglevel", "ERROR", "--without-gossip", "--without-mingle", "--without-heartbeat"]
worker = subprocess.Popen(command, stdout=sys.stderr)
try:
    noop.delay().get(timeout=60)
    results.flushdb()
    began = time.monotonic()
    ids = [noop.delay().id for _ in range(tasks)]
    while results.dbsize() < tasks:
        time.sleep(0.005)
    seconds = time.monotonic() - began
    stored = results.mget([app.backend.get_key_for_task(id) for id in ids])
    done = sum(json.loads(one)["status"] == "SUCCESS" for one in stored if one)
finally:
    worker.terminate()
    worker.wait(30)
print(json.dumps({"done": done, "seconds": seconds, "version": version("celery")}))
