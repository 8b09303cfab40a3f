"""The page as a visitor meets it, in headless Chromium."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The page of ``thetaprime demo --web`` with the shipped meta-policies."""
    command = [sys.executable, "-m", "thetaprime.cli", "demo", "--web", "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "COLUMNS": "200"}) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        yield next(word for word in line.split() if word.startswith("http://127.0.0.1:"))
        process.send_signal(signal.SIGINT)
        assert process.stdout.read().strip() == "ended"
        assert process.wait(60) == 0


@pytest.fixture
def visited(url: str) -> Iterator[Any]:
    """A tab on the page; whatever it asks for is its own server's, and it never complains."""
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        tab = browser.new_page(viewport={"width": 1180, "height": 900}, reduced_motion="reduce")
        asked: list[str] = []
        complaints: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.on("console", lambda message: complaints.append(message.text))
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.goto(url)
        tab.wait_for_selector("body[data-state=ready]")
        yield tab
        assert {urlsplit(each).netloc for each in asked if not each.startswith(("blob:", "data:"))} == {
            urlsplit(url).netloc
        }
        # A request that a test cuts off is one that the browser complains of.
        assert not [each for each in complaints if "ERR_FAILED" not in each]
        browser.close()


def click_goal(tab: Any, x: float, y: float) -> None:
    box = tab.locator("#plane").bounding_box()
    tab.mouse.click(box["x"] + (x + 0.8) / 1.6 * box["width"], box["y"] + (0.8 - y) / 1.6 * box["height"])


def rounds(tab: Any, count: int) -> list[dict[str, float]]:
    tab.wait_for_selector("body[data-state=done], body[data-state=error]", timeout=120_000)
    assert tab.get_attribute("body", "data-state") == "done", tab.inner_text("#status")
    found: list[dict[str, float]] = json.loads(tab.get_attribute("body", "data-rounds"))
    assert len(found) == count
    return found


def test_a_click_becomes_a_policy_that_reaches_the_goal(visited: Any, tmp_path: Path) -> None:
    click_goal(visited, -0.35, 0.4)
    found = rounds(visited, 4)
    # θ stays about the start; one step leads to the goal, and later ones stay there.
    assert found[0]["distance"] > 0.3
    assert all(each["distance"] < 0.05 for each in found[1:])
    assert found[3]["mean_return"] > found[0]["mean_return"] + 20
    assert visited.locator("#paths > g").count() == 4
    assert visited.locator("#paths .path").count() == 80
    assert visited.locator("#log li").count() == 4

    visited.click("#more")
    assert len(rounds(visited, 5)) == 5
    with visited.expect_download() as download:
        visited.click("#save")
    download.value.save_as(tmp_path / "policy.onnx")
    import thetaprime.client as tp

    policy = tp.AdaptedPolicy.load(tmp_path / "policy.onnx")
    assert policy.meta_policy.startswith("point-navigation@")
    # Away from the start it heads for the goal.
    action = policy.act([0.0, 0.0])
    assert action[0] < 0 < action[1]


def test_another_goal_begins_anew_by_the_keyboard(visited: Any) -> None:
    visited.focus("#plane")
    for key in ["ArrowUp"] * 8 + ["Enter"]:
        visited.keyboard.press(key)
    found = rounds(visited, 4)
    assert found[3]["distance"] < 0.05
    assert visited.locator("#paths > g").count() == 4


def test_a_server_that_is_gone_is_told_in_a_sentence(visited: Any) -> None:
    visited.route("**/api/**", lambda route: route.abort())
    click_goal(visited, 0.2, 0.2)
    visited.wait_for_selector("body[data-state=error]")
    assert "does not answer" in visited.inner_text("#status")
    visited.unroute("**/api/**")
    # And the next click finds it again.
    click_goal(visited, 0.2, 0.2)
    rounds(visited, 4)
