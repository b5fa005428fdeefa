// The list of plans, and a plan made from its three inputs: a budget, a return target, products.

import { clock, creatives, items, mayChange, me, plans } from "./api.js";
import { count, h, legend, lines, money, moneyStep, percent, table, when, zone } from "./draw.js";

export const goalText = (goal, currency) => {
  if (goal.roi) return `${goal.roi.target} return`;
  if (goal.cpa) return `${money(goal.cpa.target_micros, currency)} an order`;
  return `${money(goal.cpc.target_micros, currency)} a click`;
};

/** What a plan is doing: a word and whether it can bid. Held money is not spent yet and may come back. */
export function standing(plan, balance, now) {
  if (plan.state !== "active") return [plan.state, "warm"];
  if (now >= plan.ends_at) return ["ended", "warm"];
  if (now < plan.starts_at) return ["not begun", "warm"];
  if (balance && balance.free_micros + balance.held_micros <= 0) return ["spent", "bad"];
  return ["active", "good"];
}
export const stateOf = (plan, balance, now) => {
  const [word, tone] = standing(plan, balance, now);
  return h("span", { class: `state ${tone}` }, word);
};

/** Seconds until a plan's money is spent if it spends on as it did on average since its start: 0 where it is, null where that cannot be said. */
function secondsLeft(plan, balance, now) {
  const word = standing(plan, balance, now)[0];
  if (word === "spent") return 0;
  if (word !== "active" || !balance || !plan.starts_at || balance.spent_micros <= 0) return null;
  return (balance.free_micros + balance.held_micros) * (now - plan.starts_at) / balance.spent_micros;
}

/** That as a text, and a tone where it is before the plan's end. */
export function lasting(plan, balance, now) {
  const left = secondsLeft(plan, balance, now);
  if (left === null) return ["–", null];
  if (left === 0) return ["spent", "bad"];
  if (now + left >= plan.ends_at) return ["to its end", null];
  return [`to ${when(now + left)}`, left < 3600 ? "bad" : "warm"];
}

/** A search for plans that run out looks at so many. */
const PLANS_MAX = 5000;
const HEAD = ["plan", "state", "goal", "budget", "spent", "share", "money lasts", "ends"];

function row(plan, balance, now) {
  const [lasts, tone] = lasting(plan, balance, now);
  return [h("td", { class: "name" }, h("a", { href: `#/plan/${encodeURIComponent(plan.id)}` }, plan.name || plan.id), h("br"), h("span", { class: "quiet" }, plan.id)),
    h("td", {}, stateOf(plan, balance, now)), goalText(plan.goal, plan.currency), money(plan.budget_micros, plan.currency),
    balance ? money(balance.spent_micros) : "–", balance ? percent(balance.spent_micros / plan.budget_micros, 0) : "–", h("td", { class: tone }, lasts), when(plan.ends_at)];
}

/** A page of plans with their money. */
async function looked(after) {
  const [page, balances] = await Promise.all([plans.list(after), plans.balances(after)]);
  const theirs = new Map(balances.records.map((balance) => [balance.plan, balance]));
  return { page, now: clock(), pairs: page.records.map((plan) => [plan, theirs.get(plan.id) || null]) };
}

/** Goes through all plans, page by page, for those whose money is spent or runs out before their end: the soonest first. */
async function runningOut(told) {
  const found = [];
  let [after, seen, now] = [undefined, 0, 0];
  do {
    const { page, pairs, now: at } = await looked(after);
    now = at;
    for (const [plan, balance] of pairs) {
      const left = secondsLeft(plan, balance, now);
      if (left !== null && now + left < plan.ends_at) found.push([left, plan, balance]);
    }
    seen += pairs.length;
    after = page.next;
    told(`Looked at ${count(seen)} of ${count(page.total)} plans.`);
  } while (after && seen < PLANS_MAX);
  return found.sort((a, b) => a[0] - b[0]).map(([, plan, balance]) => row(plan, balance, now));
}

export async function list(main, after) {
  const [{ page, pairs, now }, who] = await Promise.all([looked(after), me()]);
  const rows = pairs.map(([plan, balance]) => row(plan, balance, now));
  const wanted = h("input", { id: "wanted", type: "text", autocomplete: "off", spellcheck: "false" });
  const find = h("form", { class: "find", onsubmit: (event) => {
    event.preventDefault();
    if (wanted.value.trim()) location.hash = `#/plan/${encodeURIComponent(wanted.value.trim())}`;
  } }, h("label", { for: "wanted" }, "Plan id"), wanted, h("button", {}, "Open"));
  const none = mayChange(who) ? ["There are no plans yet. ", h("a", { href: "#/new" }, "Make the first one"), "."] : "There are no plans yet.";
  const box = h("section", { class: "card" }, rows.length ? table(HEAD, rows, "Plans") : h("p", { class: "quiet" }, after ? "No plan has an id behind this one." : none),
    page.next || after ? h("p", { class: "actions" }, after ? h("a", { href: "#/plans" }, "First page") : null, page.next ? h("a", { href: `#/plans/${encodeURIComponent(page.next)}` }, "Next page") : null) : null);
  const said = h("p", { class: "quiet", role: "status" }, `By id. Money lasts: at each plan's mean pace since its start. Spent is in the plan's currency; times are ${zone()}.`);
  const search = h("button", { type: "button", onclick: async () => {
    search.disabled = true;
    try {
      const soon = await runningOut((text) => { said.textContent = text; });
      box.replaceChildren(soon.length ? table(HEAD, soon, "Plans whose money runs out before their end") : h("p", { class: "quiet" }, "No plan's money runs out before its end, at its mean pace since its start."), h("p", { class: "actions" }, h("a", { href: after ? "#/plans" : "#/plans/" }, "All plans")));
      said.textContent = `${said.textContent} ${count(soon.length)} run out before their end at their mean pace since their start, the soonest first. Times are ${zone()}.`;
    } catch (error) {
      said.textContent = error.message;
    }
    search.disabled = false;
  } }, "Find plans that run out");
  main.replaceChildren(h("div", { class: "bar" }, h("h1", {}, `Plans (${count(page.total)})`), find, rows.length ? search : null), said, box);
}

/** An input with its label, what it means, and a place for what is wrong with it. */
function field(id, label, hint, input) {
  input.id = id;
  input.setAttribute("aria-describedby", `${id}-hint ${id}-fault`);
  return [h("label", { for: id }, label), input, h("p", { class: "hint", id: `${id}-hint` }, hint), h("p", { class: "fault", id: `${id}-fault` })];
}

/** Which input a field of the API comes from. */
const INPUTS = { id: "name", name: "name", advertiser: "advertiser", domain: "domain", budget_micros: "budget", "goal.roi.target": "target", items: "items", max_bid_micros: "max-bid", starts_at: "days", ends_at: "days", days: "days", image_url: "image" };

/** Shows each fault at its input, goes to the first, and returns those that belong to no input of this form. */
function point(form, faults) {
  for (const input of form.querySelectorAll("[aria-describedby]")) {
    input.removeAttribute("aria-invalid");
    form.querySelector(`#${input.id}-fault`).textContent = "";
  }
  const other = [];
  let first = null;
  for (const [id, text] of faults) {
    const input = id ? form.querySelector(`#${id}`) : null;
    if (!input) {
      other.push(text);
      continue;
    }
    input.setAttribute("aria-invalid", "true");
    form.querySelector(`#${id}-fault`).textContent = text;
    if (input.closest("details")) input.closest("details").open = true;
    first ??= input;
  }
  if (first) first.focus();
  return other.join(" ");
}

/** What can be seen to be wrong before the server is asked. */
function wrong({ plan, days, image }) {
  const out = [];
  if (!(plan.budget_micros > 0)) out.push(["budget", "Give an amount above 0, as in 200."]);
  if (!(plan.goal.roi.target > 0)) out.push(["target", "Give a number above 0, as in 3."]);
  if (!plan.items.length) out.push(["items", "Name one product at least."]);
  if (!(days > 0)) out.push(["days", "Give a number of days above 0, as in 7."]);
  if (!(plan.max_bid_micros > 0)) out.push(["max-bid", "Give an amount above 0, as in 20."]);
  if (image && !/^https?:\/\//.test(image)) out.push(["image", "Must be a web address, as in https://img.example/banner.jpg."]);
  return out;
}

/** What the three inputs and the few others make. */
function read(form, owner) {
  const value = (id) => form.querySelector(`#${id}`).value.trim();
  const days = Number(value("days"));
  const now = clock();
  const picked = value("items").split(/[\s,]+/).filter(Boolean);
  const id = value("name").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "").slice(0, 100);
  return {
    plan: {
      id: `${id || "plan"}-${now.toString(36)}`, name: value("name"), advertiser: owner || value("advertiser"), domain: value("domain"),
      budget_micros: Math.round(Number(value("budget")) * 1e6), goal: { roi: { target: Number(value("target")) } },
      max_bid_micros: Math.round(Number(value("max-bid")) * 1e3), starts_at: now, ends_at: now + Math.round(days * 86400), items: picked,
    },
    days,
    image: value("image"),
  };
}

function outlook(forecast, currency) {
  const { expected, based_on: base, notes } = forecast;
  const said = h("ul", { class: "steps quiet" }, notes.map((note) => h("li", {}, note)));
  if (!expected) return [h("p", {}, "No figures support a forecast yet."), said];
  const range = (name, show) => [name, show(expected[name].low), show(expected[name].expected), show(expected[name].high)];
  const cash = (micros) => money(micros, currency);
  const rows = [range("spend_micros", cash), range("order_value_micros", cash), expected.return_on_spend ? range("return_on_spend", (x) => x.toFixed(2)) : null, range("conversions", count), range("clicks", count)].filter(Boolean)
    .map(([name, ...cells]) => [name.replace("_micros", "").replaceAll("_", " "), ...cells]);
  const last = expected.series[expected.series.length - 1].day;
  return [
    h("p", { class: "quiet" }, `Based on ${base.scope.replaceAll("_", " ")}: ${count(base.plans)} ${base.plans === 1 ? "plan" : "plans"}, ${count(base.impressions)} impressions, ${count(base.conversions)} orders.`),
    lines({ series: [{ points: expected.series.map((p) => [p.day, p.spend_micros.expected]), kind: "second" }], band: expected.series.map((p) => [p.day, p.spend_micros.low, p.spend_micros.high]),
      from: 0, to: last, y: moneyStep, x: (v) => `day ${count(v)}`, label: "Expected spend so far, by day, with its range" }),
    legend([["second", `expected spend so far, ${currency}`], ["band", "eight of ten cases"]]),
    table(["figure", "low", "expected", "high"], rows, "Forecast"), said,
  ];
}

function inputs(who, shop) {
  const input = (attributes) => h("input", { required: true, ...attributes });
  const examples = shop.records.slice(0, 4).map((item) => `${item.id} (${item.title})`).join(", ");
  return [
    h("h2", {}, "Budget, return, products"),
    field("budget", "Budget", "US dollars for all days together. It is never exceeded.", input({ type: "number", min: "0.01", step: "any", value: "200", inputmode: "decimal" })),
    field("target", "Return target", "Order value for each dollar spent: 3 means 300%. A higher target bids lower and spends less.", input({ type: "number", min: "0.01", step: "any", value: "3", inputmode: "decimal" })),
    field("items", "Products", `Ids of items, separated by spaces. ${shop.total ? `The shop has ${count(shop.total)}, for example ${examples}.` : "The shop has none yet: import items first."}`, h("textarea", { rows: "3", required: true, spellcheck: "false" })),
    h("details", {}, h("summary", {}, "Name, days and picture"),
      field("name", "Name", "Shown to people.", input({ type: "text", value: "My plan" })),
      who.role === "advertiser" ? h("p", { class: "hint" }, `Advertiser: ${who.advertiser}`) : field("advertiser", "Advertiser", "Who pays.", input({ type: "text", value: "demo" })),
      field("domain", "Landing domain", "A bare domain.", input({ type: "text", value: "shop.example" })),
      field("days", "Days", "How long the budget should last, from now on.", input({ type: "number", min: "0.05", step: "any", value: "7", inputmode: "decimal" })),
      field("max-bid", "Highest bid", "US dollars for a thousand impressions.", input({ type: "number", min: "0.01", step: "any", value: "20", inputmode: "decimal" })),
      field("image", "Picture of a 300 x 250 banner", "A first creative is made of it; more can be added later. Without one the plan cannot bid yet.", input({ type: "url", value: "https://img.example/banner.jpg", required: false }))),
  ];
}

export async function create(main) {
  const who = await me();
  if (!mayChange(who)) {
    main.replaceChildren(h("h1", {}, "New plan"), h("p", { class: "quiet" }, `${who.name} has the role ${who.role}, which makes no plans.`));
    return;
  }
  const shop = await items.list();
  const fault = h("p", { class: "fault", role: "alert" });
  const forecastBox = h("section", { class: "card", "aria-live": "polite" }, h("h2", {}, "Forecast"), h("p", { class: "quiet" }, "Change budget or target, or ask, to see what they would bring."));
  const go = h("button", { class: "primary", type: "submit" }, "Create the plan");
  const ask = h("button", { type: "button" }, "Forecast");
  const form = h("form", { class: "card", novalidate: true }, inputs(who, shop), fault, h("p", { class: "actions" }, go, ask));
  const forecast = async () => {
    const { plan, days } = read(form, who.advertiser);
    if (!(plan.budget_micros > 0) || !(plan.goal.roi.target > 0)) return;
    try {
      const answer = await plans.forecast({ budget_micros: plan.budget_micros, goal: plan.goal, max_bid_micros: plan.max_bid_micros, days });
      forecastBox.replaceChildren(h("h2", {}, "Forecast"), ...outlook(answer, "USD"));
    } catch (error) {
      forecastBox.replaceChildren(h("h2", {}, "Forecast"), h("p", { class: "fault" }, error.message));
    }
  };
  ask.addEventListener("click", forecast);
  form.addEventListener("change", forecast);
  let made = null;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const wish = read(form, who.advertiser);
    fault.textContent = "";
    const faults = wrong(wish);
    if (faults.length) {
      fault.textContent = point(form, faults);
      return;
    }
    // One press, one plan; and where only the picture was refused, the plan that was made gets the next one.
    go.disabled = true;
    try {
      made ??= await plans.create(wish.plan);
      if (wish.image) await creatives.create({ id: `${made.id}-banner`, plan: made.id, format: "banner", w: 300, h: 250, image_url: wish.image });
      location.hash = `#/plan/${encodeURIComponent(made.id)}`;
    } catch (error) {
      const input = INPUTS[(error.field || "").replace(/[[].*$/, "")];
      const text = point(form, [[input, input ? error.plain : error.message]]);
      fault.textContent = made ? `The plan is made; its picture is not. ${text}` : text;
    }
    go.disabled = false;
  });
  main.replaceChildren(h("h1", {}, "New plan"), h("div", { class: "grid two" }, form, forecastBox));
  forecast();
}
