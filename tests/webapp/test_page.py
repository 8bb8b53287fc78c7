"""webapp/page.py: the page as a person meets it, in a real Chromium, with the real Hermes, on the stand-in."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the app needs nicegui, which is not installed")
pytest.importorskip("trustme", reason="the stand-in needs trustme, which is not installed")
pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")

from playwright.sync_api import Page, Route, expect

from tests.conftest import ROOT
from tests.served import Served, until
from tests.standin import OPUS_4_7, StandIn
from tests.webapp.browsing import (
    BUFFER,
    CLIPBOARD,
    PATIENCE,
    PROMPTS,
    SCREEN,
    Open,
    Relay,
    copied,
    dialog,
    drawn,
    focused,
    holds,
    line,
    link,
    prompt,
    ready,
    run,
    sees,
    shot,
    submit,
    tabs,
)
from tests.webapp.logins import write_config
from webapp.description import describe

# --- Hermes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base_url", "shown"),
    [
        ("https://1.0.ai-gateway.azuredatabricks.net/openai", "m · AI Gateway"),
        ("https://adb-1.2.azuredatabricks.net/ai-gateway/mlflow/v1", "m · AI Gateway"),
        ("https://gateway.example/mlflow/v1/", "m · AI Gateway"),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints", "m · direct"),
        ("https://adb-1.2.azuredatabricks.net/serving-endpoints/", "m · direct"),
        ("https://openrouter.ai/api/v1", "m · openrouter.ai"),
        ("https://user:secret@other.example/v1", "m · other.example"),
        ("", "m · no route"),
    ],
)
def test_the_line_tells_model_and_route(tmp_path: Path, base_url: str, shown: str) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, base_url)
    assert describe(config) == shown


def test_the_line_names_the_provider_that_a_model_names(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("model: {default: m, provider: 'custom:databricks-direct', base_url: ''}\n")
    assert describe(config) == "m · databricks-direct"


def test_the_line_follows_the_config(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    assert describe(config) == ""
    write_config(config, "https://h/serving-endpoints")
    assert describe(config) == "m · direct"
    write_config(config, "https://h/ai-gateway/mlflow/v1")
    assert describe(config) == "m · AI Gateway"


def test_the_line_says_what_the_setup_learnt(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    write_config(config, "https://h/serving-endpoints")
    for memory, shown in (
        *[
            (text, "m · direct")
            for text in (
                '{"proved": true}',
                '{"proved": null}',
                "{}",
                "[]",
                "",
                "[" * 99999,
                "\udcff",
            )
        ],
        ('{"proved": false}', "NOT PROVED · m · direct"),
    ):
        (tmp_path / ".config.yaml.setup").write_bytes(memory.encode("utf-8", "surrogateescape"))
        assert describe(config) == shown


def bombs(folder: Path) -> dict[str, Callable[[], object]]:
    """What a program may put where Hermes's config is, and each once held up the whole app."""
    config = folder / "config.yaml"
    model = "model: {default: m, base_url: https://h/serving-endpoints}\n"
    merges = "a0: &a0 {k: 1}\n" + "".join(
        f"a{n}: &a{n}\n  <<: [*a{n - 1}, *a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40)
    )
    return {
        "fifo": lambda: os.mkfifo(config),
        "folder": config.mkdir,
        "loop of links": lambda: config.symlink_to(config),
        "no end": lambda: config.symlink_to("/dev/zero"),
        "merges of merges": lambda: config.write_text(merges + model),
        "300 kB": lambda: config.write_text(model + "# \n" * 100_000),
        "300 kB of model": lambda: config.write_text("model:\n" + "  k: v\n" * 50_000),
    }


@pytest.mark.fault("hostile YAML")
@pytest.mark.parametrize("kind", bombs(Path()))
def test_no_config_holds_up_the_line_or_the_token(tmp_path: Path, kind: str) -> None:
    bombs(tmp_path)[kind]()
    code = """if True:
        import resource, sys, pathlib
        resource.setrlimit(resource.RLIMIT_AS, (10**9, 10**9))
        from webapp.description import describe
        from webapp.tokens import keep_token_fresh, TokenNews
        from tests.webapp.logins import Login
        config, news = pathlib.Path(sys.argv[1]), TokenNews()
        print(describe(config))
        try: keep_token_fresh(config, lambda: Login(lambda: "one"), lambda _: 1 / 0, news)
        except ZeroDivisionError: print(news.trouble)
    """
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "config.yaml")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE / 1000,
        check=True,
    )
    shown, trouble = done.stdout.splitlines()
    assert shown == ("m · direct" if kind == "merges of merges" else "")
    assert ("No fresh token (" in trouble) == (kind != "loop of links")


def test_the_line_names_no_model_while_hermes_is_off(window: Open, shells: Served) -> None:
    write_config(shells.home / ".hermes" / "config.yaml", "https://h/serving-endpoints")
    page = window(shells.url)
    line(page, "Hermes is turned off (ENABLE_HERMES).")
    expect(page.locator(".line")).not_to_contain_text("direct")
    expect(page.get_by_role("link", name="Dashboard")).to_be_hidden()


@pytest.mark.parametrize(
    "text",
    [
        *["", "a: b: c", "[]", "model: m", "model: {default: m}", "\x00", "\udcff", "[" * 9999],
        *[
            f"model: {{default: m, base_url: {url}}}"
            for url in ("3", "[]", "", "2026-01-01", "'http://['")
        ],
    ],
)
def test_a_config_that_says_nothing_of_it_breaks_nothing(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.yaml"
    config.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert describe(config) == ""


@contextmanager
def held(served: Served, program: str) -> Iterator[None]:
    """Stop a program of the app's as soon as it runs, for as long as the context."""

    def numbers() -> list[int]:
        found = []
        for number in served.numbers():
            with suppress(OSError):
                if program in Path(f"/proc/{number}/cmdline").read_text():
                    found.append(number)
        return found

    until(numbers, served.log.read_text)
    number = min(numbers())  # what it starts looks like it for a moment
    os.kill(number, signal.SIGSTOP)
    yield
    os.kill(number, signal.SIGCONT)


COUNT_QUERIES = """() => {
  const page = Object.values(mounted_app.$refs).find(r => r?.terminal);
  window.queries = 0;
  page.terminal.parser.registerOscHandler(11, () => { window.queries += 1; return false; });
}"""


def test_setup_shows_and_hermes_answers_through_the_gateway(
    window: Open, installed_hermes: Path
) -> None:
    with StandIn(latency=0.5) as standin, Served(standin.env, installed_hermes) as served:
        with held(served, "setup_hermes"):
            page = window(served.url)
            line(page, "Hermes is being set up")
            page.evaluate(COUNT_QUERIES)
        sees(page, "Hermes:")
        shot(page, "1-setup")
        standin.latency = 0.0
        prompt(page)
        line(page, f"{OPUS_4_7} · AI Gateway")
        link(page, "connected")
        submit(
            page,
            "good morning",
            f"{OPUS_4_7} through https://{standin.gateway_host}/openai: good morning",
        )
        assert page.evaluate("queries") == 0  # an answer that comes late would be typed text
        shot(page, "2-chat")
        asked = [r for r in standin.chats() if r.status == 200][-1]
        assert (asked.host, asked.path, asked.model) == (
            standin.gateway_host,
            "/openai/chat/completions",
            OPUS_4_7,
        )

        # A reload comes back to the same conversation.
        page.reload()
        sees(page, "openai: good morning")
        assert "?terminal=1" in page.url
        submit(page, "and again", "openai: and again")
        assert page.evaluate(BUFFER).count("Welcome to Hermes") == 1
        shot(page, "3-reload")

        # Leaving the chat is not the end: there is a shell, in ~/projects.
        submit(page, "/exit", "~/projects")
        run(
            page,
            "pwd; command -v hermes; echo token:${DATABRICKS_TOKEN:+here} id:${DATABRICKS_CLIENT_ID-none}",
        )
        sees(page, f"{served.home}/projects")
        sees(page, f"{served.home}/.local/bin/hermes")
        sees(page, "token:here id:none")
        shot(page, "4-shell")


@pytest.mark.slow
def test_after_a_restart_the_page_says_how_the_conversation_goes_on(
    window: Open, installed_hermes: Path, workspace: StandIn, tmp_path: Path
) -> None:
    with Served(workspace.env, installed_hermes) as served:
        page = window(served.url)
        prompt(page)
        expect(page.locator(".q-notification")).to_have_count(0)
        submit(page, "good morning", "openai: good morning")
        submit(page, "/exit", PROMPTS)
        home = tmp_path / "home"
        shutil.copytree(served.home / ".hermes", home / "saved")
        shutil.copytree(served.home / ".local", home / ".local", symlinks=True)
    with Served(workspace.env, tmp_path / "home") as served:
        page = window(served.url)
        prompt(page)
        told = page.locator(".q-notification")
        expect(told).to_contain_text("/exit, then `hermes chat --continue`")
        shot(page, "22-continue")
        told.get_by_role("button", name="Got it").click()
        submit(page, "/exit", PROMPTS)
        run(page, "clear; hermes chat --continue")
        sees(page, "openai: good morning")


@pytest.mark.slow
def test_one_chat_three_answers_three_tokens(window: Open, installed_hermes: Path) -> None:
    with StandIn(oauth=9) as standin, Served(standin.env, installed_hermes) as served:
        page = window(served.url)
        prompt(page)
        answers, known = [], set[str]()

        def renewed() -> bool:
            return len(set(standin._expiring) - known) >= 2  # the last but one is in the config

        for question in ("first", "second", "third"):
            until(renewed, lambda: "no new token is asked for")
            before = len(standin.chats())
            submit(page, f"{question} question", f"openai: {question} question")
            answers.append(standin.chats()[before:])
            known = set(standin._expiring)
        assert all(r.status == 200 for asked in answers for r in asked)
        first, second, third = ({r.token for r in asked} for asked in answers)
        assert first
        assert second - first
        assert third - second - first
        assert not (first & second | second & third | first & third)
        submit(page, "/exit", PROMPTS)
        run(page, "echo secret:${DATABRICKS_CLIENT_SECRET-none}")
        sees(page, "secret:none")
        assert not any(token in served.log.read_text() for token in standin._expiring)


def test_a_setup_that_fails_says_why_there_and_among_the_routes_and_gives_a_shell(
    window: Open, stub_hermes: Path, workspace: StandIn
) -> None:
    with Served(workspace.env, stub_hermes, DATABRICKS_HOST="no host at all") as served:
        page = window(served.url)
        sees(page, "DATABRICKS_HOST")
        sees(page, "Hermes could not be set up")
        run(page, "echo the shell $((40 + 2))")
        sees(page, "the shell 42")
        line(page, "Hermes could not be set up")
        shot(page, "6-setup-failed")
        page.get_by_role("button", name="Hermes could not be set up").click()
        routes = dialog(page, "Routes")
        expect(routes).to_contain_text("DATABRICKS_HOST: 'no host at all' is not valid")
        expect(routes).to_contain_text("Hermes could not be set up")
        shot(page, "20-routes-setup-failed")


def test_a_token_that_comes_late_makes_hermes_ready(
    window: Open, stub_hermes: Path, workspace: StandIn
) -> None:
    env = {k: v for k, v in workspace.env.items() if not k.startswith("DATABRICKS_")}
    with Served(env, stub_hermes) as served:
        page = window(served.url)
        sees(page, "Hermes waits for a Databricks token")
        profile = (
            f"[DEFAULT]\nhost = https://{workspace.workspace_host}\ntoken = {workspace.token}\n"
        )
        (served.home / ".databrickscfg").write_text(profile)
        run(page, "echo the old shell $((40 + 2))")
        sees(page, "the old shell 42")
        page.get_by_role("button", name="New terminal", exact=True).click()
        prompt(page)
        line(page, OPUS_4_7)


# --- The terminal ---------------------------------------------------------------------------------------------------------


def test_the_terminal_fills_the_window_and_follows_its_size(page: Page) -> None:
    run(page, "stty size")
    holds(page, f"/\\d+ 1\\d\\d/.test(({BUFFER})())")
    first = re.findall(r"^(\d+) (\d+)$", page.evaluate(BUFFER), re.MULTILINE)[-1]
    assert page.evaluate(
        "[document.documentElement.scrollHeight <= innerHeight, document.documentElement.scrollWidth <= innerWidth]"
    ) == [True, True]
    screen, below = (
        page.locator(".xterm-screen").bounding_box(),
        page.locator(".line").bounding_box(),
    )
    assert screen
    assert below
    assert below["y"] + below["height"] == 700
    assert 0 <= below["y"] - (screen["y"] + screen["height"]) < 25
    assert 1200 - (screen["x"] + screen["width"]) < 40
    page.set_viewport_size({"width": 800, "height": 500})
    holds(page, "document.querySelector('.xterm-screen').getBoundingClientRect().width < 800")
    run(page, "while sleep 0.2; do stty size; done")

    def size() -> tuple[str, str]:
        return re.findall(r"^(\d+) (\d+)$", page.evaluate(BUFFER), re.MULTILINE)[-1]  # type: ignore[no-any-return]

    until(
        lambda: int(size()[0]) < int(first[0]) and int(size()[1]) < int(first[1]),
        lambda: f"{size()} after {first}",
    )


def test_a_flood_arrives_whole_and_in_order(page: Page) -> None:
    run(page, "seq 300000; echo the end")
    sees(page, "299999")
    holds(page, f"/300000\\s+the end/.test(({BUFFER})())")
    numbers = [int(n) for n in re.findall(r"^\d+$", page.evaluate(BUFFER), re.MULTILINE)]
    assert numbers == list(range(300001 - len(numbers), 300001))
    assert len(numbers) > 9000


def test_characters_of_every_kind_arrive_and_can_be_typed(page: Page) -> None:
    run(page, "printf '\\u00e9\\u20ac\\U1F41B</script>`${x}&amp;\\u2028.\\n'")
    sees(page, "é€🐛</script>`${x}&amp;\u2028.")
    page.keyboard.insert_text("echo 'größer 你好'")
    page.keyboard.press("Enter")
    holds(page, f"(({BUFFER})().match(/größer 你好/g) ?? []).length === 2")


# How far two pictures are apart at most, in one pixel of one colour: 0 to 255.
APART = """async pictures => {
  const [one, other] = await Promise.all(pictures.map(async picture => {
    const bitmap = await createImageBitmap(await (await fetch(`data:image/png;base64,${picture}`)).blob());
    const context = new OffscreenCanvas(bitmap.width, bitmap.height).getContext("2d");
    context.drawImage(bitmap, 0, 0);
    return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
  }));
  return one.reduce((most, value, n) => Math.max(most, Math.abs(value - other[n])), 0);
}"""
UNCUT = ".xterm .xterm-rows > div { overflow: visible !important; }"


@pytest.mark.parametrize(
    "scale",
    [pytest.param(1, marks=pytest.mark.slow), 1.25, pytest.param(2, marks=pytest.mark.slow)],
)
def test_no_row_cuts_its_glyphs(window: Open, shells: Served, scale: float) -> None:
    page = window(shells.url, device_scale_factor=scale)
    ready(page)
    run(page, "clear; printf '\\n____ DATABRICKS_TOKEN gjpqy|,;@{}[] \\e[1m__ gjpqy|\\n\\n'")
    row = page.locator(".xterm-rows > div").nth(1)
    expect(row).to_contain_text("____ DATABRICKS_TOKEN")
    for size, label, clicks in ((14, "", 0), (17, "Larger font", 3), (10, "Smaller font", 7)):
        for _ in range(clicks):
            page.get_by_label(label).click()
        drawn(page)
        box = row.bounding_box()
        assert box
        clip = {"x": box["x"], "y": box["y"] - 5, "width": 500, "height": box["height"] + 10}
        shot(page, f"12-glyphs-{size}-{scale}")
        pictures = [page.screenshot(clip=clip)]  # type: ignore[arg-type]
        style = page.add_style_tag(content=UNCUT)
        pictures.append(page.screenshot(clip=clip))  # type: ignore[arg-type]
        style.evaluate("element => element.remove()")
        # Where a row ends within a pixel, that one is a little darker.
        assert (
            page.evaluate(APART, [base64.b64encode(picture).decode() for picture in pictures]) < 64
        )


PASTE = """text => {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text/plain", text);
  document.querySelector(".xterm-helper-textarea").dispatchEvent(new ClipboardEvent("paste", {clipboardData, bubbles: true}));
}"""


@pytest.mark.parametrize("lines", [50_000, pytest.param(300_000, marks=pytest.mark.slow)])
def test_a_paste_of_megabytes_arrives_whole(page: Page, lines: int) -> None:
    paste = "".join(f'{n:07d} "ö🐛\\"\n' for n in range(lines))
    data = paste.encode()
    run(page, f"stty -icanon -echo; printf 'ready %d\\n' 1; head -c {len(data)} | cksum; stty sane")
    sees(page, "ready 1")
    page.evaluate(PASTE, paste)
    expected = (
        subprocess.run(["cksum"], input=data, capture_output=True, check=True)
        .stdout.decode()
        .strip()
    )
    sees(page, expected)
    run(page, "echo after $((1))")
    sees(page, "after 1")


def test_a_paste_that_nobody_reads_ends_with_control_c_and_is_for_its_own_terminal(
    page: Page,
) -> None:
    for end in ("Control+c", "another terminal"):
        run(page, "stty -icanon -echo; echo ready $((1)); sleep 600; stty sane; echo ended $((1))")
        sees(page, "ready 1")
        page.evaluate(PASTE, "unread\n" * 500_000)
        if end == "Control+c":
            page.keyboard.press(end)
            run(page, "stty sane; clear; echo awake $((2))")
            sees(page, "awake 2")
        else:
            page.get_by_role("button", name="New terminal").click()
            page.wait_for_url("**/?terminal=2")
            sees(page, "Hermes is turned off")
            # A piece that was on its way when the other terminal came has the number of the one before.
            page.evaluate(f"{SCREEN}.$emit('data', 'unread', 1, false)")
            run(page, "echo the second $((2))")
            sees(page, "the second 2")
            assert "unread" not in page.evaluate(BUFFER)


def test_a_paste_does_not_break_out_of_its_brackets(page: Page) -> None:
    run(
        page,
        "printf '\\e[?2004h'; stty -icanon -echo; printf 'ready %d\\n' 1; head -c 30 | od -An -c; stty sane",
    )
    sees(page, "ready 1")
    page.evaluate(PASTE, "a\x1b[201~\tb\nc\x00\x9b\ud800d")
    page.keyboard.type("........")
    sees(page, "[   2   0   1   ~  \\t   b  \\n")
    sees(page, "357 277 275   d 033   [   2   0   1   ~   .")
    assert page.evaluate(BUFFER).count("033") == 2  # the brackets' own


def test_numbers_beyond_any_screen_hang_nothing(page: Page, shells: Served) -> None:
    finals = ["b", "L", "M", "S", "T", "@", "P", "X", "I", "Z", " @", " A", "'}", "'~"]
    output = "".join(f"x\x1b[999999999{final}\n\x1bc" for final in finals)
    (shells.home / "output").write_text(f"{output}x\x1b[3by\n")
    run(page, "cat ~/output")
    sees(page, "xxxxy")


HOSTILE = {
    "20,000 accents on one letter": "e" + "\u0301" * 20_000,
    "a screen of accents": ("e" + "\u0301" * 40) * 5000,
    "scrolled up by the screen": "\x1b[%(rows)dS" * 8000,
    "lines put in by the hundred": "\x1b[1000L" * 8000,
    "one line of 2 MB": "x" * 2_000_000,
    "a title without an end": "\x1b]0;" + "x" * 2_000_000,
    "links of 100 kB": f"\x1b]8;;http://a/{'x' * 100_000}\x1b\\t\x1b]8;;\x1b\\\r\n" * 20,
}


# What is slow in itself, and bounded as what is next to it is.
SLOW = {"scrolled up by the screen", "20,000 accents on one letter"}


@pytest.mark.parametrize(
    "kind", [pytest.param(k, marks=[pytest.mark.slow] * (k in SLOW)) for k in HOSTILE]
)
def test_no_output_freezes_the_browser_nor_its_next_page(
    page: Page, shells: Served, kind: str
) -> None:
    rows = page.evaluate(f"{SCREEN}.terminal.rows")
    output = HOSTILE[kind].replace("%(rows)d", str(rows))
    (shells.home / "output").write_text(output)
    run(page, "cat ~/output; printf '\\e\\\\\\r\\nafter %d\\r\\n' $((1))")
    sees(page, "after 1")
    page.reload()
    sees(page, "after 1")


def test_find_goes_through_the_whole_scrollback(page: Page) -> None:
    run(
        page,
        "echo '你好 Needle (1)'; seq 3000; printf '%0300d\\n' 0 | sed 's/$/ wrapped nee''dle (2)/'",
    )
    sees(page, "dle (2)")
    page.keyboard.press("Control+Shift+F")
    expect(page.get_by_label("Find in the terminal")).to_be_focused()
    page.keyboard.type("needle (")
    expect(page.get_by_role("status")).to_have_text("3 of 3")
    shot(page, "13-find")
    selection = f"{SCREEN}.terminal.getSelection()"
    assert page.evaluate(selection) == "needle ("
    for at, text in ((2, "Needle ("), (1, "Needle ("), (3, "needle (")):
        page.keyboard.press("Enter")
        expect(page.get_by_role("status")).to_have_text(f"{at} of 3")
        assert page.evaluate(selection) == text
    page.keyboard.press("Shift+Enter")
    expect(page.get_by_role("status")).to_have_text("1 of 3")
    sees(page, "你好")
    page.keyboard.type("x[")
    expect(page.get_by_role("status")).to_have_text("not found")
    page.keyboard.press("Escape")
    page.keyboard.type("echo back $((1))\n")
    sees(page, "back 1")


def test_copy_and_paste_by_keys_and_by_the_browsers_menu(window: Open, shells: Served) -> None:
    page = window(shells.url, permissions=["clipboard-read", "clipboard-write"])
    ready(page)
    run(page, "clear; echo copy''me")
    sees(page, "copyme")
    word = page.locator(".xterm-rows > div", has_text="copyme").first
    word.dblclick(position={"x": 20, "y": 8})
    page.keyboard.press("Control+Shift+C")
    copied(page, "copyme")
    page.keyboard.type("echo got ")
    page.keyboard.press("Control+Shift+V")
    page.keyboard.press("Enter")
    sees(page, "got copyme")
    # A right click: the browser's own menu finds what is selected, and where to paste.
    word.dblclick(position={"x": 20, "y": 8})
    word.click(button="right", position={"x": 20, "y": 8})
    box = page.locator(".xterm-helper-textarea")
    expect(box).to_be_focused()
    assert box.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)") == "copyme"


def test_the_fonts_size_is_remembered(page: Page) -> None:
    size = f"{SCREEN}.terminal.options.fontSize"
    rows = "document.querySelector('.xterm-rows').children.length"
    before = page.evaluate(rows)
    for _ in range(3):
        page.get_by_label("Larger font").click()
    assert (page.evaluate(size), page.evaluate(rows) < before) == (17, True)
    # The browser says its size at most ten times a second.
    run(
        page,
        f"until stty size | grep '^{page.evaluate(rows)} '; do sleep 0.1; done; echo so $((1))",
    )
    sees(page, "so 1")
    page.reload()
    sees(page, "Hermes is turned off")
    assert page.evaluate(size) == 17
    for _ in range(30):
        page.get_by_label("Smaller font").click()
    assert page.evaluate(size) == 8


def test_on_a_phone_there_are_the_keys_that_its_keyboard_lacks(
    window: Open, shells: Served
) -> None:
    page = window(
        shells.url,
        viewport={"width": 390, "height": 700},
        device_scale_factor=3,
        is_mobile=True,
        has_touch=True,
    )
    ready(page)
    page.locator(".screen").tap()
    run(page, "sleep 600")
    page.get_by_label("Ctrl", exact=True).tap()
    expect(page.get_by_label("Ctrl", exact=True)).to_have_attribute("aria-pressed", "true")
    page.keyboard.type("c")
    expect(page.get_by_label("Ctrl", exact=True)).to_have_attribute("aria-pressed", "false")
    run(page, "clear; echo first $((1))")
    sees(page, "first 1")
    for key in ("Up", "Left", "Left"):
        page.get_by_label(key, exact=True).tap()
    page.keyboard.type("9")
    page.keyboard.press("Enter")
    sees(page, "first 19")
    page.keyboard.type("echo >/dev/nul")
    page.get_by_label("Tab").tap()
    sees(page, "/dev/null")
    page.get_by_label("Ctrl", exact=True).tap()
    page.keyboard.type("u")
    run(page, "cat -v")
    page.get_by_label("Esc").tap()
    page.keyboard.press("Enter")
    sees(page, "^[")
    overflow = "[document.documentElement.scrollWidth > innerWidth, document.documentElement.scrollHeight > innerHeight]"
    assert page.evaluate(overflow) == [False, False]
    for number in (2, 3):
        page.get_by_label("New terminal").tap()
        page.wait_for_url(f"**/?terminal={number}")
    for name in (
        "Files",
        "Terminal 3",
        "Smaller font",
        "Larger font",
        "Find (Ctrl+Shift+F)",
        "New terminal",
        "Right",
    ):
        expect(page.get_by_label(name, exact=True)).to_be_in_viewport(ratio=1)
    words = page.locator(".route .block")
    assert words.evaluate("e => e.scrollWidth <= e.clientWidth"), "the route is cut"
    shot(page, "14-phone")
    page.get_by_label("Find (Ctrl+Shift+F)").tap()
    page.keyboard.type("not there")
    expect(page.get_by_role("status")).to_have_text("not found")
    bar = page.get_by_role("search").bounding_box()
    assert bar
    assert bar["x"] >= 0


def test_links_open_in_a_page_of_their_own(page: Page, shells: Served) -> None:
    link = f"{shells.url}/health"
    run(
        page,
        f"clear; echo plain {link}; printf '\\e]8;;{link}\\e\\\\linked text\\e]8;;\\e\\\\\\n'; echo do''ne",
    )
    sees(page, "done")
    for text, x in (("plain http", 80), ("linked text", 40)):
        row = page.locator(".xterm-rows > div", has_text=text).last
        row.hover(position={"x": x, "y": 8})
        page.wait_for_selector(".xterm-cursor-pointer")
        with page.context.expect_page() as opened:
            row.click(position={"x": x, "y": 8})
        assert opened.value.url == link
        assert opened.value.evaluate("window.opener") is None
        opened.value.close()


def test_a_program_copies_after_one_click_of_consent(window: Open, shells: Served) -> None:
    page = window(shells.url, permissions=["clipboard-read", "clipboard-write"])
    ready(page)
    page.evaluate("navigator.clipboard.writeText('as before')")
    copy = "printf '\\e]52;c;%s\\a' \"$(printf '{}' | base64)\"; echo {}"
    run(page, "printf '\\e]52;c;?\\a\\e]52;c;*\\a'; echo a question $((1))")
    sees(page, "a question 1")
    expect(page.get_by_role("alert")).to_have_count(0)
    run(page, copy.format("grüße", "sent $((1))"))
    expect(page.get_by_role("alert")).to_contain_text("wants to copy")
    shot(page, "15-consent")
    assert page.evaluate(CLIPBOARD) == "as before"
    page.get_by_role("button", name="Allow").click()
    copied(page, "grüße")
    run(page, copy.format("again", "sent $((2))"))
    copied(page, "again")
    # What is shown once more, after a reload, is not copied once more; and the consent was for that page.
    page.evaluate("navigator.clipboard.writeText('mine')")
    page.reload()
    sees(page, "sent 2")
    run(page, "echo alive $((3))")
    sees(page, "alive 3")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.evaluate(CLIPBOARD) == "mine"
    run(page, copy.format("no", "sent $((4))"))
    page.get_by_role("button", name="No", exact=True).click()
    run(page, copy.format("no", "sent $((5))"))
    sees(page, "sent 5")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert page.evaluate(CLIPBOARD) == "mine"


def test_a_slow_page_gets_its_terminal_and_quick_reloads_leave_no_traceback(
    window: Open, shells: Served
) -> None:
    before = len(shells.log.read_text())
    page = window(shells.url)
    for _ in range(20):
        page.goto(shells.url, wait_until="commit")

    def late(route: Route) -> None:
        time.sleep(4)  # how slow it is: this is the test's input
        route.continue_()

    page.route("**/xterm.css", late)
    page.goto(shells.url)
    sees(page, "Hermes is turned off")
    assert "Traceback" not in shells.log.read_text()[before:]


def test_two_windows_share_one_session(window: Open, shells: Served) -> None:
    first = window(shells.url)
    ready(first)
    second = window(f"{shells.url}/?terminal=1")
    ready(second)
    run(first, "echo from the $((1))st")
    sees(second, "from the 1st")
    run(second, "echo from the $((2))nd")
    sees(first, "from the 2nd")
    shown = [first, second]
    until(
        lambda: len({page.evaluate(BUFFER).rstrip() for page in shown}) == 1,
        lambda: str([page.evaluate(BUFFER) for page in shown]),
    )
    first.context.close()
    run(second, "echo still $((3)) here")
    sees(second, "still 3 here")


def test_a_window_that_goes_gives_the_size_back(window: Open, shells: Served) -> None:
    def size() -> str:
        return str((re.findall(r"^\d+ \d+$", first.evaluate(BUFFER), re.MULTILINE) or [""])[-1])

    first = window(shells.url)
    ready(first)
    run(first, "while sleep 0.2; do stty size; done")
    own = first.evaluate(f"`${{{SCREEN}.terminal.rows}} ${{{SCREEN}.terminal.cols}}`")
    until(lambda: size() == own, lambda: f"{size()} is shown, not {own}")
    second = window(f"{shells.url}/?terminal=1")
    second.set_viewport_size({"width": 700, "height": 400})
    until(lambda: size() != own, lambda: f"the size stays {own}")
    second.context.close()
    until(lambda: size() == own, lambda: f"the size stays {size()}")


def test_another_sites_page_can_link_here_and_embed_nothing(
    window: Open, shells: Served, tmp_path: Path
) -> None:
    script = f"{shells.url}/_nicegui_ws/socket.io/?EIO=4&transport=polling&j=0"
    frame = f"<iframe src='{shells.url}/'></iframe><a href='{shells.url}/'>here</a>"
    (tmp_path / "index.html").write_text(
        f"{frame}<script src='{script}' onerror='document.title = `refused`'></script>"
    )
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        page, statuses = window("about:blank"), dict[str, int]()
        page.on("response", lambda answer: statuses.update({answer.url: answer.status}))
        page.goto(f"http://localhost:{other.server_port}/")
        assert (page.title(), statuses[f"{shells.url}/"]) == ("refused", 403)
        page.get_by_text("here").click()
        sees(page, "Hermes is turned off")
        other.shutdown()


def test_answers_of_the_emulator_are_not_typed_again_on_reload(page: Page) -> None:
    run(page, "printf '\\e[6n\\e[c'; IFS= read -rsd c a; echo got${#a}")
    holds(page, f"/got[1-9]/.test(({BUFFER})())")
    for _ in range(2):
        page.reload()
        holds(page, f"/got[1-9]/.test(({BUFFER})())")
    run(page, "echo clean")
    holds(page, f"/^clean$/m.test(({BUFFER})())")
    assert not re.search(r"[#$] .*\d+;\d+[Rc].*echo clean", page.evaluate(BUFFER))


@pytest.mark.parametrize(
    "seconds",
    [0.5, pytest.param(12.0, marks=pytest.mark.slow)],
    ids=["for a moment", "for longer"],
)
def test_a_lost_connection_comes_back_to_the_same_session(
    window: Open, shells: Served, seconds: float
) -> None:
    with Relay(shells.port) as relay:
        page = window(relay.url)
        ready(page)
        run(
            page,
            "echo before $((1)); (until [ -e away ]; do sleep 0.1; done; echo it is $((2))) &",
        )
        sees(page, "before 1")
        relay.cut()
        link(page, "reconnecting")
        (shells.home / "projects" / "away").touch()
        if seconds > 1:
            shot(page, "7-connection-lost")
        time.sleep(seconds)  # how long it is lost: this is the test's input
        relay.up = True
        link(page, "connected")
        sees(page, "it is 2")
        sees(page, "before 1")
        run(page, "echo after $((3))")
        sees(page, "after 3")
        assert page.evaluate(BUFFER).count("before 1") == 1


def test_terminals_are_opened_shown_bounded_and_freed(page: Page) -> None:
    assert tabs(page) == []
    run(page, "echo this is $((1))")
    new = page.get_by_role("button", name="New terminal")
    for number in (2, 3, 4, 5):
        new.click()
        page.wait_for_url(f"**/?terminal={number}")
        sees(page, "Hermes is turned off")
        run(page, f"echo this is $(({number}))")
        sees(page, f"this is {number}")
    assert tabs(page) == ["1", "2", "3", "4", "5"]
    new.click()
    expect(page.locator(".q-notification")).to_contain_text("All terminals are in use")
    shot(page, "8-all-in-use")
    focused(page)
    page.keyboard.type("echo typed $((3 * 3))\n")
    sees(page, "typed 9")
    page.get_by_label("Terminal 1", exact=True).click()
    sees(page, "this is 1")
    # What is typed goes to the one that shows.
    focused(page)
    page.keyboard.type("exit\n")
    sees(page, "this is 2")
    expect(page.locator(".tabs .number")).to_have_count(4)
    assert tabs(page) == ["2", "3", "4", "5"]
    new.click()
    page.wait_for_url("**/?terminal=1")
    sees(page, "Hermes is turned off")
    for _ in range(5):
        count = page.locator(".tabs .number").count()
        run(page, "exit")
        expect(page.locator(".tabs .number")).to_have_count(count - 1 if count > 2 else 0)
    sees(page, "This terminal has ended")
    shot(page, "9-ended")
    new.click()
    sees(page, "Hermes is turned off")
    run(page, "exit")
    sees(page, "This terminal has ended")
    page.reload()
    sees(page, "Hermes is turned off")


def test_a_tab_ends_its_terminal_and_asks_where_a_program_runs(page: Page, shells: Served) -> None:
    for number in (2, 3):
        page.get_by_role("button", name="New terminal").click()
        page.wait_for_url(f"**/?terminal={number}")
        sees(page, "This is a shell")
    sees(page, PROMPTS)
    page.get_by_label("End terminal 3").click()
    page.wait_for_url("**/?terminal=1")
    assert tabs(page) == ["1", "2"]
    page.get_by_label("Terminal 2", exact=True).click()
    run(page, "echo a job $((1)); sleep 600 &")
    sees(page, "a job 1")
    until(lambda: any("sleep 600" in p for p in shells.processes()), lambda: "no job")
    question = page.get_by_role("alertdialog")
    page.get_by_label("End terminal 2").click()
    expect(question).to_contain_text("A program runs in terminal 2, and ends with it.")
    expect(question.get_by_role("button", name="Keep it")).to_be_focused()
    shot(page, "16-end-terminal")
    page.keyboard.press("Enter")
    expect(question).to_be_hidden()
    run(page, "echo still $((2))")
    sees(page, "still 2")
    page.get_by_label("End terminal 2").click()
    question.get_by_role("button", name="End it").click()
    page.wait_for_url("**/?terminal=1")
    expect(page.locator(".tabs .number")).to_have_count(0)
    until(
        lambda: not any("sleep 600" in p for p in shells.processes()),
        lambda: str(shells.processes()),
    )
    focused(page)
    page.keyboard.type("echo back $((3))\n")
    sees(page, "back 3")


# Buttons of the line that are cut off, covered, or out of the window.
UNREACHABLE = """() => [...document.querySelectorAll(".line button, .line a")].filter(button => {
  if (!button.checkVisibility()) return false;
  const box = button.getBoundingClientRect();
  const seen = [[box.left + 2, box.top + 2], [box.right - 2, box.bottom - 2]].every(([x, y]) =>
    button.contains(document.elementFromPoint(x, y)));
  return !seen || box.width < 20 || box.height < 20;
}).map(button => button.ariaLabel || button.innerText)"""


@pytest.mark.parametrize(
    "touch", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["mouse", "touch"]
)
def test_every_control_can_be_reached_at_every_width(
    window: Open, shells: Served, touch: bool
) -> None:
    page = window(shells.url, has_touch=touch, is_mobile=touch)
    ready(page)
    write_config(shells.home / ".hermes" / "config.yaml", "https://h/serving-endpoints")
    for count in range(1, 6):
        if count > 1:
            page.get_by_role("button", name="New terminal").click()
            page.wait_for_url(f"**/?terminal={count}")
        for width in (
            ()
            if count in (3, 4)
            else (320, 360, 390, 430, 480, 600, 601, 640, 720, 800, 900, 1024, 1280, 1440)
        ):
            page.set_viewport_size({"width": width, "height": 640})
            holds(page, "width => innerWidth === width", arg=width)
            until(
                lambda: page.evaluate(UNREACHABLE) == [],
                lambda: f"{page.evaluate(UNREACHABLE)} of {count} at {width}",  # noqa: B023
            )
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if count in (1, 5) and width in (320, 390, 640, 1440):
                shot(page, f"21-line-{count}-{width}-{'touch' if touch else 'mouse'}")
    page.locator(".route").hover()
    expect(page.locator(".q-tooltip")).to_have_count(0)


def test_a_terminal_that_does_not_exist_is_another_one(window: Open, shells: Served) -> None:
    page = window("about:blank")
    for number in ("7", "x", "-1", "²", "1" * 500, "1&terminal=2"):
        page.goto(f"{shells.url}/?terminal={number}")
        sees(page, "Hermes is turned off")
        page.wait_for_url("**/?terminal=1")


@pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="finds processes in /proc, which is not here"
)
def test_sigterm_ends_the_app_and_all_that_runs_in_it(window: Open, workspace: StandIn) -> None:
    with Served(workspace.env) as served:
        page = window(served.url)
        ready(page)
        run(page, "(trap '' HUP TERM INT; echo stubborn $((1)); while :; do sleep 600; done) &")
        sees(page, "stubborn 1")
        run(page, "setsid sleep 600 & sleep 600")
        until(
            lambda: sum("sleep 600" in p for p in served.processes()) >= 3,
            lambda: str(served.processes()),
        )
        served.process.send_signal(signal.SIGTERM)
        served.process.wait(PATIENCE / 1000)
        until(lambda: not served.processes(), lambda: str(served.processes()))
        assert "Traceback" not in served.log.read_text()
