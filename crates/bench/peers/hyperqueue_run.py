"""Real processes on HyperQueue: server and worker in this process. Prints one JSON line.

Arguments: how many tasks, processes at once, a directory for its files.
"""

import json
import os
import sys
import time
from importlib.metadata import version

tasks, at_once, home = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
# Its bar of progress is no figure.
os.environ["TQDM_DISABLE"] = "1"
from hyperqueue import Job, LocalCluster  # noqa: E402
from hyperqueue.cluster import WorkerConfig  # noqa: E402


def run(client, count):
    job = Job(default_workdir=home)
    for _ in range(count):
        job.program(["/bin/true"], stdout=None, stderr=None)
    began = time.monotonic()
    submitted = client.submit(job)
    assert client.wait_for_jobs([submitted])
    return time.monotonic() - began


with LocalCluster(home, WorkerConfig(cores=at_once)) as cluster:
    client = cluster.client()
    run(client, 50)
    seconds = run(client, tasks)
    # A wait that returns true has seen every task finish.
    print(json.dumps({"done": tasks, "seconds": seconds, "version": version("hyperqueue")}))
