"""A real Kubernetes control plane on this machine for tests and `make operator-dev`: no root, no node, no container.

etcd and kube-apiserver on 127.0.0.1, and on demand kube-controller-manager and KubeRay's operator, as processes of this
user that end with the program that starts them. There is no kubelet: pods are made and deleted, and never run.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from child import Child
from cluster_identity import Authority, key_pem, kubeconfig, new_tokens, signing_key, tokens_file, write_private
from cluster_programs import kuberay_crds, program
from control_plane_commands import Options, api_server_command, controllers_command, etcd_command

IP_FREEBIND = 15
"""Linux' option to bind an address that is not there yet; Python has no name for it."""

START_SECONDS = 60.0  # it takes 2 to 4 s on a quiet machine


class KubectlFailed(RuntimeError):
    """kubectl ended with `code`; `stderr` is what it printed there, and the message."""

    def __init__(self, arguments: Sequence[str], code: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)}: exit code {code}\n{stderr}")
        self.code, self.stderr = code, stderr


class ControlPlane:
    """One control plane, with all its files in `folder`. Use `serving`, or `start` and `stop`.

    `api_server`, `etcd`, `controllers` may be killed and started again: addresses, users and data stay.
    """

    def __init__(self, folder: Path, api_flags: Sequence[str] = (), options: Options | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder.resolve()
        self.options = options or Options(api_flags=api_flags)
        self.authority = Authority()
        # Bound as long as this object lives, and never listening: nobody else gets the port, kube-apiserver shares it.
        self._reserved = socket.socket()
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self._reserved.setsockopt(socket.IPPROTO_IP, IP_FREEBIND, 1)  # a cluster's own address may come later
        self._reserved.bind((self.options.address, 0))
        self.port: int = self._reserved.getsockname()[1]
        self._tokens = new_tokens(self.options.users)
        self._write_identities()
        self.etcd = Child("etcd", etcd_command(), self.folder)
        self.api_server = Child("kube-apiserver", api_server_command(self.options, self.port), self.folder)
        command = controllers_command(self.options, self.kubeconfig("kube-controller-manager"))
        self.controllers = Child("kube-controller-manager", command, self.folder)
        self._others: list[Child] = []

    @property
    def url(self) -> str:
        return f"https://{self.options.address}:{self.port}"

    def start(self) -> None:
        """Start etcd and the API server and return when it is ready; RuntimeError with its last words if it is not."""
        self.etcd.start()
        self.api_server.start()
        self.wait_until_ready()

    def stop(self) -> None:
        """Kill everything and forget the data; logs and kubeconfig files stay."""
        for child in [*self._others, self.controllers, self.api_server, self.etcd]:
            child.kill()
        self._reserved.close()
        shutil.rmtree(self.folder / "etcd", ignore_errors=True)

    def wait_until_ready(self) -> None:
        """Return when the API server says that it is ready; RuntimeError when it or etcd ended, or after 60 s."""
        deadline = time.monotonic() + START_SECONDS
        while not self._is_ready():
            for child in (self.etcd, self.api_server):
                child.check()
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"kube-apiserver is not ready after {START_SECONDS:.0f} s, see {self.api_server.log}"
                )
            time.sleep(0.05)

    def start_controllers(self) -> None:
        """Start kube-controller-manager and return when namespaces get their service account.

        Install CustomResourceDefinitions first: its garbage collector looks for new kinds only every 30 s.
        """
        self.controllers.start()
        self.wait_for_service_account("default")

    def start_kuberay(self, namespaces: Sequence[str] = ()) -> Child:
        """Start KubeRay's operator for these namespaces (none: all) and return it; its CRDs must be there."""
        flags = ["-metrics-addr=0", "-health-probe-bind-address=0", "-enable-leader-election=false"]
        flags += [f"-watch-namespace={','.join(namespaces)}"]
        environment = {"KUBECONFIG": str(self.kubeconfig("kuberay"))}
        name = "-".join(["kuberay", *namespaces[:1]])
        child = Child(name, [program("kuberay-operator"), *flags], self.folder, environment)
        self._others.append(child)
        child.start()
        return child

    def install_crds(self, *folders: Path) -> None:
        """Apply the CustomResourceDefinitions in these folders and return when the API server serves them."""
        files = [f"--filename={folder}" for folder in folders]
        names = self.kubectl("apply", "--server-side", "--force-conflicts", "-o", "name", *files).split()
        # `kubectl wait` fails at one that has no conditions at all yet, as a large one may for a moment.
        shown = "jsonpath={range .status.conditions[*]}{.type}={.status} {end}"
        deadline = time.monotonic() + START_SECONDS
        while missing := [name for name in names if "Established=True" not in self.kubectl("get", name, "-o", shown)]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not established after {START_SECONDS:.0f} s: {', '.join(missing)}")
            time.sleep(0.05)

    def install_kuberay_crds(self) -> None:
        """Apply KubeRay's CustomResourceDefinitions."""
        self.install_crds(kuberay_crds())

    def kubeconfig(self, user: str = "admin") -> Path:
        """Return the kubeconfig file of one of cluster_identity.USERS."""
        return self.folder / f"{user}.kubeconfig"

    def with_user(self, name: str, rules: Sequence[dict[str, Any]], namespace: str | None = None) -> Path:
        """Make a ServiceAccount that may do what `rules` (RBAC PolicyRules) say, and return its kubeconfig file.

        It may do so in `namespace`, where it then lives, or without one everywhere, and lives in `default`.
        """
        home = namespace or "default"
        role = "Role" if namespace else "ClusterRole"
        scope = {"namespace": namespace} if namespace else {}
        meta = {"name": f"{home}-{name}", **scope}
        rbac = "rbac.authorization.k8s.io"
        objects: list[dict[str, Any]] = [
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": home}},
            {"apiVersion": f"{rbac}/v1", "kind": role, "metadata": meta, "rules": list(rules)},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": f"{role}Binding",
                "metadata": meta,
                "roleRef": {"apiGroup": rbac, "kind": role, "name": meta["name"]},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": home}],
            },
        ]
        manifest = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        self.kubectl("apply", "--server-side", "-f", "-", input=manifest)
        return self.service_account(home, name)

    def service_account(self, namespace: str, name: str) -> Path:
        """Return a kubeconfig file of a ServiceAccount that exists, with a token of one day."""
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration=24h").strip()
        return self._write_kubeconfig(f"{namespace}-{name}", token, namespace)

    def kubectl(
        self, *arguments: str, input: str | None = None, user: str | Path = "admin", namespace: str | None = None
    ) -> str:
        """Run kubectl as a user of USERS or with a kubeconfig file, and return what it prints.

        Raises KubectlFailed when it ends with another code than 0.
        """
        config = user if isinstance(user, Path) else self.kubeconfig(user)
        words = [*(["--namespace", namespace] if namespace else []), *arguments]
        environment = os.environ | {"KUBECONFIG": str(config), "KUBECACHEDIR": str(self.folder / "kubectl-cache")}
        command = [str(program("kubectl")), *words]
        run = subprocess.run(command, env=environment, input=input or "", capture_output=True, text=True, check=False)
        if run.returncode:
            raise KubectlFailed(words, run.returncode, run.stderr)
        return run.stdout

    def wait_for_service_account(self, namespace: str) -> None:
        """Return when `namespace` has its default ServiceAccount: a pod that comes before it is refused."""
        path = f"serviceaccount/default --namespace {namespace}".split()
        self.kubectl("wait", "--for=create", "--timeout=60s", *path)

    def _write_identities(self) -> None:
        hosts = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"]
        addresses = [self.options.address, self.options.kubernetes_service]
        certificate, key = self.authority.issue("kube-apiserver", addresses, hosts)
        write_private(self.folder / "apiserver.crt", certificate)
        write_private(self.folder / "apiserver.key", key)
        write_private(self.folder / "ca.crt", self.authority.pem)
        write_private(self.folder / "service-accounts.key", key_pem(signing_key()))
        write_private(self.folder / "tokens.csv", tokens_file(self._tokens, self.options.users).encode())
        for user, token in self._tokens.items():
            self._write_kubeconfig(user, token)

    def _write_kubeconfig(self, name: str, token: str, namespace: str = "default") -> Path:
        config = kubeconfig(self.url, self.authority.pem, token, namespace)
        return write_private(self.folder / f"{name}.kubeconfig", config)

    def _is_ready(self) -> bool:
        context = ssl.create_default_context(cadata=self.authority.pem.decode())
        connection = http.client.HTTPSConnection(self.options.address, self.port, timeout=5, context=context)
        try:
            connection.request("GET", "/readyz", headers={"Authorization": f"Bearer {self._tokens['admin']}"})
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()


@contextmanager
def serving(folder: Path, crds: Sequence[Path] = (), controllers: bool = True) -> Iterator[ControlPlane]:
    """A control plane for the length of a with block, with the CustomResourceDefinitions of `crds` and of KubeRay."""
    plane = ControlPlane(folder)
    try:
        plane.start()
        plane.install_crds(*crds, kuberay_crds())
        if controllers:
            plane.start_controllers()
        yield plane
    finally:
        plane.stop()
