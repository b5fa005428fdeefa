// One plan: money and return over time, creatives with their posteriors, and why its return changed.

import { clock, plans } from "./api.js";
import { count, h, legend, lines, money, percent, range, table, tile, waterfall, when } from "./draw.js";
import { goalText, stateOf } from "./plans.js";

const EVERY_MS = 5000;
const GROUPS = { traffic: "Traffic", competition: "Competition", click_rate: "Click rate", conversion_rate: "Conversion rate", order_value: "Order value", control: "Control" };
const CAUSES = { traffic: "traffic of", traffic_quality: "worth of the users", win_rate: "win rate", price: "price of a win", click_rate: "clicks of", creative_mix: "creatives shown", conversion_rate: "conversion rate", order_value: "order value", target: "target", pacing: "controller", highest_bid: "highest bid", shading: "first-price shading", budget: "budget", pause: "pause", schedule: "schedule" };

const card = (title, wide, ...content) => h("section", { class: wide ? "card wide" : "card" }, h("h2", {}, title), content);

/** Spend so far against the budget, with the forecast of what is to come. */
function spending(plan, balance, rows, forecast, now) {
  let total = balance.spent_micros - rows.reduce((sum, row) => sum + row.spend_micros, 0);
  const points = rows.length ? [[Number(rows[0].key), total]] : [];
  for (const row of rows) points.push([Math.min(Number(row.key) + 3600, now), (total += row.spend_micros)]);
  if (!points.length) points.push([now - 3600, balance.spent_micros]);
  points.push([now, balance.spent_micros]);
  const expected = forecast && forecast.expected;
  const days = expected ? expected.series[expected.series.length - 1].day : 0;
  const ahead = expected ? expected.series : [];
  const add = (amount) => Math.min(balance.spent_micros + amount, plan.budget_micros);
  // As far ahead as it goes back, and a day at least: a long forecast must not squeeze what happened.
  const horizon = Math.max(1.5 * (now - points[0][0]), 86400);
  const to = now + Math.min(days * 86400, Math.max(plan.ends_at - now, 0), horizon);
  const inside = ahead.filter((p) => now + p.day * 86400 <= to + 1);
  return lines({
    series: [{ points }, { points: inside.map((p) => [now + p.day * 86400, add(p.spend_micros.expected)]), kind: "second" }].filter((one) => one.points.length),
    band: inside.map((p) => [now + p.day * 86400, add(p.spend_micros.low), add(p.spend_micros.high)]),
    limit: plan.budget_micros, from: points[0][0], to: Math.max(to, now + 1), y: (v) => money(v), x: when, label: "Spend against budget over time",
  });
}

/** Return of all hours up to each hour, against the target. */
function returning(plan, rows, now) {
  let [spend, value] = [0, 0];
  const points = rows.map((row) => {
    spend += row.spend_micros;
    value += row.order_value_micros;
    return [Math.min(Number(row.key) + 3600, now), spend > 0 ? value / spend : 0];
  });
  const target = plan.goal.roi ? plan.goal.roi.target : null;
  const from = rows.length ? Number(rows[0].key) : now - 3600;
  return lines({ series: [{ points: points.length ? points : [[now, 0]] }], limit: target, from, to: Math.max(now, from + 1), y: (v) => v.toFixed(2), x: when, label: "Return against target over time" });
}

/** What each element of a composed creative adds to its click rate. */
function elementsOf(one) {
  const rows = one.elements.map((element) => {
    const { part = "", value = "" } = (one.creative.elements || {})[element.id] || {};
    const [low, high] = [element.adds - 1.645 * element.deviation, element.adds + 1.645 * element.deviation];
    const signed = (x) => `${x < 0 ? "-" : "+"}${percent(Math.abs(x), 2)}`;
    return [part, h("td", { class: "text" }, value, element.new ? h("span", { class: "quiet" }, " (new)") : null), count(element.impressions), signed(element.adds), `${signed(low)} to ${signed(high)}`];
  });
  return h("details", {}, h("summary", {}, `Elements of ${one.creative.id}`), table(["part", "element", "shown", "adds", "nine of ten cases"], rows, `Elements of ${one.creative.id}`));
}

function creativesOf(answer) {
  const top = Math.max(...answer.creatives.map((one) => one.click_rate.high), 0.01);
  const rows = answer.creatives.map((one) => [
    h("td", {}, one.creative.id, h("br"), h("span", { class: "quiet" }, `${one.creative.format}${one.creative.w ? ` ${one.creative.w}x${one.creative.h}` : ""}`)),
    count(one.impressions), count(one.clicks), percent(one.click_rate.mean, 2),
    h("td", {}, range(one.click_rate, top, `${percent(one.click_rate.low, 2)} to ${percent(one.click_rate.high, 2)}`)),
  ]);
  if (!rows.length) return h("p", { class: "quiet" }, "This plan has no creatives and cannot bid.");
  return [
    table(["creative", "shown", "clicks", "click rate", "nine of ten cases"], rows, "Creatives"),
    h("p", { class: "quiet" }, "What was learned of each: impressions and clicks fade with time, and the rate of a young creative comes mostly from others like it."),
    answer.creatives.filter((one) => one.elements).map(elementsOf),
  ];
}

function named(part) {
  return `${CAUSES[part.cause] || part.cause}${part.name ? ` ${part.name}` : ["traffic", "click_rate"].includes(part.cause) ? " the rest" : ""}`;
}

function diagnosisOf(told) {
  const byReturn = told.return_on_spend !== undefined;
  const whole = byReturn ? told.return_on_spend : told.order_value;
  const pick = (part) => (byReturn ? part.return_on_spend : part.order_value);
  const groups = Object.keys(GROUPS).map((group) => {
    const parts = told.parts.filter((part) => part.group === group);
    return { name: GROUPS[group], value: parts.reduce((sum, part) => sum + pick(part), 0), moved: parts.some((part) => part.moved) };
  });
  const text = byReturn ? (v) => v.toFixed(2) : (v) => money(v);
  const moved = told.parts.filter((part) => part.moved);
  const figure = (x) => Math.abs(x) >= 100 ? count(x) : x.toPrecision(3);
  const rows = told.parts.filter((part) => part.moved || Math.abs(pick(part)) > 0.01 * Math.abs(whole.before)).map((part) => [
    named(part), text(pick(part)), money(part.order_value), money(part.spend), part.moved ? "moved" : "luck",
    h("td", { class: "text" }, part.evidence.map((e) => `${e.what}: ${figure(e.before)} to ${figure(e.after)}`).join("; ")),
  ]);
  return [
    h("p", { class: "summary" }, told.summary),
    h("p", { class: "quiet" }, `${when(told.before.from)} to ${when(told.before.to)}, against ${when(told.after.from)} to ${when(told.after.to)}. Pale bars are within luck.`),
    waterfall({ before: whole.before, after: whole.after, parts: groups, text, label: `${byReturn ? "Return on spend" : "Order value a day"} by cause, from before to after` }),
    moved.length ? h("ul", { class: "steps" }, moved.map((part) => h("li", {}, h("b", {}, `${named(part)}: `), part.suggestion))) : null,
    h("details", {}, h("summary", {}, "All parts with their evidence"), table(["part", byReturn ? "return" : "order value", "order value a day", "spend a day", "", "evidence"], rows, "Parts of the change")),
  ];
}

async function parts(id) {
  const now = clock();
  const from = now - 7 * 86400;
  const [plan, balance, hours, channels, creatives] = await Promise.all([plans.get(id), plans.balance(id), plans.figures(id, { from, by: "hour" }), plans.figures(id, { from, by: "channel" }), plans.creatives(id)]);
  const left = Math.max((plan.ends_at - now) / 86400, 0.05);
  const free = Math.max(balance.free_micros + balance.held_micros, 1);
  const ask = { plan: id, budget_micros: free, goal: plan.goal, max_bid_micros: plan.max_bid_micros, days: Math.min(left, 30) };
  const [forecast, diagnosis] = await Promise.all([plans.forecast(ask).catch(() => null), plans.diagnosis(id).catch((error) => error)]);
  return { now, plan, balance, hours, channels, creatives, forecast, diagnosis };
}

function page(main, id, got, again) {
  const { now, plan, balance, hours, channels, creatives, forecast, diagnosis } = got;
  const total = hours.total;
  const fault = h("p", { class: "fault", role: "alert" });
  const other = plan.state === "active" ? "paused" : "active";
  const flip = h("button", { type: "button", onclick: async () => {
    try { await plans.change(id, { state: other }); await again(); } catch (error) { fault.textContent = error.message; }
  } }, other === "paused" ? "Pause" : "Resume");
  const tone = plan.goal.roi && total.return_on_spend ? (total.return_on_spend >= plan.goal.roi.target ? "good" : "warm") : null;
  const channelRows = channels.rows.map((row) => [row.key, count(row.wins), count(row.clicks), count(row.conversions), money(row.spend_micros), money(row.order_value_micros), row.return_on_spend === undefined ? "–" : row.return_on_spend.toFixed(2)]);
  // Open details and the focus survive a refresh.
  const open = [...main.querySelectorAll("details")].map((one) => one.open);
  const focus = document.activeElement === document.body ? null : document.activeElement.textContent;
  main.replaceChildren(
    h("div", { class: "bar" }, h("h1", {}, plan.name || plan.id, " ", stateOf(plan)), h("div", { class: "actions" }, flip)), fault,
    h("div", { class: "tiles" },
      tile(`of ${money(plan.budget_micros, plan.currency)} spent`, money(balance.spent_micros)), tile("held by open bids", money(balance.held_micros)),
      tile(`return in 7 days, goal: ${goalText(plan.goal, plan.currency)}`, total.return_on_spend === undefined ? "–" : total.return_on_spend.toFixed(2), tone),
      tile("impressions paid for", count(total.wins)), tile("clicks", count(total.clicks)), tile("orders", count(total.conversions))),
    h("div", { class: "grid two" },
      card("Spend against budget", false, spending(plan, balance, hours.rows, forecast, now), legend([["", "spent"], ["second", "expected"], ["band", "eight of ten cases"], ["limit", "budget"]])),
      card("Return against target", false, returning(plan, hours.rows, now), legend([["", "return so far"], ["limit", "target"]])),
      card("Why did my return change?", true, diagnosis instanceof Error ? h("p", { class: "quiet" }, diagnosis.message) : diagnosisOf(diagnosis)),
      card("Creatives", true, creativesOf(creatives)),
      card("Channels", true, channelRows.length ? table(["channel", "paid", "clicks", "orders", "spend", "order value", "return"], channelRows, "Channels") : h("p", { class: "quiet" }, "Nothing was bought yet."))));
  main.querySelectorAll("details").forEach((one, i) => { one.open = Boolean(open[i]); });
  if (focus) [...main.querySelectorAll("button, summary, a")].find((one) => one.textContent === focus)?.focus({ preventScroll: true });
}

/** Shows a plan until it is left. */
export async function show(main, id) {
  const again = async () => page(main, id, await parts(id), again);
  await again();
  const timer = setInterval(() => { if (!document.hidden) again().catch(() => {}); }, EVERY_MS);
  return () => clearInterval(timer);
}
