// One cursor for the pointer and for the keys, on a chart with a box for its numbers.

import { el } from "./dom.js";

const MOVES = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  Home: [0, -Infinity], End: [0, Infinity],
};

/** Make a canvas one can point at and walk on, over `size` rows and columns from those of `begin`.
 * `under` finds row and column under x and y; `tell` says { lines, x, y } of them, and `draw` marks
 * them, undefined for none; `enter` chooses a row. */
export function walkable(canvas, label, keys, { size, begin, under, tell, draw, enter = () => {} }) {
  const tip = el("div", { class: "told", role: "status", hidden: "" });
  let cursor;
  function show(to, event) {
    cursor = to?.map((at, i) => Math.max(0, Math.min(size[i] - 1, at)));
    draw(cursor);
    tip.hidden = !cursor;
    if (!cursor) return;
    const { lines, x, y } = tell(...cursor);
    tip.replaceChildren(...lines.map((line, i) => el(i ? "span" : "b", {}, line)));
    const { left, top } = canvas.getBoundingClientRect();
    beside(tip, event?.clientX ?? left + x, event?.clientY ?? top + y);
  }
  const hide = () => show();
  return el("div", {
    tabindex: "0", role: "application", "aria-label": label, "aria-describedby": keys,
    pointermove: (event) => show(under(event.offsetX, event.offsetY), event),
    pointerleave: hide, blur: hide, click: () => cursor && enter(cursor[0]),
    keydown(event) {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") hide();
      if (event.key === "Enter" && cursor) enter(cursor[0]);
      const move = MOVES[event.key];
      if (!move) return;
      event.preventDefault();
      show((cursor ?? begin()).map((at, i) => at + move[i]));
    },
  }, canvas, tip);
}

/** Put a tip beside a place of the window, inside of it. */
export function beside(tip, x, y) {
  const width = tip.offsetWidth;
  tip.style.left = `${x + width + 24 > window.innerWidth ? Math.max(4, x - width - 16) : x + 16}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 16, window.innerHeight - tip.offsetHeight - 4))}px`;
}
