"""One way to save training state in a process of its own: saves, loads and stalls on request and says what that cost.

    python checkpoint_peers.py <peer> <bucket> <bytes of state>

Reads `save 1`, `load 1` and `stall 1` from stdin and answers each with a line of JSON: seconds, processor seconds of
all threads, bytes. A save ends when the state is durable and found by whoever loads; a stall when training may change
the state again. The state is weights and Adam's two moments, in float32, of one rank on a CPU.
"""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver

from bench.store_peers import serve

PARAMETERS_OF_A_LAYER = 4 * 2**20
BYTES_OF_A_PARAMETER = 12
WIDTH = 2048


class Trainee:
    """A stack of matrices and its AdamW, after one update."""

    def __init__(self, size: int) -> None:
        layers = max(1, size // BYTES_OF_A_PARAMETER // PARAMETERS_OF_A_LAYER)
        torch.manual_seed(0)
        self.module = torch.nn.ParameterDict(
            {f"layer{number}": torch.nn.Parameter(torch.randn(WIDTH, WIDTH)) for number in range(layers)}
        )
        self.optimizer = torch.optim.AdamW(self.module.parameters(), foreach=False)
        for parameter in self.module.parameters():
            parameter.grad = torch.randn_like(parameter)
        self.optimizer.step()
        self.size = layers * WIDTH * WIDTH * BYTES_OF_A_PARAMETER

    def tensors(self) -> dict[str, torch.Tensor]:
        """All of the state, by name."""
        found: dict[str, torch.Tensor] = {}
        for name, parameter in self.module.items():
            state = self.optimizer.state[parameter]
            found |= {name: parameter.data, f"{name}.m": state["exp_avg"], f"{name}.v": state["exp_avg_sq"]}
        return found

    def forget(self) -> None:
        """Make the state another one."""
        for tensor in self.tensors().values():
            tensor.zero_()

    def check(self, total: float) -> None:
        """The state must be that whose sum this was."""
        assert self.sum() == total

    def sum(self) -> float:
        """What tells states apart."""
        return float(sum(tensor.double().abs().sum() for tensor in self.tensors().values()))


class Peer(Protocol):
    """A way to save; `folder` is new each time. `begin` returns when training may go on, `end` when all is durable."""

    def begin(self, folder: str, wait: bool) -> None:
        """Begin to save; with `wait`, return only when it is done."""
        ...

    def end(self) -> None:
        """Wait for what was begun."""
        ...

    def load(self, folder: str) -> None:
        """Bring the state back into the trainee's tensors."""
        ...


class Ours:
    """The product's: verified on the way up and down. A log entry makes the checkpoint exist."""

    def __init__(self, bucket: str, trainee: Trainee) -> None:
        from finetune_trainer.shares import Stage
        from finetune_trainer.store import Identity, RunLog, open_store

        self._engine: Any = SimpleNamespace(
            module=trainee.module, optimizer=trainee.optimizer, zero_optimization_stage=lambda: 0
        )
        self._log = RunLog(open_store(f"s3://{bucket}"), "ours")
        self._writer = self._log.claim(Identity(hash="0" * 64))
        self._stage = Stage(None, 0, 1, 1)
        self._saving = threading.Thread()

    def begin(self, folder: str, wait: bool) -> None:
        from finetune_trainer.engine.share import capture

        share, copied = capture(self._engine, 0, 1), threading.Event()
        self._saving = threading.Thread(target=self._save, args=(folder, share, copied))
        self._saving.start()
        copied.wait()
        if wait:
            self._saving.join()

    def _save(self, folder: str, share: Any, copied: threading.Event) -> None:
        from finetune_trainer.commit import Body
        from finetune_trainer.engine.snapshot import merge
        from finetune_trainer.model.fingerprint import ModelIdentity
        from finetune_trainer.staged import Draft
        from finetune_trainer.state import Progress

        model = ModelIdentity(weights="", tokenizer="")
        common: dict[str, Any] = {"progress": Progress(), "model": model, "dataset": "", "metrics": {}}
        draft = Draft(origin="", step=1, parent=None, zero_stage=0, optimizer_steps=1, **common)
        stored = self._stage.store(self._writer, self._writer.new_checkpoint(1), share, {}, draft, copied)
        body = Body(engine=merge([stored.slices], 0, 1), **common)
        self._writer.commit(1, None, stored.refs, body.model_dump(mode="json"))

    def end(self) -> None:
        self._saving.join()

    def load(self, folder: str) -> None:
        from finetune_trainer.commit import Body
        from finetune_trainer.engine.load import fill
        from finetune_trainer.source import CheckpointSource

        entry = self._log.checkpoints()[-1]
        source = CheckpointSource(self._log.journal.store, entry)
        fill(self._engine, Body.model_validate(entry.body).engine, 0, 1, source)


class Dcp:
    """torch.distributed.checkpoint with s3torchconnector's storage; it checks nothing that it reads."""

    def __init__(self, bucket: str, trainee: Trainee) -> None:
        library: Any = import_module("s3torchconnector.dcp")
        connector: Any = import_module("s3torchconnector")
        self._options = {
            "region": os.environ["AWS_DEFAULT_REGION"],
            "s3client_config": connector.S3ClientConfig(force_path_style=True),
        }
        self._reader, self._writer = library.S3StorageReader, library.S3StorageWriter
        self._bucket, self._trainee = bucket, trainee
        self._future: Any = None
        os.environ["S3_ENDPOINT_URL"] = os.environ["AWS_ENDPOINT_URL"]
        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)

    def begin(self, folder: str, wait: bool) -> None:
        writer = self._writer(path=f"s3://{self._bucket}/dcp/{folder}/", **self._options)
        if wait:
            state_dict_saver.save(self._trainee.tensors(), storage_writer=writer)
        else:
            self._future = state_dict_saver.async_save(self._trainee.tensors(), storage_writer=writer)

    def end(self) -> None:
        self._future.result()

    def load(self, folder: str) -> None:
        reader = self._reader(path=f"s3://{self._bucket}/dcp/{folder}/", **self._options)
        state_dict_loader.load(self._trainee.tensors(), storage_reader=reader)


class TorchSave:
    """torch.save into memory and boto3's upload, as checkpoints written to disk come to S3 (DeepSpeed, Trainer)."""

    def __init__(self, bucket: str, trainee: Trainee) -> None:
        import boto3

        self._client: Any = boto3.client("s3")
        self._bucket, self._trainee = bucket, trainee

    def begin(self, folder: str, wait: bool) -> None:
        held = io.BytesIO()
        torch.save(self._trainee.tensors(), held)
        held.seek(0)
        self._client.upload_fileobj(held, self._bucket, f"torch/{folder}/state.pt")

    def end(self) -> None:
        """It is done when `begin` returns."""

    def load(self, folder: str) -> None:
        held = io.BytesIO()
        self._client.download_fileobj(self._bucket, f"torch/{folder}/state.pt", held)
        held.seek(0)
        for name, tensor in torch.load(held, weights_only=True).items():
            self._trainee.tensors()[name].copy_(tensor)


PEERS: dict[str, Callable[[str, Trainee], Peer]] = {"ours": Ours, "dcp": Dcp, "torch.save": TorchSave}


class Turns:
    """Does what is asked for: each load is of the newest save, and must bring it back."""

    def __init__(self, peer: Peer, trainee: Trainee) -> None:
        self._peer, self._trainee = peer, trainee
        self._number, self._sum = 0, trainee.sum()

    def prepare(self, verb: str) -> None:
        """What is not measured, before."""
        if verb == "load":
            self._trainee.forget()
        else:
            self._number += 1

    def do(self, verb: str) -> int:
        """Do it; returns the bytes."""
        folder = f"{self._number:03d}"
        if verb == "load":
            self._peer.load(folder)
        else:
            self._peer.begin(folder, wait=verb == "save")
        return self._trainee.size

    def settle(self, verb: str) -> None:
        """What is not measured, after."""
        if verb == "load":
            self._trainee.check(self._sum)
        elif verb == "stall":
            self._peer.end()


def main() -> None:
    """Serve until stdin ends."""
    name, bucket, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
    trainee = Trainee(size)
    serve(Turns(PEERS[name](bucket, trainee), trainee))


if __name__ == "__main__":
    main()
