"""Chromium without a window, driven through pipes by its debugging protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
from contextlib import suppress
from itertools import count
from time import sleep

from cnn.system.timing import now

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe"),
)
PATIENCE = 30
"""Seconds that an answer may take."""


def find_chromium():
    """The path of the program, None where there is none."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Chromium:
    """One page of a fresh browser; `errors` are what its console says of errors and exceptions."""

    def __init__(self, profile):
        to_browser, self._write = os.pipe()
        self._read, from_browser = os.pipe()
        words = [find_chromium(), *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # The browser reads descriptor 3 and writes descriptor 4.
        script = f'exec "$@" 3<&{to_browser} 4>&{from_browser}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words],
            pass_fds=(to_browser, from_browser),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser)
        os.close(from_browser)
        self._numbers, self._rest, self.errors = count(1), b"", []
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = None
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._ask(f"{domain}.enable")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def open(self, url):
        """Shows a page and waits until it is loaded."""
        self._ask("Page.navigate", url=url)
        self.wait("document.readyState == 'complete'")

    def reload(self):
        """Loads the page again."""
        self.evaluate("window.before = true")
        self._ask("Page.reload")
        self.wait("document.readyState == 'complete' && !window.before")

    def evaluate(self, expression):
        """The value of an expression of JavaScript."""
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        return answer["result"].get("value")

    def wait(self, expression):
        """Waits until the expression is true; returns its value."""
        end = now() + PATIENCE
        while now() < end:
            found = self.evaluate(expression)
            if found:
                return found
            sleep(0.05)
        raise AssertionError(f"{expression} did not become true")

    def picture(self, width, height, *, dark):
        """The page as PNG, with this many pixels."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self._ask("Emulation.setEmulatedMedia", features=scheme)
        self._ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        return base64.b64decode(self._ask("Page.captureScreenshot")["data"])

    def _ask(self, method, **parameters):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        end = now() + PATIENCE
        while now() < end:
            for answer in self._messages():
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
                self._hear(answer)
        raise AssertionError(f"no answer to {method}")

    def _messages(self):
        if select.select([self._read], [], [], 0.1)[0]:
            self._rest += os.read(self._read, 1 << 20)
        *whole, self._rest = self._rest.split(b"\0")
        return [json.loads(each) for each in whole]

    def _hear(self, event):
        parameters = event.get("params", {})
        with suppress(KeyError):
            if event["method"] == "Runtime.exceptionThrown":
                self.errors.append(parameters["exceptionDetails"]["text"])
            elif event["method"] == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                self.errors.append(f"{parameters['entry']['text']} {parameters['entry'].get('url')}")
            elif event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
                self.errors.append(str(parameters["args"]))
