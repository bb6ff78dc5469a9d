"""llama.cpp's own server in a process of its own, through the package ``xllamacpp``.

Run as ``python -m stepwell.bench.peer_server JSON``. Threads, flash attention and KV types are the
same as our server's; everything that is not named here is llama.cpp's default.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any


def serve(options: dict[str, Any]) -> None:
    """Serve until the process is told to end."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.hostnames = ["127.0.0.1"]
    params.port = options["port"]
    params.n_ctx = options["n_ctx"]
    params.n_parallel = options["n_parallel"]
    params.kv_unified = True
    params.cache_ram_mib = options["cache_ram_mib"]
    params.n_gpu_layers = 0
    params.cpuparams.n_threads = options["threads"]
    params.cpuparams_batch.n_threads = options["threads"]
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED
    if options["tuned"]:
        params.swa_full = True
        params.cache_idle_slots = False
    signal.signal(signal.SIGTERM, lambda signum, frame: sys.exit(0))
    server = xllamacpp.Server(params)  # held: it stops when it is collected
    print(f"listening on {server.listening_address}", flush=True)
    while True:
        signal.pause()


if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
