"""The page in headless Chromium: no width scrolls sideways, keys sort, links open, dark and paper look right."""

import asyncio
import json
import shutil
import subprocess
import time
import urllib.request

import pytest

from star_rl.report.evaluation import render_evaluation
from star_rl.report.findings import changes, gather

websockets = pytest.importorskip("websockets")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --remote-debugging-port=0"
)
SORTED = "[...document.querySelector('table.methods').tBodies[0].rows].map(row => row.cells[0].textContent)"


class Tab:
    """A page of Chromium, driven over its debugging socket."""

    def __init__(self, socket):
        self._socket, self._calls, self.requests, self.faults = socket, 0, [], []

    async def call(self, method, **parameters):
        self._calls += 1
        await self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            said = json.loads(await self._socket.recv())
            if said.get("method") == "Network.requestWillBeSent":
                self.requests.append(said["params"]["request"]["url"])
            elif said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
                self.faults.append(said)
            elif said.get("id") == self._calls:
                assert "error" not in said, said
                return said["result"]

    async def value(self, expression):
        found = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    async def colours(self, media="", scheme="light"):
        await self.call(
            "Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}]
        )
        return await self.value("getComputedStyle(document.body).backgroundColor")


def browse(page, folder, look):
    """Open a page and let ``look`` examine it."""
    profile = folder / "profile"
    started = subprocess.Popen(
        [CHROMIUM, *FLAGS.split(), f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    async def work():
        until = time.monotonic() + 60
        while not (port := profile / "DevToolsActivePort").exists() and time.monotonic() < until:
            await asyncio.sleep(0.1)
        if not port.exists():
            pytest.skip("Chromium does not start here")
        address = f"http://127.0.0.1:{port.read_text().split()[0]}/json"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        tabs = json.load(await asyncio.to_thread(opener.open, address))
        target = next(tab["webSocketDebuggerUrl"] for tab in tabs if tab["type"] == "page")
        async with websockets.connect(target, max_size=None, proxy=None) as socket:
            tab = Tab(socket)
            for domain in ("Page", "Runtime", "Log", "Network"):
                await tab.call(f"{domain}.enable")
            await tab.call("Page.navigate", url=page.as_uri())
            while await tab.value("document.readyState + location.protocol") != "completefile:":
                await asyncio.sleep(0.1)
            await look(tab)
            assert tab.requests == [page.as_uri()] and tab.faults == []

    try:
        asyncio.run(work())
    finally:
        started.terminate()
        started.wait(30)


def test_the_page_works_in_a_browser(tmp_path, evaluation):
    nasty = "<script>alert(1)</script>" + "W" * 300
    ranks = [1, 2, 7, 0, 1, 3, 9, 4] * 5
    folders = [
        evaluation(
            tmp_path / name,
            {"star": turned, nasty: ranks[::-1], "third": [5] * 40},
            scenarios=("classic", "long_term"),
            official=True,
            text=nasty * 100,
            writers=["star", nasty],
        )
        for name, turned in (("before", ranks), ("after", ranks[1:] + ranks[:1]))
    ]
    found = gather(folders)
    page = tmp_path / "page.html"
    page.write_text(render_evaluation(found, changes(found)), encoding="utf-8")

    async def look(tab):
        for width in (320, 400, 1400):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
            await tab.call("Emulation.setDeviceMetricsOverride", **size)
            for state in ("true", "false"):
                await tab.value(f"document.querySelectorAll('details').forEach(one => {{ one.open = {state}; }})")
                wide = await tab.value("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                assert wide <= 0, f"{wide} pixels too wide at {width}, details open: {state}"

        before = await tab.value(SORTED)
        await tab.value("document.querySelectorAll('table.methods thead button')[1].focus()")
        orders = []
        for _ in range(2):
            for kind in ("keyDown", "keyUp"):
                text = {"text": "\r"} if kind == "keyDown" else {}
                await tab.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, **text)
            state = "document.querySelector('table.methods thead th[aria-sort]').getAttribute('aria-sort')"
            orders.append((await tab.value(state), await tab.value(SORTED)))
        assert [order for order, _ in orders] == ["descending", "ascending"]
        assert orders[0][1] == before and orders[1][1][0] in before[-2:]

        await tab.value("document.querySelector('a[href^=\"#case\"]').click()")
        opened = "new Promise(done => setTimeout(() => done(document.querySelector(location.hash).open), 200))"
        assert await tab.value(opened) is True

        assert await tab.colours() == "rgb(255, 255, 255)"
        assert await tab.colours(scheme="dark") == "rgb(15, 20, 25)"
        assert await tab.colours("print", "dark") == "rgb(255, 255, 255)"
        assert len((await tab.call("Page.printToPDF"))["data"]) > 10_000

    browse(page, tmp_path, look)
