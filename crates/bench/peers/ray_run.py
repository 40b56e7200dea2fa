"""No-op tasks on Ray. Prints one JSON line. Arguments: how many tasks, a directory for its session."""

import json
import os
import sys
import time
from importlib.metadata import version

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
import ray  # noqa: E402

tasks = int(sys.argv[1])
ray.init(
    num_cpus=os.cpu_count(),
    include_dashboard=False,
    log_to_driver=False,
    logging_level="ERROR",
    object_store_memory=200_000_000,
    _node_ip_address="127.0.0.1",
    _temp_dir=sys.argv[2],
)


@ray.remote
def noop(n):
    return n


ray.get([noop.remote(n) for n in range(100)])
began = time.monotonic()
results = ray.get([noop.remote(n) for n in range(tasks)])
seconds = time.monotonic() - began
ray.shutdown()
print(json.dumps({"done": len(set(results)), "seconds": seconds, "version": version("ray")}))
