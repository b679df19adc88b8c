"""A job that cannot fit into the runtime's GPUs is refused before any pod, with the numbers."""

from __future__ import annotations

from typing import Any

from finetune_operator.api.reasons import Reason
from finetune_operator.core import Store
from finetune_operator.kube.resources import RUNTIMES
from finetune_operator.look import BY_JOB, Caches, Looker
from finetune_operator.render import check_memory
from finetune_trainer.launch.fitting import GPU_MEMORY, GPU_PRODUCT
from looks import T0, make_job
from rendering import render, runtime, templates

H100 = {"product": "NVIDIA-H100-80GB-HBM3", "memory": "80Gi"}
KNOWN = {"uri": "hf://meta-llama/Llama-3.1-70B@main"}
ON_EIGHT: dict[str, Any] = {
    "workers": {"replicas": 1, "gpusPerReplica": 8},
    "training": {"maxSteps": 100, "globalBatchSize": 8, "learningRate": 1.0e-5},
    "deepspeed": {"zeroStage": 3},
}
FULL: dict[str, Any] = {"method": {"type": "Full"}, "output": {"uri": "s3://models/out", "format": "Full"}}


def problem_of(gpu: dict[str, str], **spec: Any) -> str | None:
    """What is said of a job of 70B parameters on a runtime with such GPUs."""
    job = make_job(model=KNOWN, **ON_EIGHT, **spec)
    found = check_memory(job.manifest, runtime(gpu=gpu))
    return None if found is None else str(found)


def test_full_fine_tuning_of_70b_does_not_fit_into_eight_gpus() -> None:
    text = problem_of(H100, **FULL)
    assert text is not None
    assert "needs at least 1" in text
    assert "NVIDIA-H100-80GB-HBM3 has 80.0 GiB" in text
    assert "optimizer moments 65.7 GiB" in text  # 8 bytes for each of 70.55e9 parameters, over 8 ranks
    assert "deepspeed.offloadOptimizer: CPU" in text


def test_a_known_product_needs_no_memory_in_the_runtime() -> None:
    text = problem_of({"product": "Tesla-T4"}, **FULL)
    assert text is not None
    assert "Tesla-T4 has 14.5 GiB" in text


def test_what_may_fit_or_is_not_known_is_let_pass() -> None:
    assert problem_of(H100) is None  # LoRA
    assert problem_of({}, **FULL) is None
    other = make_job(model={"uri": "s3://models/some-70b"}, **ON_EIGHT, **FULL)
    assert check_memory(other.manifest, runtime(gpu={"memory": "1Gi"})) is None


def test_the_head_is_told_of_the_gpus() -> None:
    pods = templates(render(on=runtime(gpu=H100)))
    found = {one["name"]: one.get("value") for one in pods["head"]["spec"]["containers"][0]["env"]}
    assert (found[GPU_MEMORY], found[GPU_PRODUCT]) == (str(80 * 2**30), "NVIDIA-H100-80GB-HBM3")
    pods = templates(render(on=runtime(gpu={"product": "Tesla-T4"})))
    by_product = {one["name"]: one.get("value") for one in pods["head"]["spec"]["containers"][0]["env"]}
    assert (by_product[GPU_MEMORY], by_product[GPU_PRODUCT]) == (str(int(14.5 * 2**30)), "Tesla-T4")
    plain = {one["name"] for one in templates(render())["head"]["spec"]["containers"][0]["env"]}
    assert not {GPU_MEMORY, GPU_PRODUCT} & plain


def test_such_a_job_waits_with_a_users_error_until_manifest_or_runtime_change() -> None:
    runtimes, nothing = Store(), Store({BY_JOB: lambda one: []})
    looker = Looker(Caches(Store(), runtimes, nothing, nothing, nothing), lambda uid: None, lambda: T0, T0)
    seen = []
    for number, memory in enumerate(("80Gi", "800Gi"), start=1):
        spec = {"image": "registry/trainer:1", "gpu": {"memory": memory}}
        metadata = {"name": "default", "uid": "r", "resourceVersion": str(number)}
        runtimes.put({"apiVersion": RUNTIMES.api_version, "kind": RUNTIMES.kind, "metadata": metadata, "spec": spec})
        seen.append(looker.look(make_job(model=KNOWN, **ON_EIGHT, **FULL)).obstacle)
    first, second = seen
    assert first is not None
    assert first.reason == Reason.USER_ERROR
    assert "spec.workers: the job needs at least" in first.message
    assert second is None
