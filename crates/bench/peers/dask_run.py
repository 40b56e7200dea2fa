"""No-op tasks on Dask, workers in processes of their own. Prints one JSON line. Arguments: how many tasks."""

import json
import os
import sys
import time
from importlib.metadata import version

from distributed import Client, LocalCluster


def noop(n):
    return n


if __name__ == "__main__":
    tasks = int(sys.argv[1])
    with (
        LocalCluster(
            n_workers=os.cpu_count(), threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(noop, range(100), pure=False))
        began = time.monotonic()
        results = client.gather(client.map(noop, range(tasks), pure=False))
        seconds = time.monotonic() - began
    print(json.dumps({"done": len(set(results)), "seconds": seconds, "version": version("distributed")}))
