// Pages by the part of the address behind #, the token, and faults.

import { keep, mayChange, me, Refused, token } from "./api.js";
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

const refused = (error) => error instanceof Refused && error.status === 401;

function ask(fault) {
  document.getElementById("login-fault").textContent = fault || "";
  // Escape leaves the answer of the time before.
  login.returnValue = "";
  if (!login.open) login.showModal();
}
const unknown = () => ask(token() ? "This token is not known here." : "");

async function greet() {
  try {
    const caller = await me();
    who.textContent = caller.role === "advertiser" ? `${caller.name} (${caller.advertiser})` : `${caller.name} (${caller.role})`;
    document.querySelector("[data-page=new]").hidden = !mayChange(caller);
  } catch (error) {
    who.textContent = "Token";
    if (refused(error)) unknown();
  }
}

function faulty(title, error) {
  if (refused(error)) {
    unknown();
    return [h("h1", {}, title), h("p", {}, "This page needs a token that the server knows."), h("button", { type: "button", class: "primary", onclick: () => ask("") }, "Enter a token")];
  }
  return [h("h1", {}, title), h("p", { class: "fault", role: "alert" }, error.message), error instanceof Refused && error.status < 500 ? null : h("button", { type: "button", onclick: () => go(true) }, "Try again")].filter(Boolean);
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
  main.setAttribute("aria-busy", "true");
  let drawn;
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
    drawn = [box];
  } catch (error) {
    if (mine !== turn) return;
    drawn = faulty(title, error);
  }
  main.replaceChildren(...drawn);
  main.removeAttribute("aria-busy");
  scrollTo(0, 0);
  if (name === "plans" && page === show) document.title = `${main.querySelector("h1").firstChild.textContent} · Longbow`;
  if (focus) main.focus({ preventScroll: true });
}

login.addEventListener("close", () => {
  if (login.returnValue !== "ok") return;
  keep(document.getElementById("token").value.trim());
  document.getElementById("token").value = "";
  greet();
  go(true);
});
who.addEventListener("click", () => ask(""));
// The part behind # names pages: a jump inside one must not change it.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});
addEventListener("token-refused", unknown);
addEventListener("hashchange", () => go(true));
greet();
go(false);
