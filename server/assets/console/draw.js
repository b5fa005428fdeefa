// Elements and charts. Text always goes in as text: nothing from a record can become markup.

export function h(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function s(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    // As a property, so that `morph` can carry it over.
    if (name.startsWith("on")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child !== null && child !== undefined) element.append(child instanceof Node ? child : String(child));
  }
  return element;
}

/** Makes `old` like `fresh` in place: focus, selection, scroll and what is unfolded stay while figures change. */
export function morph(old, fresh) {
  if (old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "open" && !fresh.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  for (const name of ["onclick", "onchange"]) old[name] = fresh[name];
  const children = [...fresh.childNodes];
  [...old.childNodes].forEach((child, i) => (children[i] ? morph(child, children[i]) : child.remove()));
  old.append(...children.slice(old.childNodes.length));
}

export const money = (micros, currency) => {
  const amount = micros / 1e6;
  const digits = Math.abs(amount) >= 1000 ? 0 : Math.abs(amount) >= 1 || amount === 0 ? 2 : 4;
  return `${amount.toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: Math.min(digits, 2) })}${currency ? ` ${currency}` : ""}`;
};
/** Money at the side of a drawing: all steps in the same form. */
export const moneyStep = (micros) => (micros / 1e6).toLocaleString("en", { maximumSignificantDigits: 4 });
export const count = (n) => Number(n).toLocaleString("en", { maximumFractionDigits: n < 10 ? 1 : 0 });
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
/** The reader's own time zone, as in "UTC+1": every time on a page is in it. */
export const zone = () => new Intl.DateTimeFormat("en-GB", { timeZoneName: "short" }).formatToParts(new Date()).find((part) => part.type === "timeZoneName").value;
export const when = (seconds) => new Date(seconds * 1000).toLocaleString("en-GB", { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" });

export function table(head, rows, label) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label },
    h("table", {}, h("thead", {}, h("tr", {}, head.map((cell) => (cell instanceof HTMLTableCellElement ? cell : h("th", { scope: "col", class: cell === "evidence" ? "text" : null }, cell))))),
      h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => (cell instanceof HTMLTableCellElement ? cell : h("td", {}, cell))))))));
}

export const card = (title, wide, ...content) => h("section", { class: wide ? "card wide" : "card" }, h("h2", {}, title), content);

export function tile(label, value, tone) {
  return h("div", { class: "tile" }, h("b", { class: tone || null }, value), h("span", {}, label));
}

function nice(top) {
  if (!(top > 0)) return 1;
  const power = 10 ** Math.floor(Math.log10(top));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= top);
}

/** Lines over time: {series:[{points:[[x,y]],kind}], band:[[x,low,high]], limit, from, to, y, x, label}. */
export function lines(chart) {
  const [W, H, left, right, top, bottom] = [440, 220, 56, 10, 10, 26];
  const ys = [...chart.series.flatMap((one) => one.points.map((p) => p[1])), ...(chart.band || []).map((p) => p[2]), chart.limit || 0].filter(Number.isFinite);
  const max = nice(Math.max(0, ...ys));
  const inside = (v) => Math.min(Math.max(v, chart.from), chart.to);
  const x = (v) => left + ((inside(v) - chart.from) / Math.max(chart.to - chart.from, 1e-9)) * (W - left - right);
  const y = (v) => H - bottom - (Math.min(v, max) / max) * (H - top - bottom);
  const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${x(a).toFixed(1)} ${y(b).toFixed(1)}`).join("");
  const root = s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": chart.label });
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    root.append(s("line", { class: "axis", x1: left, x2: W - right, y1: y(max * part), y2: y(max * part) }),
      s("text", { x: left - 6, y: y(max * part) + 4, "text-anchor": "end" }, chart.y(max * part)));
  }
  for (const part of [0, 0.5, 1]) {
    const at = chart.from + part * (chart.to - chart.from);
    root.append(s("text", { x: x(at), y: H - 6, "text-anchor": ["start", "middle", "end"][part * 2] }, chart.x(at)));
  }
  if (chart.band && chart.band.length > 1) {
    const high = chart.band.map((p) => [p[0], p[2]]);
    const low = chart.band.map((p) => [p[0], p[1]]).reverse();
    root.append(s("path", { class: "band", d: `${path(high)}${path(low).replace("M", "L")}Z` }));
  }
  if (chart.limit) root.append(s("line", { class: "limit", x1: left, x2: W - right, y1: y(chart.limit), y2: y(chart.limit) }));
  for (const one of chart.series) {
    root.append(s("path", { class: `line ${one.kind || ""}`, d: path(one.points) }));
    if (one.points.length === 1) root.append(s("circle", { class: "meter", cx: x(one.points[0][0]), cy: y(one.points[0][1]), r: 3.5 }));
  }
  return root;
}

/** From one whole to another by parts: {before, after, parts:[{name, value, moved}], text}. */
export function waterfall({ before, after, parts, text, label }) {
  const rows = [{ name: "Before", from: 0, to: before, whole: true }];
  let at = before;
  for (const part of parts) {
    rows.push({ name: part.name, from: at, to: at + part.value, moved: part.moved, value: part.value });
    at += part.value;
  }
  rows.push({ name: "After", from: 0, to: after, whole: true });
  const [W, left, right, step] = [460, 112, 66, 30];
  const ends = rows.flatMap((row) => [row.from, row.to]);
  const low = Math.min(0, ...ends);
  const high = Math.max(...ends, low + 1e-9);
  const x = (v) => left + ((v - low) / (high - low)) * (W - left - right);
  const H = rows.length * step + 8;
  const root = s("svg", { class: "chart", viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": label });
  if (low < 0) root.append(s("line", { class: "axis", x1: x(0), x2: x(0), y1: 0, y2: H }));
  rows.forEach((row, i) => {
    const [a, b] = [Math.min(row.from, row.to), Math.max(row.from, row.to)];
    const kind = row.whole ? "whole" : row.value < 0 ? "down" : "up";
    const sign = row.whole ? "" : row.value < 0 ? "−" : "+";
    root.append(
      s("text", { class: "name", x: left - 8, y: i * step + 21, "text-anchor": "end" }, row.name),
      s("rect", { class: `${kind}${row.whole || row.moved ? "" : " still"}`, x: x(a), y: i * step + 7, width: Math.max(x(b) - x(a), 1.5), height: step - 12, rx: 3 }),
      s("text", { x: x(b) + 6, y: i * step + 21 }, sign + text(Math.abs(row.whole ? row.to : row.value))));
    if (i + 1 < rows.length) root.append(s("line", { class: "link", x1: x(row.to), x2: x(row.to), y1: (i + 1) * step - 5, y2: (i + 1) * step + 7 }));
  });
  return root;
}

/** A mean with its range on a rail from 0 to `top`. */
export function range({ low, mean, high }, top, label) {
  const x = (v) => 2 + (Math.min(v, top) / top) * 156;
  return s("svg", { viewBox: "0 0 160 16", width: 160, height: 16, role: "img", "aria-label": label },
    s("rect", { class: "rail", x: 0, y: 7, width: 160, height: 2 }),
    s("rect", { class: "band", x: x(low), y: 3, width: Math.max(x(high) - x(low), 2), height: 10, rx: 3 }),
    s("rect", { class: "meter", x: x(mean) - 1.5, y: 1, width: 3, height: 14, rx: 1.5 }));
}

/** A bar in a cell of a table, which has the figure beside it. */
export function bar(share) {
  return s("svg", { viewBox: "0 0 80 12", width: 80, height: 12, "aria-hidden": "true" },
    s("rect", { class: "meter", x: 0, y: 1, width: Math.max(80 * share, share > 0 ? 1 : 0), height: 10, rx: 2 }));
}

export function legend(entries) {
  return h("ul", { class: "legend" }, entries.map(([kind, text]) => h("li", { class: kind }, h("i", {}), text)));
}
