"""One process of clients: sends reports as the trainer does, each on a connection of its own, and prints how fast."""

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import time

from reports import body, commit, step


def main() -> None:
    """Read the order from stdin: port, ca_file, count, and (job, token) pairs that take turns."""
    order = json.load(sys.stdin)
    context = ssl.create_default_context(cafile=order["ca_file"])
    jobs, accepted, began = order["jobs"], 0, time.perf_counter()
    for number in range(order["count"]):
        job, token = jobs[number % len(jobs)]
        event = step(number, loss=2.1, epoch=0.1, tokens=4096, tokensPerSecond=812.5)
        sent = body(event, commit(number), stream=f"{os.getpid()}-{number}")
        connection = http.client.HTTPSConnection("localhost", order["port"], timeout=20, context=context)
        headers = {"Authorization": f"Bearer {token}", "Connection": "close"}
        connection.request("POST", f"/v1/jobs/{job}/progress", sent, headers)
        response = connection.getresponse()
        response.read()
        connection.close()
        accepted += response.status == http.client.OK
    print(json.dumps({"accepted": accepted, "seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    main()
