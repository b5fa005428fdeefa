// Pages that keep themselves up to date, and say so when they no longer can.

import { Refused } from "./api.js";
import { h, morph } from "./draw.js";

const clockTime = (date) => date.toLocaleTimeString("en-GB");

/** Draws what `make` returns now and every `every` ms until the returned function is called. The first failure is the caller's; after a
 * later one the last figures stay, pale, under a line that says since when they are old. */
export async function live(box, every, make) {
  const note = h("p", { class: "stale", role: "alert" });
  const body = h("div", {});
  let [fresh, busy] = [null, false];
  const turn = async () => {
    const made = await make();
    morph(body, h("div", {}, made));
    fresh = new Date();
    note.textContent = "";
  };
  const told = (error) => {
    const text = `${error.message.replace(/\.?$/, ".")} The figures below are of ${clockTime(fresh)}; asking again every ${every / 1000} seconds.`;
    // Told once, not at every turn.
    if (note.textContent === text) return;
    note.textContent = text;
    body.className = "old";
    if (error instanceof Refused && error.status === 401) dispatchEvent(new Event("token-refused"));
  };
  const again = async () => {
    if (busy) return;
    busy = true;
    await turn().catch(told);
    busy = false;
  };
  await turn();
  box.replaceChildren(note, body);
  const timer = setInterval(again, every);
  return { again, stop: () => clearInterval(timer) };
}
