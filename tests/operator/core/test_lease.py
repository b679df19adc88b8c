"""One leader at a time, whatever happens to the API server, the network and the leader itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from clocks import Clock
from finetune_operator.core.lease import Lease, LeaseTimes, NotLeading
from finetune_operator.core.metrics import REGISTRY
from finetune_operator.kube import Client
from finetune_operator.kube.resources import LEASES
from kube_faults import lose_answer, refuse
from kube_proxy import KubeProxy

QUICK = LeaseTimes(duration=4, renew=3.0, period=0.1)


class Replica:
    """A candidate whose leading is recorded in `story`, as `+name` and `-name`."""

    def __init__(self, client: Client, namespace: str, name: str, story: list[str]) -> None:
        self.name = name
        self.lease = Lease(client, namespace, "operator", name, times=QUICK, annotations={"address": f"{name}:8443"})
        self.leads, self.stopped = asyncio.Event(), asyncio.Event()
        self._story = story
        self.task = asyncio.create_task(self.lease.run(self._lead))

    async def _lead(self) -> None:
        self._story.append(f"+{self.name}")
        self.stopped.clear()
        self.leads.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.3)  # what is under way takes a moment to end
            self._story.append(f"-{self.name}")
            self.leads.clear()
            self.stopped.set()

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@asynccontextmanager
async def replicas(*wanted: tuple[str, Path], namespace: str) -> AsyncIterator[tuple[list[Replica], list[str]]]:
    """Candidates by name and kubeconfig, the first of them leading."""
    story: list[str] = []
    found: list[Replica] = []
    clients: list[Client] = []
    for name, kubeconfig in wanted:
        clients.append(await Client.connect(str(kubeconfig)))
        found.append(Replica(clients[-1], namespace, name, story))
        await found[0].leads.wait()
    try:
        yield found, story
    finally:
        for replica in found:
            await replica.stop()
        for client in clients:
            await client.close()


def run(body: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(body(), 60))


def test_one_leads_and_the_next_takes_over_when_it_ends(direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with replicas(("a", direct), ("b", direct), namespace=namespace) as ((a, b), story):
            await asyncio.sleep(3 * QUICK.period)
            assert (a.lease.is_leader, b.lease.is_leader) == (True, False)
            assert b.lease.record is not None
            assert b.lease.record.annotations["address"] == "a:8443"
            started = asyncio.get_running_loop().time()
            await a.stop()
            await b.leads.wait()
            assert asyncio.get_running_loop().time() - started < QUICK.duration / 2  # it was given back, not waited for
            assert story == ["+a", "-a", "+b"]
            assert b.lease.record.annotations["address"] == "b:8443"
        assert story == ["+a", "-a", "+b", "-b"]

    run(body)


def test_only_the_leader_may_write(direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with replicas(("a", direct), ("b", direct), namespace=namespace) as ((a, b), _):
            a.lease.assert_leading()
            with pytest.raises(NotLeading, match="b does not hold the lease"):
                b.lease.assert_leading()
            assert REGISTRY.get_sample_value("finetune_leader") == 1
            await a.stop()
            with pytest.raises(NotLeading):
                a.lease.assert_leading()

    run(body)


def test_a_leader_that_cannot_renew_stops_before_another_leads(proxy: KubeProxy, direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with replicas(("a", proxy.kubeconfig()), ("b", direct), namespace=namespace) as ((a, b), story):
            proxy.cut()
            await a.stopped.wait()
            assert not a.lease.is_leader
            assert not b.lease.is_leader
            await b.leads.wait()
            proxy.mend()
            await asyncio.sleep(5 * QUICK.period)  # a sees that b leads
            assert story == ["+a", "-a", "+b"]

    run(body)


def test_a_leader_whose_loop_stood_still_may_not_write_when_it_goes_on(direct: Path, namespace: str) -> None:
    """As after a long collection of garbage, or a stopped container: no task has run yet that could notice."""
    clock = Clock()

    async def body() -> None:
        async with await Client.connect(str(direct)) as client:
            lease = Lease(client, namespace, "operator", "a", clock=clock)
            leads = asyncio.Event()

            async def lead() -> None:
                leads.set()
                await asyncio.Event().wait()

            task = asyncio.create_task(lease.run(lead))
            await leads.wait()
            clock.now += 9.9
            lease.assert_leading()
            clock.now += 0.1
            with pytest.raises(NotLeading):
                lease.assert_leading()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    run(body)


@pytest.mark.parametrize("fault", ["refused", "answer lost"])
def test_a_renewal_that_fails_once_costs_nothing(proxy: KubeProxy, namespace: str, fault: str) -> None:
    async def body() -> None:
        async with replicas(("a", proxy.kubeconfig()), namespace=namespace) as ((a,), story):
            proxy.inject("patch", refuse(500) if fault == "refused" else lose_answer(), resource="leases", times=2)
            before = proxy.count("patch", "leases")
            while proxy.count("patch", "leases") < before + 5:
                await asyncio.sleep(QUICK.period)
            assert story == ["+a"]
            assert a.lease.is_leader

    run(body)


def test_a_claim_with_a_lost_answer_is_taken_up_again(proxy: KubeProxy, namespace: str) -> None:
    async def body() -> None:
        proxy.inject("create", lose_answer(), resource="leases")
        async with replicas(("a", proxy.kubeconfig()), namespace=namespace) as (_, story):
            assert story == ["+a"]

    run(body)


def test_somebody_who_writes_into_the_lease_does_not_end_the_leading(direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with (
            replicas(("a", direct), namespace=namespace) as ((a,), story),
            await Client.connect(str(direct)) as client,
        ):
            for value in "xyz":
                note = {"metadata": {"annotations": {"note": value}}}
                version = (await client.patch(LEASES, namespace, "operator", note))["metadata"]["resourceVersion"]
                while (await client.get(LEASES, namespace, "operator"))["metadata"]["resourceVersion"] == version:
                    await asyncio.sleep(QUICK.period / 2)
            assert a.lease.is_leader
            assert story == ["+a"]

    run(body)


def test_a_leader_whose_lease_was_taken_stops_at_once(direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with (
            replicas(("a", direct), namespace=namespace) as ((a,), _),
            await Client.connect(str(direct)) as client,
        ):
            await client.patch(LEASES, namespace, "operator", {"spec": {"holderIdentity": "thief"}})
            started = asyncio.get_running_loop().time()
            await a.stopped.wait()
            assert asyncio.get_running_loop().time() - started < QUICK.renew

    run(body)


@pytest.mark.parametrize("error", [None, KeyError("bug")], ids=["returns", "raises"])
def test_what_ends_by_itself_ends_the_lease_too(direct: Path, namespace: str, error: Exception | None) -> None:
    async def body() -> None:
        async with await Client.connect(str(direct)) as client:

            async def lead() -> None:
                if error is not None:
                    raise error

            lease = Lease(client, namespace, "operator", "a", times=QUICK)
            if error is None:
                await lease.run(lead)
            else:
                with pytest.raises(KeyError):
                    await lease.run(lead)
            left = await client.get(LEASES, namespace, "operator")
            assert left["spec"]["holderIdentity"] == ""

    run(body)


def test_load_on_the_main_client_does_not_keep_the_lease_from_being_renewed(direct: Path, namespace: str) -> None:
    async def body() -> None:
        async with await Client.connect(str(direct), qps=1, burst=1) as client:
            story: list[str] = []
            replica = Replica(client, namespace, "a", story)
            await replica.leads.wait()
            flood = [asyncio.create_task(client.get(LEASES, namespace, "operator")) for _ in range(200)]
            await asyncio.sleep(QUICK.duration)
            assert replica.lease.is_leader
            assert story == ["+a"]
            for task in flood:
                task.cancel()
            await asyncio.gather(*flood, return_exceptions=True)
            await replica.stop()

    run(body)


def test_many_candidates_never_lead_two_at_a_time(direct: Path, namespace: str) -> None:
    async def body() -> None:
        names = [f"r{number}" for number in range(5)]
        async with replicas(*((name, direct) for name in names), namespace=namespace) as (found, story):
            for _ in range(4):
                (leader,) = [replica for replica in found if replica.lease.is_leader]
                await leader.stop()
                found.remove(leader)
                waits = [asyncio.create_task(replica.leads.wait()) for replica in found]
                await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
                for wait in waits:
                    wait.cancel()
        starts, ends = story[::2], story[1::2]
        assert len(story) == 10
        assert [start.replace("+", "-") for start in starts] == ends

    run(body)
