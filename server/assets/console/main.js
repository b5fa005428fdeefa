// Pages by the part of the address behind #, the token, and faults.

import { keep, me, Refused, token } from "./api.js";
import { h } from "./draw.js";
import { overview } from "./overview.js";
import { create, list } from "./plans.js";
import { show } from "./plan.js";

const main = document.getElementById("main");
const login = document.getElementById("login");
const who = document.getElementById("who");
let leave = null;
let turn = 0;

const PAGES = [
  [/^#?\/?$/, "overview", "Overview", overview],
  [/^#\/plans(?:\/(.+))?$/, "plans", "Plans", (at, after) => list(at, after)],
  [/^#\/new$/, "new", "New plan", create],
  [/^#\/plan\/(.+)$/, "plans", "Plan", show],
];

function ask(fault) {
  document.getElementById("login-fault").textContent = fault || "";
  if (!login.open) login.showModal();
}

async function greet() {
  try {
    const caller = await me();
    who.textContent = caller.role === "advertiser" ? `${caller.name} (${caller.advertiser})` : `${caller.name} (${caller.role})`;
  } catch (error) {
    who.textContent = "Token";
    if (error instanceof Refused && error.status === 401) ask(token() ? "This token is not known." : "");
  }
}

async function go(focus) {
  const mine = ++turn;
  if (leave) leave();
  leave = null;
  const hash = location.hash || "#/";
  const found = PAGES.map(([pattern, ...rest]) => [pattern.exec(hash), ...rest]).find(([match]) => match);
  const [match, name, title, page] = found || [[], "", "Nothing here", null];
  document.title = `${title} · Longbow`;
  for (const link of document.querySelectorAll("nav a")) {
    if (link.dataset.page === name) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  try {
    if (!page) throw new Error("There is no such page.");
    // The page draws into a box of its own: one that was left meanwhile draws nowhere.
    const box = h("div", {});
    const stop = await page(box, match[1] ? decodeURIComponent(match[1]) : undefined);
    if (mine !== turn) {
      if (stop) stop();
      return;
    }
    leave = stop || null;
    main.replaceChildren(box);
    scrollTo(0, 0);
    if (focus) main.focus({ preventScroll: true });
  } catch (error) {
    if (mine !== turn) return;
    main.replaceChildren(h("h1", {}, title), h("p", { class: "fault", role: "alert" }, error.message));
    if (error instanceof Refused && error.status === 401) ask(token() ? "This token is not known." : "");
  }
}

login.addEventListener("close", () => {
  if (login.returnValue !== "ok") return;
  keep(document.getElementById("token").value.trim());
  document.getElementById("token").value = "";
  greet();
  go(true);
});
who.addEventListener("click", () => ask(""));
addEventListener("hashchange", () => go(true));
greet();
go(false);
