"""Pods: what they get, what they are allowed, how they are stopped, and what of it a runtime may change."""

from __future__ import annotations

import pytest

from finetune_operator.render.places import HOME, SCRATCH, SHARED_MEMORY, TEMPORARY, TOKEN_DIR
from finetune_trainer.spec.quantity import memory_bytes
from looks import UID, make_job
from rendering import Object, containers, example, render, runtime, templates, values, with_workers


def test_workers_get_what_the_job_asks_for_and_else_what_the_runtime_has() -> None:
    asked = containers(render(with_workers(2, 4, "32"), runtime(worker={"cpu": "8"})))["worker"]["resources"]
    assert asked["limits"] == asked["requests"] == {"cpu": "32", "memory": "64Gi", "nvidia.com/gpu": "4"}
    left_open = containers(render(with_workers(2, 0), runtime(worker={"cpu": "8", "memory": "32Gi"})))["worker"]
    assert left_open["resources"]["limits"] == {"cpu": "8", "memory": "32Gi"}
    unsaid = containers(render(with_workers(2, 0), runtime(worker={"labels": {"a": "b"}})))["worker"]
    assert unsaid["resources"]["limits"] == {"cpu": "4", "memory": "16Gi"}


def test_only_workers_with_gpus_go_to_the_nodes_with_gpus() -> None:
    on = runtime(gpu={"resourceName": "amd.com/gpu", "product": "MI300X"})
    with_gpus, without = templates(render(with_workers(1, 8), on)), templates(render(with_workers(1, 0), on))
    toleration = {"key": "amd.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    assert with_gpus["worker"]["spec"]["nodeSelector"] == {"nvidia.com/gpu.product": "MI300X"}
    assert toleration in with_gpus["worker"]["spec"]["tolerations"]
    assert with_gpus["worker"]["spec"]["containers"][0]["resources"]["limits"]["amd.com/gpu"] == "8"
    for template in (with_gpus["head"], without["worker"], without["head"]):
        assert "nodeSelector" not in template["spec"]
        assert toleration not in template["spec"]["tolerations"]
        assert "amd.com/gpu" not in template["spec"]["containers"][0]["resources"]["limits"]


@pytest.mark.parametrize(("memory", "size"), [("64Gi", "8Gi"), ("16Gi", "8Gi"), ("4Gi", "2048Mi")])
def test_shared_memory_leaves_half_the_pods_memory(memory: str, size: str) -> None:
    spec = templates(render(on=runtime(worker={"memory": memory})))["worker"]["spec"]
    (name,) = (one["name"] for one in spec["containers"][0]["volumeMounts"] if one["mountPath"] == SHARED_MEMORY)
    (volume,) = (one for one in spec["volumes"] if one["name"] == name)
    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": size}
    assert memory_bytes(size) * 2 <= memory_bytes(memory)


def test_each_rank_computes_with_its_part_of_the_containers_cores() -> None:
    cores = [(0, "4"), (4, "32"), (8, "4"), (0, "500m")]
    threads = [
        values(containers(render(with_workers(1, gpus, cpu)))["worker"])["OMP_NUM_THREADS"] for gpus, cpu in cores
    ]
    assert threads == ["4", "8", "1", "1"]


def test_everything_that_is_written_to_is_a_volume_because_the_image_is_read_only() -> None:
    for container in containers(render()).values():
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        writable = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        assert writable == {HOME, SCRATCH, SHARED_MEMORY, TEMPORARY}
        told = values(container)
        assert (told["HOME"], told["TMPDIR"]) == (HOME, TEMPORARY)


def test_only_the_head_holds_the_token_which_is_for_this_job_alone() -> None:
    pods = templates(render())
    tokens = [
        source["serviceAccountToken"]
        for template in pods.values()
        for volume in template["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    ]
    assert [token["audience"] for token in tokens] == [f"finetune.dev/{UID}"]
    mounted = {role: [one["mountPath"] for one in box["volumeMounts"]] for role, box in containers(render()).items()}
    assert [TOKEN_DIR in mounted[role] for role in ("head", "worker")] == [True, False]
    assert {template["spec"]["automountServiceAccountToken"] for template in pods.values()} == {False}


def test_the_jobs_own_service_account_is_used_and_none_is_made() -> None:
    rendered = render(make_job(serviceAccountName="trainer"))
    assert "ServiceAccount" not in rendered
    assert {template["spec"]["serviceAccountName"] for template in templates(rendered).values()} == {"trainer"}
    made = render()
    name = made["ServiceAccount"]["metadata"]["name"]
    assert {template["spec"]["serviceAccountName"] for template in templates(made).values()} == {name}


def test_secrets_are_named_and_never_read() -> None:
    job = make_job(storage={"secretRef": {"name": "team-a-s3"}}, hub={"tokenSecretRef": {"name": "hub", "key": "hf"}})
    for container in containers(render(job)).values():
        told = values(container)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            assert told[name] == {"secretKeyRef": {"name": "team-a-s3", "key": name}}
        assert told["AWS_SESSION_TOKEN"]["secretKeyRef"]["optional"] is True
        assert told["HF_TOKEN"] == {"secretKeyRef": {"name": "hub", "key": "hf"}}
        assert told["AWS_EC2_METADATA_DISABLED"] == "true"


def test_secrets_of_trackers_reach_the_workers_alone() -> None:
    chosen = {
        "mlflow": {"uri": "https://mlflow.example.com", "secretRef": {"name": "flow"}},
        "wandb": {"project": "bots", "secretRef": {"name": "wb"}},
    }
    boxes = containers(render(make_job(trackers=chosen)))
    told = values(boxes["worker"])
    assert told["WANDB_API_KEY"] == {"secretKeyRef": {"name": "wb", "key": "WANDB_API_KEY"}}
    for name in ("MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
        assert told[name] == {"secretKeyRef": {"name": "flow", "key": name, "optional": True}}
    assert not [name for name in values(boxes["head"]) if name.startswith(("WANDB", "MLFLOW"))]


def test_the_store_is_the_runtimes() -> None:
    storage = {"endpoint": "https://s3.example", "region": "eu-1", "caConfigMap": {"name": "our-ca", "key": "root.pem"}}
    for template in templates(render(on=runtime(storage=storage))).values():
        (container,) = template["spec"]["containers"]
        told = values(container)
        assert (told["AWS_ENDPOINT_URL_S3"], told["AWS_REGION"]) == ("https://s3.example", "eu-1")
        folder, _, file = told["AWS_CA_BUNDLE"].rpartition("/")
        (name,) = (one["name"] for one in container["volumeMounts"] if one["mountPath"] == folder)
        (volume,) = (one for one in template["spec"]["volumes"] if one["name"] == name)
        assert volume["configMap"] == {"name": "our-ca", "items": [{"key": "root.pem", "path": file}]}
    assert not {"AWS_ENDPOINT_URL_S3", "AWS_REGION", "AWS_CA_BUNDLE"} & set(values(containers(render())["worker"]))


def test_a_stop_by_anybody_has_the_manifests_time_and_each_step_outlasts_the_one_before() -> None:
    rendered = render(make_job(terminationGracePeriodSeconds=900))
    for role, template in templates(rendered).items():
        (container,) = template["spec"]["containers"]
        *_, asked_as, submission, hook, port = container["lifecycle"]["preStop"]["exec"]["command"]
        drained = int(values(container)["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"])
        assert (asked_as, submission, port) == (role, rendered["RayJob"]["spec"]["jobId"], "8265")
        assert drained == 0  # the hook has waited, and a head that is gone would be asked in vain
        assert 900 < int(hook) <= template["spec"]["terminationGracePeriodSeconds"] - drained - 5
    assert 900 < int(values(containers(rendered)["head"])["RAY_JOB_STOP_WAIT_TIME_S"]) < int(hook)


def test_nothing_starts_a_driver_a_second_time() -> None:
    made = render()["RayJob"]
    assert made["spec"]["backoffLimit"] == 0
    grace = {"finetune.dev/grace-seconds": "300"}
    assert made["metadata"]["annotations"] == {"ray.io/disable-provisioned-head-restart": "true", **grace}
    assert templates(render())["head"]["spec"]["restartPolicy"] == "Never"
    assert "suspend" not in made["spec"]  # Kueue's to write


def test_a_job_waits_in_its_own_queue_or_in_the_runtimes() -> None:
    label = "kueue.x-k8s.io/queue-name"
    on = runtime(queue={"name": "shared"})
    labels = [render(*case)["RayJob"]["metadata"]["labels"].get(label) for case in (
        (make_job(queueName="mine"), on), (make_job(), on), (make_job(), runtime())
    )]  # fmt: skip
    assert labels == ["mine", "shared", None]


def test_priority_is_the_pods() -> None:
    for template in templates(render(make_job(priorityClassName="research"))).values():
        assert template["spec"]["priorityClassName"] == "research"


def test_the_runtime_adds_to_lists_and_replaces_what_has_the_same_name() -> None:
    disk: Object = {"name": "scratch", "persistentVolumeClaim": {"claimName": "disk"}}
    on = runtime(
        worker={
            "labels": {"team": "a"},
            "annotations": {"karpenter.sh/do-not-disrupt": "false"},
            "spec": {
                "volumes": [disk, {"name": "data", "emptyDir": {}}],
                "tolerations": [{"key": "pool", "operator": "Exists"}],
                "securityContext": {"runAsUser": 2000, "fsGroup": None},
                "schedulerName": "other",
            },
            "container": {
                "env": [{"name": "OMP_NUM_THREADS", "value": "3"}, {"name": "NCCL_DEBUG", "value": "INFO"}],
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
                "resources": {"limits": {"rdma/hca": "1"}},
                "livenessProbe": {"failureThreshold": 240},
            },
        }
    )
    pods = templates(render(on=on))
    spec, plain = pods["worker"]["spec"], templates(render())["worker"]["spec"]
    (container,), (before,) = spec["containers"], plain["containers"]
    assert pods["worker"]["metadata"]["labels"]["team"] == "a"
    assert pods["worker"]["metadata"]["annotations"]["karpenter.sh/do-not-disrupt"] == "false"
    assert len(spec["volumes"]) == len(plain["volumes"]) + 1
    assert disk in spec["volumes"]
    assert spec["tolerations"] == [*plain["tolerations"], {"key": "pool", "operator": "Exists"}]
    assert spec["securityContext"]["runAsUser"] == 2000
    assert spec["securityContext"].items() >= {"runAsNonRoot": True, "runAsGroup": 1000}.items()
    assert "fsGroup" not in spec["securityContext"]
    assert spec["schedulerName"] == "other"
    assert values(container) == {**values(before), "OMP_NUM_THREADS": "3", "NCCL_DEBUG": "INFO"}
    assert container["volumeMounts"] == [*before["volumeMounts"], {"name": "data", "mountPath": "/data"}]
    assert container["resources"]["limits"] == {**before["resources"]["limits"], "rdma/hca": "1"}
    assert container["livenessProbe"] == {**before["livenessProbe"], "failureThreshold": 240}
    assert pods["head"] == templates(render())["head"]


def test_init_containers_of_the_runtime_are_as_restricted_as_ours() -> None:
    on = runtime(worker={"spec": {"initContainers": [{"name": "warm", "image": "warm:1"}]}})
    spec = templates(render(on=on))["worker"]["spec"]
    assert spec["initContainers"][0]["securityContext"] == spec["containers"][0]["securityContext"]


def test_metadata_of_the_node_is_out_of_reach_unless_the_runtime_says_where_pods_may_go() -> None:
    policy = render()["NetworkPolicy"]["spec"]
    (anywhere,) = (rule for rule in policy["egress"] if any("ipBlock" in peer for peer in rule.get("to", [])))
    blocks = [peer["ipBlock"] for peer in anywhere["to"] if "ipBlock" in peer]
    assert blocks[0] == {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}
    only = {"to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}
    narrowed = render(on=runtime(egress=[only]))["NetworkPolicy"]["spec"]["egress"]
    assert narrowed == [*(rule for rule in policy["egress"] if rule is not anywhere), only]


def test_only_the_job_itself_kuberay_and_prometheus_may_connect_to_its_pods() -> None:
    policy = render()["NetworkPolicy"]["spec"]
    own, kuberay, prometheus = policy["ingress"]
    assert policy["podSelector"] == {"matchLabels": {"finetune.dev/job-uid": UID}}
    assert own == {"from": [{"podSelector": policy["podSelector"]}]}
    assert [port["port"] for port in kuberay["ports"]] == [8265, 52365]
    assert [port["port"] for port in prometheus["ports"]] == [8080]
    namespaces = [rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in (kuberay, prometheus)]
    assert [one["kubernetes.io/metadata.name"] for one in namespaces] == ["kuberay-system", "monitoring"]


def test_one_pod_of_a_complete_cluster_may_be_evicted_at_a_time() -> None:
    budget = render(example("full-70b-zero3"))["PodDisruptionBudget"]["spec"]
    assert budget["minAvailable"] == 4  # of 4 workers and the head
    assert "maxUnavailable" not in budget  # needs a scale subresource, which RayClusters have not
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
