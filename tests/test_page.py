"""The page, as somebody at a keyboard or a phone uses it."""

import asyncio
import pathlib
import re
import shutil
import socket
import threading

import pytest
import uvicorn

from keras_dp_retrieval import serving
from tests.served import Client, model_of

FOLDER = pathlib.Path(serving.__file__).parent

SECONDS = 60


@pytest.mark.parametrize("name", ["page.html", "docs.html"])
def test_a_page_needs_nothing_from_elsewhere(name):
    text = (FOLDER / name).read_text("utf-8")
    assert not re.findall(
        r"https?://|//\w+\.|@import|<link(?! rel=.icon)", text
    )
    assert not re.findall(r"<(?:script|img|iframe)[^>]* src=", text)
    # What the server says is text, never markup.
    assert "innerHTML" not in text and "insertAdjacentHTML" not in text


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = map(shutil.which, ("chromium", "chromedriver"))
    if not chromium or not driver:
        pytest.skip(
            "There is no browser: apt-get install chromium chromium-driver."
        )
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for one in ("headless=new", "no-sandbox", "disable-dev-shm-usage"):
        options.add_argument(f"--{one}")
    service = webdriver.ChromeService(executable_path=driver)
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.set_page_load_timeout(SECONDS)
        yield browser


@pytest.fixture(scope="module")
def model():
    model = model_of("features")
    first = model.candidate_vocabulary.ids.tolist()[0]
    model.candidate_titles[first] = "<b>Bold</b> & co"
    return model


@pytest.fixture(scope="module")
def address(model):
    yield from served(model)


@pytest.fixture(scope="module")
def guarded_address(model):
    yield from served(model, token="sesame")


def served(model, **options):
    """Serves in a thread; yields where."""
    client = Client(model, **options)
    config = uvicorn.Config(client.app, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(
        target=lambda: asyncio.run(server.serve([listening]))
    )
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(SECONDS)
    client.service.close()


class Page:
    """The page in a browser of some width."""

    def __init__(self, browser, address, width=1200, height=900, hash=""):
        self.browser = browser
        browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {
                "width": width,
                "height": height,
                "deviceScaleFactor": 1,
                "mobile": width < 600,
            },
        )
        browser.get("about:blank")
        browser.get(f"{address}/{hash}")

    def texts(self, selector):
        return self.browser.execute_script(
            "return [...document.querySelectorAll(arguments[0])]"
            ".map((one) => one.textContent)",
            selector,
        )

    def find(self, selector):
        return self.browser.find_element("css selector", selector)

    def type(self, *keys):
        """Types where the focus is, as a keyboard does."""
        self.browser.switch_to.active_element.send_keys(*keys)

    def until(self, holds):
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.browser, SECONDS).until(lambda _: holds())


def titles(model, ids):
    return [model.candidate_titles[one] for one in ids.tolist()]


@pytest.mark.slow
def test_a_user_is_found_and_sees_history_and_recommendations(
    browser, address, model
):
    page = Page(browser, address)
    page.find("#user").click()
    page.type("104")
    page.until(lambda: page.texts("#user-list li") == ["104"])
    page.find("#user-list li").click()
    page.until(lambda: page.texts("#found li"))
    ids, scores = model.recommend([104], k=5)
    assert page.texts("#found .title") == titles(model, ids[0])
    assert page.texts("#found .score") == [f"{s:.3f}" for s in scores[0]]
    rows = model.histories.padded(model.user_vocabulary.rows([104]))[0]
    seen = model.candidate_vocabulary.raw_ids(rows[rows >= 0])[::-1]
    assert page.texts("#history .title") == titles(model, seen)
    why = page.texts("#found .why")
    assert len(why) == 5 and all(
        any(title in text for title in titles(model, seen)) for text in why
    )
    assert re.match(r"\d+ ms, [\d.]+ ms of them", page.find("#latency").text)
    assert browser.current_url.endswith("#user=104")


@pytest.mark.slow
def test_a_history_is_put_together_with_the_keyboard_alone(
    browser, address, model
):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, address)
    page.until(lambda: "users" in page.find("#model").text)
    page.find("body").send_keys(Keys.TAB)
    while browser.switch_to.active_element.get_attribute("id") != "title":
        page.type(Keys.TAB)
    page.type("gravity")
    page.until(lambda: len(page.texts("#title-list li")) == 3)
    first, second = page.texts("#title-list li")[:2]
    page.type(Keys.ARROW_DOWN, Keys.ENTER)
    page.until(lambda: page.texts("#history .title") == [second])
    page.type("gravity", Keys.ENTER)  # Faster than it is found.
    page.until(lambda: page.texts("#history .title") == [first, second])
    by_title = {title: one for one, title in model.candidate_titles.items()}
    history = [by_title[second], by_title[first]]  # Oldest first.
    ids, _ = model.recommend(histories=[history], k=5)
    page.until(lambda: page.texts("#found .title") == titles(model, ids[0]))
    page.type(Keys.ESCAPE)
    assert not page.find("#title-list").is_displayed()
    # One is taken away, by its button, which says so.
    button = page.find(f'[aria-label="Remove {first}"]')
    button.send_keys(Keys.ENTER)
    page.until(lambda: page.texts("#history .title") == [second])
    ids, _ = model.recommend(histories=[[by_title[second]]], k=5)
    page.until(lambda: page.texts("#found .title") == titles(model, ids[0]))
    kept = browser.current_url  # The address brings it back.
    again = Page(browser, address, hash="#" + kept.split("#")[1])
    again.until(lambda: again.texts("#found .title") == titles(model, ids[0]))


@pytest.mark.slow
def test_filters_and_words_narrow_what_is_recommended(browser, address, model):
    from selenium.webdriver.support.ui import Select

    page = Page(browser, address, hash="#user=104")
    page.until(lambda: page.texts("#found li"))
    Select(page.find('[data-feature="kind"] select')).select_by_value("film")
    ids, _ = model.recommend([104], k=5, filters={"kind": "film"})
    page.until(lambda: page.texts("#found .title") == titles(model, ids[0]))
    page.find('[aria-label="year from"]').send_keys("2005\t")
    ids, _ = model.recommend(
        [104], k=5, filters={"kind": "film", "year": [2005, None]}
    )
    shown = [one for one in ids[0] if one >= 0]
    page.until(
        lambda: (
            page.texts("#found .title")
            == [model.candidate_titles[one] for one in shown]
        )
    )
    page.find("#word").send_keys("nothing such")
    page.until(lambda: not page.texts("#found li"))
    assert page.find("#found-empty").text == "Nothing is left to recommend."


@pytest.mark.slow
def test_nobody_known_gets_what_is_popular_and_is_told_so(browser, address):
    from selenium.webdriver.common.keys import Keys

    page = Page(browser, address)
    page.until(lambda: "users" in page.find("#model").text)
    page.find("#user").send_keys("98765", Keys.ENTER)
    page.until(lambda: page.texts("#found li"))
    assert "knows nothing of this user" in page.find("#note").text
    assert "knows nothing" in page.texts("#status")[0]  # It is read aloud.
    page = Page(browser, address)
    page.until(lambda: "users" in page.find("#model").text)
    page.find("#user").send_keys("ann", Keys.ENTER)
    page.until(lambda: "whole numbers" in page.find("#note").text)


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 390, 1200])
def test_the_page_fits_and_can_be_touched(browser, address, width):
    page = Page(browser, address, width, 800, hash="#history=[1001,1002]")
    page.until(lambda: page.texts("#found li"))
    measured = browser.execute_script(
        """
        const shown = (one) => one.offsetParent !== null;
        const named = (one) => one.textContent.trim() || one.ariaLabel
          || (one.labels && one.labels.length);
        const all = [...document.querySelectorAll("button, input, select")]
          .filter(shown);
        return {
          wide: document.documentElement.scrollWidth
            - document.documentElement.clientWidth,
          low: all.filter((one) => one.type !== "checkbox"
            && one.offsetHeight < 36).map((one) => one.outerHTML),
          nameless: all.filter((one) => !named(one))
            .map((one) => one.outerHTML),
        };
        """
    )
    assert measured == {"wide": 0, "low": [], "nameless": []}
    severe = [
        one for one in browser.get_log("browser") if one["level"] == "SEVERE"
    ]
    assert not [one for one in severe if "404" not in one["message"]]


@pytest.mark.slow
def test_titles_are_shown_as_the_text_they_are(browser, address):
    page = Page(browser, address)
    page.until(lambda: "users" in page.find("#model").text)
    page.find("#title").send_keys("bold")
    page.until(lambda: page.texts("#title-list li") == ["<b>Bold</b> & co"])
    assert not page.texts("#title-list b")


@pytest.mark.slow
def test_the_page_asks_for_the_token(browser, guarded_address):
    page = Page(browser, guarded_address)
    page.until(
        lambda: browser.switch_to.active_element.get_attribute("id") == "token"
    )
    page.type("open\n")
    page.until(lambda: page.find("#token-form").is_displayed())
    page.find("#token").clear()
    page.find("#token").send_keys("sesame\n")
    page.until(lambda: not page.find("#token-form").is_displayed())
    page.find("#user").send_keys("104\n")
    page.until(lambda: page.texts("#found li"))
    browser.execute_script("sessionStorage.clear()")


@pytest.mark.slow
def test_the_api_page_lists_every_endpoint(browser, address):
    page = Page(browser, address + "/docs")
    page.until(lambda: page.texts("section"))
    listed = page.texts("section h2")
    for one in ("POST /recommend", "POST /encode", "GET /readyz"):
        assert one in listed
    assert any("explain" in text for text in page.texts("section"))
