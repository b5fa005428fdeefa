#!/usr/bin/env python3
"""The console in a headless Chromium against a running server: on a desktop in light and on a phone in dark.

Signs in, makes a plan with the keyboard, watches it spend under traffic, reads the diagnosis of another plan. Every page must fit the width
of the screen, load nothing from elsewhere and log no error; the overview says when the server no longer answers. Screenshots are left in a folder for people to look at.

    console.py --http 127.0.0.1:8080 --admin 127.0.0.1:9090 --token TOKEN --diagnosed PLAN --out FOLDER
"""

import argparse
import shutil
from pathlib import Path

from day import Traffic
from playwright.sync_api import expect, sync_playwright

SCREENS = [("desktop-light", 1280, 900, "light", False), ("phone-dark", 390, 844, "dark", True),
           ("desktop-dark", 1280, 900, "dark", False), ("phone-light", 390, 844, "light", True)]


class Reader:
    """One browser tab with what must hold of every page."""

    def __init__(self, browser, screen, args):
        self.name, width, height, scheme, phone = screen
        self.args, self.faults = args, []
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme, is_mobile=phone, has_touch=phone)
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        self.page.on("console", lambda said: self.logged(said))
        self.page.on("response", lambda response: self.answered(response))
        self.page.on("request", lambda request: self.elsewhere(request.url))

    def logged(self, said):
        # Refused requests are judged by `answered`.
        if said.type == "error" and not said.text.startswith("Failed to load resource"):
            self.faults.append(f"log: {said.text}")

    def answered(self, response):
        """No token yet, and no diagnosis before there are figures: the page says so. Any other refusal is a fault."""
        early = response.status == 409 and "/diagnosis" in response.url
        if response.status >= 400 and response.status != 401 and not early:
            self.faults.append(f"{response.status} for {response.url}")

    def elsewhere(self, url):
        if not url.startswith((f"http://{self.args.admin}/", "data:")):
            self.faults.append(f"loads {url}")

    def settled(self, page):
        """A screenshot, and the check that nothing is wider than the screen."""
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=self.args.out / f"{self.name}-{page}.png", full_page=True)
        wide = self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        if wide > 0:
            self.faults.append(f"{page} is {wide} pixels wider than the screen")

    def heading(self, text):
        expect(self.page.locator("h1")).to_contain_text(text)

    def sign_in(self):
        self.page.goto(f"http://{self.args.admin}/")
        if self.args.token:
            expect(self.page.get_by_role("dialog")).to_be_visible()
            self.page.keyboard.type(self.args.token)
            self.page.keyboard.press("Enter")
            expect(self.page.get_by_role("dialog")).to_be_hidden()
        self.heading("Overview")

    def make_plan(self):
        """From the overview to a plan with nothing but the keyboard; its id."""
        link = self.page.get_by_role("link", name="New plan", exact=True)
        for _ in range(20):
            if link.evaluate("link => link === document.activeElement"):
                break
            self.page.keyboard.press("Tab")
        self.page.keyboard.press("Enter")
        self.heading("New plan")
        self.page.locator("#budget").focus()
        for text in ("300", "0.5"):
            self.page.keyboard.press("Control+a")
            self.page.keyboard.type(text)
            self.page.keyboard.press("Tab")
        # Nothing is sold that nobody named: the fault stands at its input and the focus goes there.
        self.page.keyboard.press("Tab")
        self.page.locator("#budget").press("Enter")
        expect(self.page.locator("#items")).to_be_focused()
        expect(self.page.locator("#items-fault")).not_to_be_empty()
        self.page.keyboard.type(" ".join(self.items()))
        self.page.locator("summary", has_text="Name, days and picture").press("Enter")
        self.page.locator("#max-bid").fill("80")
        expect(self.page.locator(".card", has_text="Forecast").last).to_be_visible()
        self.settled("new")
        self.page.locator("#budget").press("Enter")
        expect(self.page.locator("h1")).to_contain_text("My plan")
        return self.page.url.rsplit("/", 1)[1]

    def items(self):
        """Ids of a page of items, as the demo's users want more than one product."""
        return self.page.evaluate("""async () => {
            const { items } = await import("/console/api.js");
            return (await items.list()).records.slice(0, 40).map((item) => item.id);
        }""")

    def skip(self):
        """The link past the navigation moves the focus and stays on the page."""
        address = self.page.url
        self.page.locator(".skip").focus()
        self.page.keyboard.press("Enter")
        expect(self.page.locator("main")).to_be_focused()
        assert self.page.url == address, f"the skip link leads to {self.page.url}"

    def silence(self):
        """A server that does not answer is told, and that it does again."""
        note = self.page.locator(".stale")
        self.page.route("**/metrics", lambda route: route.abort())
        expect(note).to_contain_text("does not answer")
        self.settled("silent")
        self.page.unroute("**/metrics")
        expect(note).to_be_empty()

    def watch(self, plan):
        """The plan spends before the reader's eyes."""
        threads = [Traffic(self.args.http, plan, hash((self.name, number)) & 0xFFFFFF) for number in range(2)]
        for thread in threads:
            thread.start()
        try:
            paid = self.page.locator(".tile", has_text="impressions paid for").locator("b")
            expect(paid).not_to_have_text("0", timeout=self.args.seconds * 1000)
            self.settled("plan")
        finally:
            for thread in threads:
                thread.stop = True
            for thread in threads:
                thread.join()

    def diagnosis(self, plan):
        self.page.goto(f"http://{self.args.admin}/#/plan/{plan}")
        card = self.page.locator(".card", has_text="Why did my return change?")
        expect(card.locator(".summary")).to_contain_text("Return on spend")
        # Before, six groups, after.
        expect(card.locator("svg rect")).to_have_count(8)
        card.locator("summary").press("Enter")
        expect(card.get_by_role("table")).to_be_visible()
        self.settled("diagnosis")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--http", default="127.0.0.1:8080")
    parser.add_argument("--admin", default="127.0.0.1:9090")
    parser.add_argument("--token", default="")
    parser.add_argument("--diagnosed", help="a plan with a day of figures")
    parser.add_argument("--out", type=Path, default=Path("console"))
    parser.add_argument("--seconds", type=int, default=60, help="within which the plan must have spent")
    args = parser.parse_args()
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        print("skipped: no Chromium; on Debian and Ubuntu install chromium")
        return
    args.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for number, screen in enumerate(SCREENS):
            reader = Reader(browser, screen, args)
            reader.sign_in()
            if number < 2:
                reader.watch(reader.make_plan())
            if args.diagnosed:
                reader.diagnosis(args.diagnosed)
            for address, name, title in (("#/plans", "plans", "Plans"), ("#/", "overview", "Overview")):
                reader.page.goto(f"http://{args.admin}/{address}")
                reader.heading(title)
                if name == "overview":
                    reader.page.wait_for_timeout(3500)
                reader.settled(name)
                reader.skip()
            reader.silence()
            assert not reader.faults, f"{reader.name}: {reader.faults}"
            print(f"console on {reader.name}: every page fits, loads nothing from elsewhere, logs no error")
        browser.close()


if __name__ == "__main__":
    main()
