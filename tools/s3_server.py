"""A real S3 server on this machine, for tests and the demo: versitygw over a folder (docs/adr/0004-versitygw.md).

As a command it runs another one with that server, with the usual AWS environment set and one bucket made:

    python tools/s3_server.py --data /tmp/s3 --bucket demo -- finetune run job.yaml
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import secrets
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import go_build

SOURCE = Path(__file__).resolve().parent / "versitygw"
REGION = "us-east-1"
START_SECONDS = 30.0  # it takes 0.05 s on a quiet machine


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True)
class Keys:
    """What a user of the server has."""

    access: str
    secret: str = field(repr=False)

    def environment(self) -> dict[str, str]:
        """Return the AWS variables that hold them; also the keys of a job's Secret."""
        return {"AWS_ACCESS_KEY_ID": self.access, "AWS_SECRET_ACCESS_KEY": self.secret}

    def at(self, endpoint: str) -> dict[str, str]:
        """Return the AWS variables that point any SDK, here or in a child process, at a server, with these keys."""
        return {
            "AWS_ENDPOINT_URL": endpoint,
            **self.environment(),
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def client(self, endpoint: str, **options: Any) -> Any:
        """Return an S3 client with these keys, of a class that boto3 makes at run time."""
        import boto3

        session = boto3.Session(self.access, self.secret, region_name=REGION)
        return session.client("s3", endpoint_url=endpoint, **options)


@dataclass
class S3Server:
    """One server process over `data`; it can be killed and started again on the same port and data.

    `data` must be on a file system with user extended attributes (ext4, xfs, tmpfs since Linux 6.6). The keys are those
    of the root user, who may do everything. With a `certificate` and its key (PEM files) it serves HTTPS; with a
    `domain`, its subdomains are buckets, too.
    Users, roles and whose tokens are believed lie in a file beside the data, so that another process, given the
    same data and keys, may add some while the server runs. The STS is at the same address as S3.
    """

    data: Path
    port: int = field(default_factory=free_port)
    access_key: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")
    secret_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    host: str = "127.0.0.1"
    certificate: tuple[Path, Path] | None = None
    domain: str = ""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.address}"

    @property
    def keys(self) -> Keys:
        """The root user's keys."""
        return Keys(self.access_key, self.secret_key)

    @property
    def address(self) -> str:
        """Host and port; IPv6 addresses in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return the AWS variables that point any SDK, here or in a child process, at this server."""
        return self.keys.at(self.endpoint)

    def add_user(self, name: str, bucket: str) -> Keys:
        """Make a user whose keys open `bucket`, made if missing, and nothing else; one of that name gets new keys."""
        keys = Keys(name, secrets.token_urlsafe(24))
        self._change(users={name: keys.secret})
        create_bucket(self, bucket)
        everything = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
        grant = {"Effect": "Allow", "Principal": {"AWS": [name]}, "Action": "s3:*", "Resource": everything}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [grant]})
        self.client().put_bucket_policy(Bucket=bucket, Policy=policy)
        return keys

    def add_role(self, arn: str, user: str, subjects: Sequence[str], seconds: int = 3600) -> None:
        """Let tokens of `subjects` (the last character may be *) be exchanged for the rights of a user."""
        self._change(roles={arn: {"user": user, "subjects": list(subjects), "seconds": seconds}})

    def trust(self, issuer: str, audience: str, jwks: Mapping[str, Any]) -> None:
        """Believe tokens that `issuer` signs with one of the RSA keys in its key set; none of any other issuer."""
        self._change(issuer={"issuer": issuer, "audience": audience, "jwks": dict(jwks)})

    def ignore_conditions(self, bucket: str) -> None:
        """Let writes to a bucket overwrite what is there whatever their conditions are, as some stores do."""
        self._change(unconditional=[bucket])

    def client(self) -> Any:
        """Return an S3 client of the root user."""
        trusted = None if self.certificate is None else str(self.certificate[0])
        return self.keys.client(self.endpoint, verify=trusted)

    @property
    def _identities(self) -> Path:
        return self.data.parent / f"{self.data.name}.identities.json"

    def _change(self, **parts: Any) -> None:
        """Add to the file that the server reads at each request; the issuer is replaced."""
        found: dict[str, Any] = json.loads(self._identities.read_text()) if self._identities.exists() else {}
        for name, part in parts.items():
            if name == "issuer":
                found[name] = part
            elif isinstance(part, dict):
                found[name] = found.get(name, {}) | part
            else:
                found[name] = [*found.get(name, []), *part]
        half = self._identities.with_suffix(".half")
        half.touch(mode=0o600)
        half.write_text(json.dumps(found))
        half.replace(self._identities)

    def start(self) -> None:
        """Start serving and return when the port answers; RuntimeError with the server's own words if it does not."""
        data = self.data.resolve()
        data.mkdir(parents=True, exist_ok=True)
        log = data.parent / f"{data.name}.log"
        keys = {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}
        command = [
            str(go_build.binary(SOURCE)),
            f"-listen={self.address}",
            f"-data={data}",
            f"-identities={self._identities.resolve()}",
            f"-domain={self.domain}",
            "-until-stdin-closes",
        ]
        if self.certificate is not None:
            certificate, key = self.certificate
            command += [f"-certificate={certificate.resolve()}", f"-key={key.resolve()}"]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                env=os.environ | keys,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the clients, which may still have to save something here
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"the S3 server did not start over {data}: {log.read_text().strip() or 'no output'}")
            time.sleep(0.01)

    def kill(self) -> None:
        """End the server at once, as a power cut of its process would; what it acknowledged stays in `data`."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None

    def _answers(self) -> bool:
        connection = self._connection()
        try:
            connection.request("GET", f"/{self.access_key}")  # only our own process knows this path
            return connection.getresponse().status == http.client.OK
        except OSError:
            return False
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        if self.certificate is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=5)
        return http.client.HTTPSConnection(
            self.host,
            self.port,
            timeout=5,
            context=ssl._create_unverified_context(),  # only to see who answers
        )


@contextmanager
def serving(
    data: Path, certificate: tuple[Path, Path] | None = None, host: str = "127.0.0.1", domain: str = ""
) -> Iterator[S3Server]:
    """Serve the folder `data` (made if missing) for the length of a with block."""
    server = S3Server(data, certificate=certificate, host=host, domain=domain)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def create_bucket(server: S3Server, name: str) -> None:
    """Make the bucket `name`; one that is there already, from an earlier run over the same data, is kept."""
    client = server.client()
    if name not in {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}:
        client.create_bucket(Bucket=name)


def run_to_its_end(command: list[str], environment: dict[str, str]) -> int:
    """Run a command, hand SIGTERM on to it, let it answer Ctrl-C itself, and return its exit code as a shell would."""
    process = subprocess.Popen(command, env=environment)
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    return code if code >= 0 else 128 - code


def main() -> int:
    """Run a command with a server of its own and return the command's exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--build", action="store_true", help="only build the server, if that has not been done")
    parser.add_argument("--data", type=Path, help="folder that holds the buckets")
    parser.add_argument("--bucket", help="bucket to make")
    parser.add_argument("command", nargs="*", help="what to run, after --")
    arguments = parser.parse_args()
    if arguments.build:
        print(go_build.binary(SOURCE))
        return 0
    if arguments.data is None or not arguments.command:
        parser.error("write --data FOLDER and a command after --")
    with serving(arguments.data) as server:
        if arguments.bucket:
            create_bucket(server, arguments.bucket)
        return run_to_its_end(arguments.command, os.environ | server.environment())


if __name__ == "__main__":
    sys.exit(main())
