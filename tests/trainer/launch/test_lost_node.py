"""Ranks that went with their node, told apart from ranks that were killed by the words of the installed Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from ray.core.generated.common_pb2 import ActorDiedErrorContext  # type: ignore[attr-defined]  # made by protobuf
from ray.exceptions import ActorDiedError

from finetune_trainer.launch.outcome import RunFailed
from finetune_trainer.launch.progress import Channel
from finetune_trainer.launch.ray_worker import NODE_DIED, RestartPolicy

NOBODY = Channel("http://127.0.0.1:9/progress")


def died(message: str) -> ActorDiedError:
    context = ActorDiedErrorContext(error_message=message, actor_id=b"0" * 16, pid=77, node_ip_address="10.0.0.7")
    return ActorDiedError(context)


def reason(message: str) -> str:
    """The class of the failure that ends a run of which no rank may be started again."""
    with pytest.raises(RunFailed) as caught:
        RestartPolicy(0, NOBODY).after_exception(None, {1: died(message)})
    assert "rank 1" in str(caught.value) and "ip 10.0.0.7" in str(caught.value)
    return caught.value.failure.reason


def test_a_rank_whose_node_is_lost_says_so() -> None:
    assert reason(f"The actor died because {NODE_DIED}. Node Id: 0af1") == "NodeLost"
    assert reason("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR") == "Killed"


def test_ray_still_writes_the_words_that_a_lost_node_is_known_by() -> None:
    server = Path(ray.__file__).parent / "core" / "src" / "ray" / "gcs" / "gcs_server"
    assert f"The actor died because {NODE_DIED}".encode() in server.read_bytes()
