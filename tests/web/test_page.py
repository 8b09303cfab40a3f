"""The page in headless Chromium."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest


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
def visited(url: str, browser: Any) -> Iterator[Any]:
    """A tab on the page. The page requests only its own server, and the console stays empty."""
    with browser.new_context(viewport={"width": 1180, "height": 900}, reduced_motion="reduce") as context:
        tab = context.new_page()
        requested: list[str] = []
        messages: list[str] = []
        tab.on("request", lambda request: requested.append(request.url))
        tab.on("console", lambda message: messages.append(message.text))
        tab.on("pageerror", lambda error: messages.append(str(error)))
        tab.goto(url)
        tab.wait_for_selector("body[data-state=ready]")
        yield tab
        assert {urlsplit(each).netloc for each in requested if not each.startswith(("blob:", "data:"))} == {
            urlsplit(url).netloc
        }
        # Chromium reports the requests that a test aborts.
        assert not [each for each in messages if "ERR_FAILED" not in each]


def click_goal(tab: Any, x: float, y: float) -> None:
    box = tab.locator("#plane").bounding_box()
    tab.mouse.click(box["x"] + (x + 0.8) / 1.6 * box["width"], box["y"] + (0.8 - y) / 1.6 * box["height"])


def rounds(tab: Any, count: int) -> list[dict[str, float]]:
    tab.wait_for_selector("body[data-state=done], body[data-state=error]", timeout=120_000)
    assert tab.get_attribute("body", "data-state") == "done", tab.inner_text("#status")
    found: list[dict[str, float]] = json.loads(tab.get_attribute("body", "data-rounds"))
    assert len(found) == count
    return found


def test_a_click_adapts_a_policy_that_reaches_the_goal(visited: Any, tmp_path: Path) -> None:
    click_goal(visited, -0.35, 0.4)
    found = rounds(visited, 4)
    # θ stays near the start. The first step reaches the goal, and later steps stay there.
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
    # At the start the policy moves towards the goal.
    action = policy.act([0.0, 0.0])
    assert action[0] < 0 < action[1]


def test_the_keyboard_chooses_a_goal(visited: Any) -> None:
    visited.focus("#plane")
    for key in ["ArrowUp"] * 8 + ["Enter"]:
        visited.keyboard.press(key)
    found = rounds(visited, 4)
    assert found[3]["distance"] < 0.05
    assert visited.locator("#paths > g").count() == 4


def test_an_unreachable_server_is_reported(visited: Any) -> None:
    visited.route("**/api/**", lambda route: route.abort())
    click_goal(visited, 0.2, 0.2)
    visited.wait_for_selector("body[data-state=error]")
    assert "does not answer" in visited.inner_text("#status")
    visited.unroute("**/api/**")
    # The next click succeeds.
    click_goal(visited, 0.2, 0.2)
    rounds(visited, 4)


def test_adapting_once_more_by_keyboard_keeps_the_focus(visited: Any) -> None:
    visited.focus("#plane")
    visited.keyboard.press("Enter")
    rounds(visited, 4)
    visited.focus("#more")
    visited.keyboard.press("Enter")
    visited.wait_for_selector("body[data-state=uploading], body[data-state=adapting], body[data-state=collecting]")
    assert visited.evaluate("document.activeElement.id") == "more"
    rounds(visited, 5)
    assert visited.evaluate("document.activeElement.id") == "more"


def test_an_unfamiliar_goal_is_tried_and_every_step_has_its_verdict(visited: Any) -> None:
    click_goal(visited, 0.74, 0.7)
    found = rounds(visited, 4)
    verdicts = visited.locator("#log .verdict")
    assert verdicts.count() == 3
    decisions = [each.get_attribute("data-decision") for each in verdicts.all()]
    assert set(decisions) <= {"TAKEN", "SHORTENED", "HELD", "ROLLED_BACK"}
    # The first step is judged by its own episodes, the others by their effect too.
    assert "the step before gained" in verdicts.nth(1).inner_text()
    # The best policy is offered, whichever was the last.
    best = int(visited.get_attribute("body", "data-best"))
    assert best > 0
    assert found[best]["mean_return"] >= max(found[0]["mean_return"], found[3]["mean_return"])
    assert f"θ′{'₀₁₂₃'[best]} is the best policy" in visited.inner_text("#status")


def test_where_the_last_policy_is_worse_the_best_one_is_downloaded(visited: Any, tmp_path: Path) -> None:
    import thetaprime.client as tp

    policies: list[dict[str, Any]] = []

    def answer(route: Any) -> None:
        reply = route.fetch()
        body = reply.json()
        if "policy" in body:
            if len(policies) == 3:
                body["policy"] = policies[0]  # the last step leads back to θ
            policies.append(body["policy"])
        route.fulfill(response=reply, json=body)

    visited.route("**/api/sessions**", answer)
    click_goal(visited, 0.3, 0.3)
    rounds(visited, 4)
    best = int(visited.get_attribute("body", "data-best"))
    assert best in (1, 2)
    assert visited.inner_text("#status").startswith(f"θ′₃ returned less; θ′{'₀₁₂'[best]} is the best policy")
    with visited.expect_download() as download:
        visited.click("#save")
    download.value.save_as(tmp_path / "policy.onnx")
    assert tp.AdaptedPolicy.load(tmp_path / "policy.onnx").policy_id == policies[best]["policy_id"]


STYLE = """
(selector) => {
  const style = getComputedStyle(document.querySelector(selector));
  return [style.color, style.backgroundColor, style.borderTopColor, style.cursor];
}
"""


def test_a_disabled_download_looks_and_acts_disabled(visited: Any) -> None:
    assert visited.get_attribute("#save", "aria-disabled") == "true"
    disabled = visited.evaluate(STYLE, "#save")
    assert disabled == visited.evaluate(STYLE, "#more")
    assert disabled[3] == "default"
    visited.evaluate("() => { URL.createObjectURL = () => { throw new Error('a disabled button downloads'); }; }")
    visited.evaluate("() => document.addEventListener('click', (event) => { window.clicked = event.target.id; })")
    visited.click("#save", force=True)
    assert visited.evaluate("window.clicked") == "save"
    visited.evaluate("document.querySelector('#save').setAttribute('aria-disabled', 'false')")
    enabled = visited.evaluate(STYLE, "#save")
    assert enabled[0] != disabled[0]
    assert enabled[3] == "pointer"


# The contrast of each visible text of the page: WCAG 2.2, relative luminance, with opacity composited.
CONTRASTS = """
() => {
  const channels = (color) => (color.match(/[0-9.]+/g) ?? []).map(Number);
  const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const found = channels(getComputedStyle(element).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found.slice(0, 3);
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.querySelectorAll("body *")) {
    const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data.trim()).join("");
    if (!text || !element.getClientRects().length || element.closest("[aria-disabled=true], noscript")) continue;
    const style = getComputedStyle(element);
    const behind = background(element);
    const front = channels(element instanceof SVGElement ? style.fill : style.color);
    const alpha = (front[3] ?? 1) * Number(style.opacity);
    const mixed = behind.map((value, i) => alpha * front[i] + (1 - alpha) * value);
    const [dark, light] = [luminance(mixed), luminance(behind)].sort((a, b) => a - b);
    found.push([text.slice(0, 40), (light + 0.05) / (dark + 0.05)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_of_wcag(visited: Any, scheme: str) -> None:
    visited.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    click_goal(visited, 0.3, 0.3)
    rounds(visited, 4)
    found = visited.evaluate(CONTRASTS)
    texts = [text for text, _ in found]
    assert {"θ", "θ′₁", "θ′₂", "θ′₃"} <= set(texts)
    low = {text: round(contrast, 2) for text, contrast in found if contrast < 4.5}
    assert not low
