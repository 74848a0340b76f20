"""A real headless Chromium with the page in it."""

import base64
import contextlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keras_metaformer_lite.cli.web_server import PageMissingError, PageServer

APPLICATION = Path(__file__).resolve().parents[2] / "applications/web"
FLAGS = (
    "--headless=new",
    "--disable-dev-shm-usage",
    "--window-size=1200,900",
    # WebGPU on the CPU, by SwiftShader.
    "--enable-unsafe-webgpu",
    "--enable-features=Vulkan",
    "--use-webgpu-adapter=swiftshader",
    "--ignore-gpu-blocklist",
    # A camera that shows a moving pattern, and nobody asked.
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)


@contextlib.contextmanager
def serving(models: list[Path], port: int = 0) -> Iterator[PageServer]:
    """The page's server, in a thread; a visible skip where it was not built."""
    try:
        server = PageServer("127.0.0.1", port, models)
    except PageMissingError as error:
        pytest.skip(str(error))
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """Selenium's driver; a visible skip where Chromium is not installed."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        pytest.skip(
            "needs Chromium and its driver: apt-get install chromium chromium-driver"
        )
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    if os.geteuid() == 0:
        options.add_argument("--no-sandbox")  # Chromium has none for root.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as opened:
        yield opened


class Page:
    """The page as its users see and handle it."""

    def __init__(self, driver: Any, url: str) -> None:
        self.driver = driver
        self.url = url

    def open(self) -> None:
        self.driver.get(self.url)
        self.wait()

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def wait(self, condition: str = "true", seconds: float = 120) -> None:
        """Until the page has nothing left to do, and a JavaScript condition holds."""
        from selenium.webdriver.support.ui import WebDriverWait

        script = f"return document.body?.dataset.state === 'ready' && ({condition})"
        WebDriverWait(self.driver, seconds, 0.02).until(
            lambda driver: driver.execute_script(script)
        )

    def do(self, action: Any) -> None:
        """An action that the page answers to by being busy for a while."""
        self.driver.execute_script(
            "window.worked = new Promise((resolve) => {"
            "  let busy = false;"
            "  new MutationObserver((_, observer) => {"
            "    busy ||= document.body.dataset.state === 'busy';"
            "    if (busy && document.body.dataset.state === 'ready') {"
            "      observer.disconnect();"
            "      resolve();"
            "    }"
            "  }).observe(document.body, { attributeFilter: ['data-state'] });"
            "})"
        )
        action()
        self.driver.set_script_timeout(120)
        self.driver.execute_async_script("window.worked.then(arguments[0])")

    def choose_photograph(self, path: Path) -> None:
        self.do(lambda: self.find("#photograph").send_keys(str(path)))

    def open_model(self, path: Path) -> None:
        self.do(lambda: self.find("#model-file").send_keys(str(path)))

    def run_on(self, accelerator: str) -> None:
        radio = self.find(f"input[value={accelerator}]")
        if not radio.is_selected():
            self.do(radio.click)

    def drop(self, path: Path) -> None:
        """What a drop from the desktop gives the page."""
        content = base64.b64encode(path.read_bytes()).decode()
        script = """
        const bytes = Uint8Array.from(atob(arguments[0]), (c) => c.charCodeAt(0));
        const dataTransfer = new DataTransfer();
        dataTransfer.items.add(new File([bytes], arguments[1]));
        const options = { dataTransfer, bubbles: true, cancelable: true };
        document.querySelector("#frame").dispatchEvent(new DragEvent("drop", options));
        """
        self.do(lambda: self.driver.execute_script(script, content, path.name))

    def classes(self) -> dict[str, float]:
        """The classes on show and their probabilities, best first."""
        rows = self.driver.execute_script(
            "return [...document.querySelectorAll('#classes li')].map((row) => "
            "[row.querySelector('span').textContent, row.querySelector('data').value])"
        )
        return {label: float(probability) for label, probability in rows}

    def text(self, selector: str) -> str:
        return self.find(selector).text

    def error(self) -> str:
        return self.text("#error")
