"""One real cluster with two nodes, KubeRay, S3 and our chart for all end-to-end tests of a session."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Iterator
from contextlib import nullcontext, suppress
from importlib.metadata import version

import pytest

from cluster import platform
from cluster.cluster import build
from cluster.layout import Layout
from cluster.machine import CannotRun, check_machine
from end_to_end.installation import FOLDER, Installation, installed
from end_to_end.tenant import Tenant
from faulty_proxy import FaultyProxy, faulty_proxy
from operator_image import operator_image


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "installation" in getattr(item, "fixturenames", ()):
            item.add_marker("nodes")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Build the programs and the operator's image before the first test's clock runs: minutes on a new machine."""
    chosen = any(item.get_closest_marker("nodes") for item in session.items)
    if session.config.option.collectonly or not chosen:
        return
    capture = session.config.pluginmanager.get_plugin("capturemanager")
    with capture.global_and_fixture_disabled() if capture else nullcontext(), suppress(CannotRun):
        check_machine()  # the fixture says so where it cannot run
        build()
        operator_image()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Collect what the cluster knows when a test on it fails."""
    report = yield
    found = getattr(item, "funcargs", {}).get("installation")
    if report.failed and isinstance(found, Installation):
        found.collect(FOLDER / "failures" / item.name)
    return report


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The cluster with everything installed as docs/install.md says; skipped, and so failed in CI, without root."""
    try:
        check_machine()
    except CannotRun as error:
        pytest.skip(f"a cluster with nodes cannot run here: {error}")
    layout = Layout(FOLDER / "cluster", name="ft-test", pods="10.89", services="10.97")
    with installed(layout, platform.TRAINER_IMAGE, operator_image(), version("ray")) as found:
        yield found


@pytest.fixture
def proxy(installation: Installation) -> Iterator[FaultyProxy]:
    """In front of the store; sees who asks for what, and refuses what it is told to."""
    with faulty_proxy(installation.s3.port, installation.cluster.layout.host) as found:
        yield found


@pytest.fixture
def tenant(installation: Installation) -> Iterator[Tenant]:
    """A namespace that enforces Pod Security `restricted`, with a bucket and credentials of its own."""
    found = installation.tenant(f"team-{uuid.uuid4().hex[:6]}")
    yield found
    found.leave()
