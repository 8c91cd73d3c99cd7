"""What does the page of `serve` show?

    apt-get install chromium chromium-driver && pip install selenium
    python benchmarks/show_page.py --output benchmarks/page.png

Trains on made-up purchases of a pantry, serves the model, and takes a picture
of the page in headless Chromium.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np

import keras_dp_retrieval as kdr

SHELVES = {
    "tea": "Green Black Mint Ginger Jasmine Rooibos",
    "bread": "Rye Oat Wheat Spelt Corn Sourdough",
    "jam": "Plum Cherry Apricot Quince Fig Rhubarb",
    "cheese": "Soft Blue Goat Smoked Hard Fresh",
}
ITEMS = [
    (f"{name} {shelf}, {size}", shelf, size)
    for shelf, names in SHELVES.items()
    for name in names.split()
    for size in ("small", "large")
]


def save_model(path):
    """Guests who each take from two shelves."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(300):
        shelves = rng.choice(list(SHELVES), 2, replace=False)
        wanted = [i for i, item in enumerate(ITEMS, 1) if item[1] in shelves]
        taken = rng.permutation(wanted)[: rng.integers(4, 14)]
        rows += [
            (f"guest {number:03d}", int(item), time)
            for time, item in enumerate(taken)
        ]
    users, items, times = zip(*rows, strict=True)
    ids = range(1, len(ITEMS) + 1)
    titles, kinds, sizes = zip(*ITEMS, strict=True)
    data = kdr.RetrievalDataset.from_interactions(
        users,
        items,
        timestamps=times,
        split="by_time",
        candidate_titles=dict(zip(ids, titles, strict=True)),
        candidate_features={"item_id": ids, "kind": kinds, "size": sizes},
    )
    model = kdr.fit_recipe(data, tune=False, embedding_dimension=32, epochs=15)
    model.save(path)


def wait_for(address, seconds=120):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(f"{address}/readyz", timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise SystemExit(f"The server was not ready within {seconds} s.")


def take_picture(address, path, width, height):
    from selenium import webdriver
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for one in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{one}")
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {**size, "mobile": False}
        )
        browser.get(f"{address}/#user=guest%20007")
        WebDriverWait(browser, 30).until(
            lambda browser: "Like" in browser.page_source
        )
        browser.save_screenshot(os.fspath(path))
    from PIL import Image

    # A third of the size, and nobody sees it.
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=pathlib.Path, default="page.png")
    parser.add_argument("--port", type=int, default=8123)
    args = parser.parse_args()
    address = f"http://127.0.0.1:{args.port}"
    with tempfile.TemporaryDirectory() as folder:
        model = pathlib.Path(folder, "pantry.keras")
        save_model(model)
        command = [sys.executable, "-m", "keras_dp_retrieval", "serve", model]
        server = subprocess.Popen([*command, "--port", str(args.port)])
        try:
            wait_for(address)
            take_picture(address, args.output, 1100, 700)
        finally:
            server.terminate()
            server.wait()
    print(f"Drew {args.output}.")


if __name__ == "__main__":
    main()
