"""The operator's process: settings, logs, signals, exit code."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Sequence

from finetune_operator.application import run
from finetune_operator.core import metrics
from finetune_operator.core.logs import set_up_logs
from finetune_operator.core.memory import settle
from finetune_operator.kube import AccessError, ApiError, Client
from finetune_operator.settings import Settings, read_settings

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until SIGTERM or SIGINT; 0 after one, 1 when the operator cannot work, with the reason in its log."""
    settings = read_settings(arguments)
    set_up_logs(settings.log_level)
    try:
        asyncio.run(_run(settings))
    except (AccessError, ApiError, OSError) as error:
        logger.error("the operator ends: %s", error)
        return 1
    return 0


async def _run(settings: Settings) -> None:
    settle()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with await Client.connect(
        settings.kubeconfig, qps=settings.qps, burst=settings.burst, observe=metrics.api_request
    ) as client:
        await run(settings, stop, client, settle)


if __name__ == "__main__":
    sys.exit(main())
