"""A proxy in front of a real API server that breaks requests on demand, over real TLS connections.

Each injected fault (kube_faults.py) takes the next requests that fit it; all others pass unchanged. Besides, requests
can be cut off after the k-th write, or answered from an earlier state, and open watches be stalled or ended.

    with kube_proxy(control_plane) as proxy:
        proxy.inject("apply", refuse(409, "Conflict"), resource="rayjobs", times=3)
        run_the_operator(proxy.kubeconfig("operator"))

It runs in a thread of its own, so that a test may be synchronous or asynchronous, and its client any program.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import ssl
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import aiohttp
from aiohttp import web

from control_plane import ControlPlane
from faults import Faults
from kube_exchange import Action, Exchange
from kube_request import KubeRequest, parse
from kube_stale import Frozen
from kube_watch import Event, Watch

Result = TypeVar("Result")
OnWrite = Callable[[int, KubeRequest], None]
ANSWER_SECONDS = 30.0


class KubeProxy:
    """Serves on https://127.0.0.1:`port`; `seen` are the requests so far, `steps` the writes that were applied.

    `on_write(n, request)`, when set, is called after the n-th step was applied and before it is answered; no other step
    goes on meanwhile. It runs in the proxy's thread: nothing at all passes while it does.
    """

    def __init__(self, plane: ControlPlane) -> None:
        self.plane = plane
        self.port = 0
        self.faults: Faults[KubeRequest, Action] = Faults()
        self.steps: list[KubeRequest] = []
        self.on_write: OnWrite | None = None
        self.one_write = asyncio.Lock()
        self.watches: set[Watch] = set()
        self.frozen: Frozen | None = None
        self.session: aiohttp.ClientSession
        self.is_cut = False
        self._hidden: list[Callable[[Event], bool]] = []
        self._active: set[Exchange] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="kube-proxy", daemon=True)
        self._started: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thawed, self._stopping = asyncio.Event(), asyncio.Event()

    @property
    def seen(self) -> list[KubeRequest]:
        return self.faults.seen

    @property
    def asked(self) -> list[tuple[str, str, str]]:
        """Verb, resource and subresource of the scenario's writes, noted before anybody can see that they were done."""
        return [(one.verb, one.resource, one.subresource) for one in list(self.seen) if one.is_step]

    def count(self, verb: str, resource: str = "") -> int:
        """How many requests with this verb (and of this resource) have arrived."""
        return sum(one.verb == verb and resource in ("", one.resource) for one in list(self.seen))

    def inject(self, verb: str, action: Action, *, resource: str = "", name: str = "", times: int = 1) -> None:
        """Break the next `times` requests with `verb` ("": any), of this resource and name when they are given."""
        self.faults.add(
            lambda one: verb in ("", one.verb) and resource in ("", one.resource) and name in ("", one.name),
            action,
            times,
        )

    def kubeconfig(self, user: str | Path = "admin") -> Path:
        """Return a kubeconfig file of a user of the control plane, or like the given file, that goes through here."""
        source = user if isinstance(user, Path) else self.plane.kubeconfig(user)
        config = json.loads(source.read_text())
        config["clusters"][0]["cluster"]["server"] = f"https://127.0.0.1:{self.port}"
        target = self.plane.folder / f"{source.stem}-at-{self.port}.kubeconfig"
        target.touch(mode=0o600)
        target.write_text(json.dumps(config))
        return target

    def cut(self) -> None:
        """Reset every connection, and each new one, as if the client had died: what is not applied never will be."""
        self._in_loop(self._cut)

    def mend(self) -> None:
        """Let requests pass again."""
        self._in_loop(lambda: setattr(self, "is_cut", False))

    def cut_after(self, writes: int) -> threading.Event:
        """Cut as soon as so many steps were applied, the last one unanswered; the event tells when that was."""
        happened = threading.Event()

        def hook(done: int, request: KubeRequest) -> None:
            if done == writes:
                self.cut()
                happened.set()

        self.on_write = hook
        return happened

    def freeze(self, *resources: str) -> int:
        """Answer reads of these resources (none: all) as of now, and hold back later events, until `thaw`.

        So does an API server that hangs behind the others; writes go on at the real one. Returns the resourceVersion.
        Exact within the 5 minutes for which the API server keeps the past.
        """
        version = self._wait(self._current_version())
        self._in_loop(lambda: self._freeze(Frozen(version, frozenset(resources))))
        return version

    def thaw(self) -> None:
        """End `freeze`: reads are current, and the events that were held back pass."""
        self._in_loop(lambda: self._freeze(None))

    def hide(self, event: Callable[[Event], bool]) -> None:
        """Never deliver the events of watches that `event` returns true for, until `show`: they are missed."""
        self._in_loop(lambda: self._hidden.append(event))

    def show(self) -> None:
        """Deliver all events again that come from now on."""
        self._in_loop(self._hidden.clear)

    def stall_watches(self, resource: str = "") -> int:
        """Let the open watches (of this resource) say nothing more, with their connections open; return how many."""
        return self._for_watches(resource, Watch.stall)

    def resume_watches(self, resource: str = "") -> int:
        """End `stall_watches`, and stalls that were injected; what was held back passes."""
        return self._for_watches(resource, Watch.resume)

    def end_watches(self, resource: str = "", last: Event | None = None, *, reset: bool = False) -> int:
        """End the open watches, with a last event or a TCP reset instead of an orderly end; return how many."""
        return self._for_watches(resource, lambda watch: watch.end(last, reset=reset))

    async def may_pass(self, resource: str, line: bytes) -> bool:
        """Whether an event of a watch is delivered; returns when it is time for it."""
        while self.frozen is not None and self.frozen.holds(resource, json.loads(line)):
            await self._thawed.wait()
        return not (self._hidden and any(hidden(json.loads(line)) for hidden in self._hidden))

    def wrote(self, request: KubeRequest) -> None:
        """Note a step that was applied."""
        self.steps.append(request)
        if self.on_write is not None:
            self.on_write(len(self.steps), request)

    def start(self) -> None:
        self._thread.start()
        self._started.result(ANSWER_SECONDS)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(ANSWER_SECONDS)

    def _serve(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._main())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _main(self) -> None:
        context = ssl.create_default_context(cadata=self.plane.authority.pem.decode())
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=context, limit=0),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            ) as self.session,
            self._listening() as self.port,
        ):
            self._started.set_result(None)
            await self._stopping.wait()
            self._cut()

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[int]:
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._handle)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=self._server_tls()).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    def _server_tls(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.NamedTemporaryFile() as file:
            file.write(b"".join(self.plane.authority.issue("kube-proxy", ["127.0.0.1"], ["localhost"])))
            file.flush()
            context.load_cert_chain(file.name)
        return context

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        exchange = Exchange(self, request, parse(request.method, request.raw_path, request.content_type))
        if self.is_cut:
            return exchange.reset()
        action = self.faults.take(exchange.seen)
        self._active.add(exchange)
        try:
            return await (action(exchange) if action is not None else exchange.pass_on())
        except (aiohttp.ClientError, ConnectionError):  # either side is gone, or was cut off
            return exchange.reset()
        finally:
            self._active.discard(exchange)

    async def _current_version(self) -> int:
        token = json.loads(self.plane.kubeconfig("admin").read_text())["users"][0]["user"]["token"]
        url = f"{self.plane.url}/api/v1/namespaces?limit=1"
        async with self.session.get(url, headers={"Authorization": f"Bearer {token}"}) as answer:
            return int((await answer.json())["metadata"]["resourceVersion"])

    def _freeze(self, frozen: Frozen | None) -> None:
        self.frozen = frozen
        self._thawed.set()  # those that wait look again
        self._thawed.clear()

    def _cut(self) -> None:
        self.is_cut = True
        for exchange in list(self._active):
            exchange.reset()

    def _for_watches(self, resource: str, action: Callable[[Watch], None]) -> int:
        def act() -> int:
            chosen = [watch for watch in self.watches if resource in ("", watch.resource)]
            for watch in chosen:
                action(watch)
            return len(chosen)

        return self._in_loop(act)

    def _in_loop(self, function: Callable[[], Result]) -> Result:
        """Call a function in the proxy's thread; directly if this is it."""
        if threading.current_thread() is self._thread:
            return function()

        async def call() -> Result:
            return function()

        return self._wait(call())

    def _wait(self, coroutine: Coroutine[None, None, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(ANSWER_SECONDS)


@contextmanager
def kube_proxy(plane: ControlPlane) -> Iterator[KubeProxy]:
    """A proxy in front of the API server of `plane` for the length of a with block."""
    proxy = KubeProxy(plane)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
