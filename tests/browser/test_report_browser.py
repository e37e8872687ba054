"""The report in a real browser: silent, without requests, and its controls do what they say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from front_factory import front, front_json
from page_reader import picked_by
from report_factory import hostile_front, rich_front, rich_pictures, rich_records
from selenium.webdriver import ActionChains, Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from autoprune.report import FrontDocument, read_front
from autoprune.report.html import html_report

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
REFERENCE = Path(__file__).resolve().parents[2] / "results" / "reference" / "digits"
PARAMETERS = {"name": "parameters", "direction": "min", "unit": "count", "scale": "log"}
WIDE, NARROW = (1280, 900), (390, 844)
FRONT = "#chart-front-test-latency_ms"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM.exists() and DRIVER.exists()), reason="chromium and chromedriver are not installed"
)


class Browser:
    """One page at a time in one headless Chromium."""

    def __init__(self, driver: Chrome, folder: Path) -> None:
        self.driver = driver
        self.folder = folder

    def open(
        self, document: FrontDocument, size: tuple[int, int] = WIDE, *, dark: bool = False, scripts: bool = True
    ) -> None:
        """Show the report of a front; every front has the records and pictures of the rich one."""
        path = self.folder / "report.html"
        pictures = rich_pictures(document, document.run)
        path.write_text(html_report(document, rich_records(document), pictures), encoding="utf-8")
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", **metrics)
        self.media("screen", dark=dark)
        self.cdp("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.driver.get_log("browser")
        self.driver.get_log("performance")
        self.driver.get(path.as_uri())

    def media(self, kind: str, *, dark: bool = False) -> None:
        wanted = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.cdp("Emulation.setEmulatedMedia", media=kind, features=[wanted])

    def cdp(self, command: str, **arguments: Any) -> None:
        self.driver.execute_cdp_cmd(command, arguments)

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def marks(self, chart: str) -> int:
        """Return how many shapes an interactive chart shows."""
        return int(self.run(f"document.querySelectorAll('#chart-{chart} .live svg path').length"))

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requests(self) -> list[str]:
        """Return the addresses that the page asked for, itself and the images written into it left out."""
        events = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
        urls = [a["request"]["url"] for a in asked if a["documentURL"].endswith("report.html")]
        return [url for url in urls if not url.endswith("report.html") and not url.startswith("data:image/png;")]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    folder = tmp_path_factory.mktemp("browser")
    options = ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(DRIVER)))
    try:
        yield Browser(driver, folder)
    finally:
        driver.quit()
        shutil.rmtree(folder, ignore_errors=True)


def documents() -> dict[str, FrontDocument]:
    return {
        "rich": rich_front(),
        "hostile": hostile_front(),
        "three objectives": rich_front(objectives=[*front_json()["objectives"], PARAMETERS]),
        "one member": rich_front(1),
        "empty": front(members=[], picks={}, constraints=[]),
        "reference": read_front(REFERENCE),
    }


@pytest.mark.parametrize("name", documents())
def test_a_page_is_silent_asks_for_nothing_and_does_not_scroll_sideways(browser: Browser, name: str) -> None:
    document = documents()[name]
    for size, dark in ((WIDE, False), (NARROW, True)):
        browser.open(document, size, dark=dark)
        charts = browser.run("plots.map(p => [p.host.dataset.chart, p.plot.getWidth()])")
        assert len(charts) == len(browser.all(".figure .live"))
        assert all(width > 200 for _, width in charts)
        assert browser.run("document.documentElement.scrollWidth") <= size[0]
        assert browser.complaints() == []
        assert browser.requests() == []


@pytest.mark.parametrize("name", ["rich", "hostile"])
def test_pictures_are_shown_and_their_texts_stay_text(browser: Browser, name: str) -> None:
    document = documents()[name]
    for size, scripts in ((WIDE, True), (NARROW, False)):
        browser.open(document, size, scripts=scripts)
        shown = rich_pictures(document).shown
        assert len(browser.all("#before-after details")) == len(shown)
        assert len(browser.all("#before-after details[open]")) == 1
        summary = browser.all("#before-after summary")[1]
        summary.send_keys(Keys.ENTER)
        assert len(browser.all("#before-after details[open]")) == 2
        assert len(browser.all("#before-after table img")) == 8
        assert len(browser.all("#before-after .filter.gone")) > 0
        drawn = browser.all("#before-after img, #robustness svg")
        assert all(image.size["width"] > 0 for image in drawn if image.is_displayed())
        assert document.run[:8] in browser.find("#before-after table").text
        assert len(browser.all("#before-after script, #robustness script")) == 0
        if scripts:
            loaded = "[...document.querySelectorAll('#before-after details[open] img')].every(i => i.naturalWidth > 0)"
            assert browser.run(loaded)
        assert browser.complaints() == []


@pytest.mark.parametrize("size", [WIDE, NARROW])
def test_without_scripts_front_and_table_are_there_and_controls_are_not(
    browser: Browser, size: tuple[int, int]
) -> None:
    browser.open(rich_front(), size, scripts=False)
    assert browser.find(f"{FRONT} .static svg").is_displayed()
    assert len(browser.all("#models tbody tr")) == 8
    assert "6.94x" in browser.find("#models").text
    assert not any(e.is_displayed() for e in browser.all("#choose, #switches, #theme, .live"))
    assert browser.find("h1").text.startswith("Take model 2.95x")


def test_sliders_name_the_model_that_pick_chooses_and_its_command(browser: Browser) -> None:
    document = rich_front()
    names = {member.id: member.name for member in document.members}
    browser.open(document)
    chosen = set()
    for positions in ((0, 200), (90, 200), (0, 60), (40, 120), (120, 170), (200, 200), (0, 0)):
        for index, position in enumerate(positions):
            browser.run(f"byId('slider-{index}').value = {position}")
            browser.run(f"byId('slider-{index}').dispatchEvent(new Event('input'))")
        command = browser.find("#chosen-command").text
        identity = picked_by(document, command)
        assert browser.find("#chosen strong").text == names[identity]
        assert [row.get_attribute("data-model") for row in browser.all("#models tr.chosen")] == [identity]
        chosen.add(identity)
    assert len(chosen) >= 4


def test_limits_that_no_model_meets_give_no_command_but_the_reachable_ranges(browser: Browser) -> None:
    browser.open(rich_front())
    browser.find("#bound-0").send_keys("0.98")
    assert browser.find("#chosen-command").is_displayed()
    browser.find("#bound-1").send_keys("0.6")
    assert not browser.find("#chosen-command").is_displayed()
    assert "No model meets these limits together. Reachable: accuracy 92.4% to 98.4%" in browser.find("#chosen").text


def test_what_is_no_number_is_marked_and_changes_nothing(browser: Browser) -> None:
    browser.open(rich_front())
    before = browser.find("#chosen-command").text
    browser.find("#bound-0").send_keys("0.9; rm")
    assert browser.find("#bound-0").get_attribute("aria-invalid") == "true"
    assert "rm" not in browser.find("#chosen-command").text
    browser.find("#bound-0").clear()
    assert browser.find("#bound-0").get_attribute("aria-invalid") is None
    assert browser.find("#chosen-command").text == before


def test_a_slider_moves_by_the_keyboard(browser: Browser) -> None:
    browser.open(rich_front())
    slider = browser.find("#slider-1")
    slider.send_keys(Keys.ARROW_LEFT * 30)
    assert "--max-latency-ms" in browser.find("#chosen-command").text
    assert slider.get_attribute("aria-valuetext") == browser.find("#shown-1").text != "any"
    slider.send_keys(Keys.END)
    assert "--max-latency-ms" not in browser.find("#chosen-command").text


def test_switches_take_candidates_controls_and_unfit_models_away(browser: Browser) -> None:
    plain = rich_front().to_json()
    plain["members"][1]["feasible"] = False
    browser.open(FrontDocument.model_validate(plain))
    chart = "front-val-latency_ms"
    for switch in ("show-candidates", "show-controls", "only-feasible"):
        before = browser.marks(chart)
        browser.find(f"#{switch}").send_keys(Keys.SPACE)
        assert browser.marks(chart) < before, switch
        browser.find(f"#{switch}").send_keys(Keys.SPACE)
        assert browser.marks(chart) == before, switch


def test_the_theme_changes_by_the_keyboard_and_charts_follow(browser: Browser) -> None:
    browser.open(rich_front())
    colours = []
    for _ in range(2):
        colours.append(
            (browser.run("getComputedStyle(document.body).backgroundColor"), browser.run("colourOf('s-dense')"))
        )
        browser.find("#theme").send_keys(Keys.ENTER)
    assert colours[0] != colours[1]
    assert browser.find("#theme").get_attribute("aria-pressed") == "false"
    browser.find("#theme").send_keys(Keys.SPACE)
    assert browser.run("plots[0].option.xAxis.nameTextStyle.color") == browser.run("variable('ink')")


def test_arrow_keys_step_through_the_front_and_enter_chooses(browser: Browser) -> None:
    browser.open(rich_front())
    chart = browser.find(f"{FRONT} .live")
    chart.send_keys(Keys.ARROW_RIGHT)
    assert browser.find(f"{FRONT} .spoken").get_attribute("textContent").startswith("6.94x")
    chart.send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
    assert browser.find("#chosen strong").text == "5.22x"


def test_every_control_is_reached_by_tab_with_a_visible_focus(browser: Browser) -> None:
    browser.open(rich_front())
    seen: list[str] = []
    while len(seen) < 100:
        ActionChains(browser.driver).send_keys(Keys.TAB).perform()
        if browser.run("document.activeElement === document.body"):
            break
        seen.append(browser.run("document.activeElement.id || document.activeElement.className"))
        assert browser.run("getComputedStyle(document.activeElement).outlineStyle") != "none", seen[-1]
    wanted = {"theme", "slider-0", "bound-1", "show-candidates", "only-feasible", "brush", "live", "copy"}
    assert seen[0] == "skip"
    assert wanted <= set(seen)


def test_dragging_selects_models_in_all_charts_and_the_table(browser: Browser) -> None:
    browser.open(rich_front())
    browser.find("#brush").send_keys(Keys.SPACE)
    plot = browser.find(f"{FRONT} .plot")
    browser.run(f"document.querySelector('{FRONT}').scrollIntoView()")
    width, height = plot.size["width"], plot.size["height"]
    drag = ActionChains(browser.driver).move_to_element_with_offset(plot, -width // 2 + 60, -height // 2 + 40)
    drag.click_and_hold().move_by_offset(width // 4, height // 2).move_by_offset(20, height // 4).release().perform()
    WebDriverWait(browser.driver, 5).until(lambda _: "models selected" in browser.find("#selection").text)
    dim = len(browser.all("#models tr.dim"))
    assert browser.find("#selection").text == f"{7 - dim} of 7 models selected"
    assert 0 < dim < 7
    strands = "plots.find(p => p.chart.type === 'parallel').option.series"
    assert browser.run(f"{strands}.filter(s => s.lineStyle.opacity < 0.2).length") >= dim
    browser.find("#brush").send_keys(Keys.SPACE)
    assert browser.all("#models tr.dim") == []
    assert browser.complaints() == []


def test_resting_on_a_point_tells_its_figures(browser: Browser) -> None:
    browser.open(rich_front())
    browser.run(f"document.querySelector('{FRONT}').scrollIntoView()")
    x, y = browser.run("plots[0].plot.convertToPixel({xAxisIndex: 0, yAxisIndex: 0}, plots[0].stops[0].item.value)")
    plot = browser.find(f"{FRONT} .plot")
    offset = (int(x - plot.size["width"] / 2), int(y - plot.size["height"] / 2))
    ActionChains(browser.driver).move_to_element_with_offset(plot, *offset).perform()
    WebDriverWait(browser.driver, 5).until(lambda _: "accuracy (%) on test" in plot.get_attribute("textContent"))
    assert "accuracy (%) on test: 92.4" in plot.get_attribute("textContent")
    assert browser.complaints() == []


def test_an_injected_script_style_or_request_is_refused(browser: Browser) -> None:
    browser.open(rich_front())
    browser.run(
        "(() => { window.refused = [];"
        "addEventListener('securitypolicyviolation', e => refused.push(e.effectiveDirective));"
        "const s = document.createElement('script'); s.textContent = 'window.hacked = true'; document.body.append(s);"
        "document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\" onclick=\"hacked = true\">x</p>');"
        "document.body.lastChild.click(); new Image().src = 'http://127.0.0.1:9/x.png'; })()"
    )
    WebDriverWait(browser.driver, 5).until(lambda _: len(browser.run("refused")) >= 4)
    assert set(browser.run("refused")) == {"script-src-elem", "style-src-attr", "script-src-attr", "img-src"}
    assert browser.run("window.hacked") is None


def test_on_paper_all_static_figures_are_there_and_nothing_to_press(browser: Browser) -> None:
    browser.open(rich_front(), dark=True)
    browser.media("print", dark=True)
    seen = "e => e.getBoundingClientRect().height > 0 && e.checkVisibility({contentVisibilityAuto: true})"
    assert browser.run(f"[...document.querySelectorAll('.figure .static')].every({seen})")
    assert all(section.is_displayed() for section in browser.all("section:not(#choose)"))
    assert not any(e.is_displayed() for e in browser.all(".live, button, input, nav, #choose, #switches"))
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.media("screen")
