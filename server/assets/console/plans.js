// The list of plans, and a plan made from its three inputs: a budget, a return target, products.

import { clock, creatives, items, me, plans } from "./api.js";
import { count, h, legend, lines, money, percent, table } from "./draw.js";

export const goalText = (goal, currency) => {
  if (goal.roi) return `${goal.roi.target} return`;
  if (goal.cpa) return `${money(goal.cpa.target_micros, currency)} an order`;
  return `${money(goal.cpc.target_micros, currency)} a click`;
};
export const stateOf = (plan) => h("span", { class: `state ${plan.state === "active" ? "good" : "warm"}` }, plan.state);

export async function list(main, after) {
  const page = await plans.list(after);
  const balances = await Promise.all(page.records.map((plan) => plans.balance(plan.id).catch(() => null)));
  const rows = page.records.map((plan, i) => {
    const money_ = balances[i];
    const spent = money_ ? money_.spent_micros : 0;
    return [h("td", {}, h("a", { href: `#/plan/${encodeURIComponent(plan.id)}` }, plan.name || plan.id), h("br"), h("span", { class: "quiet" }, plan.id)),
      h("td", {}, stateOf(plan)), h("td", {}, goalText(plan.goal, plan.currency)), h("td", {}, money(plan.budget_micros, plan.currency)),
      h("td", {}, money(spent)), h("td", {}, percent(spent / plan.budget_micros, 0))];
  });
  main.replaceChildren(
    h("div", { class: "bar" }, h("h1", {}, `Plans (${count(page.total)})`), h("a", { href: "#/new" }, "New plan")),
    h("section", { class: "card" }, rows.length ? table(["plan", "state", "goal", "budget", "spent", "share"], rows, "Plans") : h("p", { class: "quiet" }, "There are no plans yet."),
      page.next ? h("p", { class: "actions" }, h("a", { href: `#/plans/${encodeURIComponent(page.next)}` }, "Next page")) : null));
}

function field(id, label, hint, input) {
  input.id = id;
  return [h("label", { for: id }, label), input, h("p", { class: "hint", id: `${id}-hint` }, hint)];
}

/** What the three inputs and the few others make. */
function read(form, owner) {
  const value = (id) => form.querySelector(`#${id}`).value.trim();
  const days = Number(value("days"));
  const now = clock();
  const picked = value("items").split(/[\s,]+/).filter(Boolean);
  const id = value("name").toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "");
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
      from: 0, to: last, y: (v) => money(v), x: (v) => `day ${count(v)}`, label: "Expected spend by day with its range" }),
    legend([["second", "expected spend"], ["band", "eight of ten cases"]]),
    table(["", "low", "expected", "high"], rows, "Forecast"), said,
  ];
}

export async function create(main) {
  const who = await me();
  const shop = await items.list();
  const input = (attributes) => h("input", { required: true, ...attributes });
  const fault = h("p", { class: "fault", role: "alert" });
  const forecastBox = h("section", { class: "card", "aria-live": "polite" }, h("h2", {}, "Forecast"), h("p", { class: "quiet" }, "Fill in budget and target to see what they would bring."));
  const form = h("form", { class: "card", novalidate: true },
    h("h2", {}, "Budget, return, products"),
    field("budget", "Budget", "In whole US dollars, for all days together.", input({ type: "number", min: "1", step: "any", value: "200" })),
    field("target", "Return target", "Order value for one unit of spend: 3 means 300%.", input({ type: "number", min: "0.1", step: "any", value: "3" })),
    field("items", "Products", `Ids of items, separated by spaces. The shop has ${count(shop.total)}, for example ${shop.records.slice(0, 4).map((item) => `${item.id} (${item.title})`).join(", ")}.`,
      h("textarea", { rows: "3", required: true }, shop.records.slice(0, 40).map((item) => item.id).join(" "))),
    h("details", {}, h("summary", {}, "Name, days and picture"),
      field("name", "Name", "Shown to people.", input({ type: "text", value: "My plan" })),
      who.role === "advertiser" ? h("p", { class: "hint" }, `Advertiser: ${who.advertiser}`) : field("advertiser", "Advertiser", "Who pays.", input({ type: "text", value: "demo" })),
      field("domain", "Landing domain", "A bare domain.", input({ type: "text", value: "shop.example" })),
      field("days", "Days", "How long the budget should last.", input({ type: "number", min: "0.05", step: "any", value: "7" })),
      field("max-bid", "Highest bid", "US dollars for a thousand impressions.", input({ type: "number", min: "0.01", step: "any", value: "20" })),
      field("image", "Picture of a 300 x 250 banner", "A first creative is made of it; more can be added later.", input({ type: "url", value: "https://img.example/banner.jpg" }))),
    fault,
    h("p", { class: "actions" }, h("button", { class: "primary", type: "submit" }, "Create the plan"), h("button", { type: "button", id: "ask" }, "Forecast")));
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
  form.querySelector("#ask").addEventListener("click", forecast);
  form.addEventListener("change", forecast);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    fault.textContent = "";
    const { plan, image } = read(form, who.advertiser);
    try {
      const made = await plans.create(plan);
      if (image) await creatives.create({ id: `${made.id}-banner`, plan: made.id, format: "banner", w: 300, h: 250, image_url: image });
      location.hash = `#/plan/${encodeURIComponent(made.id)}`;
    } catch (error) {
      fault.textContent = error.message;
    }
  });
  main.replaceChildren(h("h1", {}, "New plan"), h("div", { class: "grid two" }, form, forecastBox));
  await forecast();
}
