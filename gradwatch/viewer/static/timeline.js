// Heat map, findings and loss over one axis of steps, with one cursor for pointer and keyboard.

import { count, el, number, power, real, section } from "./dom.js";
import { kindOf, painter, resize, swatch, theme } from "./paint.js";
import { drawSteps, Steps } from "./scale.js";
import { drawLoss } from "./loss.js";
import { drawMap, heights, range, rowsOf, unpack, worst } from "./heatmap.js";
import { beside } from "./cursor.js";

const AXIS = 26;
/** CSS pixels for the names of the rows. */
const GUTTER = [56, 220];
const WORDS = {
  nan: "NaN", inf: "infinite", zero: "0, or too small for a float32's square",
  missed: "not reached by backward", unknown: "not measured",
};
const KEYS = { nan: "NaN", inf: "infinite", zero: "0", missed: "not reached" };
/** Parameters of a layer that are listed at the cursor. */
const MAX_PARTS = 8;

/** Fewest columns to zoom to. */
const CLOSEST = 5;

/** Return the section; `draw` (again when its width changes) needs it on the page. `changed` is told
 * of every other view than the one given, `chosen` of a step and a layer that are clicked. */
export async function timeline(pulse, findings, view, changed, chosen) {
  const steps = pulse.steps.length;
  if (!steps) {
    const text = el("p", {}, "No step was recorded.");
    return { element: section("pulse", "Gradients over time", text), draw() {} };
  }
  const whole = new Steps(pulse.steps, pulse.merged, 0, 1);
  // Columns are counted from the first one that is shown.
  const state = { byLayer: view.by !== "parameters", row: 0, column: 0, scale: null, first: 0, end: steps };
  const marked = new Map();
  findings.forEach(({ severity, layers }, i) => {
    for (const layer of layers) if (!marked.has(layer)) marked.set(layer, { severity, number: i + 1 });
  });
  const norms = await unpack(pulse.norms);
  let all = rowsOf(pulse, norms, state.byLayer);
  let octaves = range(all);
  let [rows, losses, length] = [all, pulse.losses, steps];

  const map = el("canvas", { class: "sticky" });
  const spacer = el("div", {}, map);
  const scroller = el("div", {
    class: "scroller", tabindex: "0", role: "application", "aria-describedby": "pulse-keys",
    "aria-label": "Heat map of gradient norms, layers by steps",
  }, spacer);
  const axis = el("canvas", { "aria-hidden": "true" });
  const lanes = el("div", { class: "lanes" });
  const loss = el("canvas", { role: "img", "aria-label": `Loss over ${count(steps, "step")}` });
  const lossTitle = el("h3");
  const line = el("div", { class: "line", hidden: "" });
  const box = el("div", { class: "box", hidden: "" });
  const charts = el("div", { class: "charts" },
    scroller, axis, lanes, el("div", { class: "loss" }, lossTitle, loss), line, box);
  const tip = el("div", { class: "tip", role: "status", hidden: "" });
  const legend = el("div", { class: "legend" });
  const total = el("span");
  const more = el("span");
  const choice = el("select", {
    change(event) {
      state.byLayer = event.target.value === "layers";
      all = rowsOf(pulse, norms, state.byLayer);
      octaves = range(all);
      state.row = 0;
      scroller.scrollTop = 0;
      drawLegend();
      changed(Object.assign(view, { by: event.target.value }));
      cut();
    },
  }, ["layers", "parameters"].map((by) =>
    el("option", { value: by, selected: (by === "layers") === state.byLayer ? "" : null }, by)));
  const back = el("button", { type: "button", hidden: "", click: () => zoom(0, steps, true) }, "Show all steps");

  /** Show these columns of all, and say so. */
  function zoom(first, end, whole = false) {
    const size = Math.min(steps, Math.max(CLOSEST, end - first));
    const cursor = state.first + state.column;
    state.first = Math.max(0, Math.min(steps - size, first));
    state.end = state.first + size;
    state.column = Math.max(0, Math.min(size - 1, cursor - state.first));
    // To the end is to where the run will have got by then; a part of a run has its own ends.
    const part = pulse.part && !whole;
    changed(Object.assign(view, {
      from: state.first || part ? pulse.steps[state.first] : null,
      to: state.end < steps || part ? pulse.steps[state.end - 1] + pulse.merged - 1 : null,
    }));
    cut();
  }

  function cut() {
    const { first, end } = state;
    const part = (row) => ({ ...row, values: row.values.subarray(first, end), parts: row.parts.map(part) });
    rows = all.map(part);
    losses = pulse.losses.slice(first, end);
    length = end - first;
    back.hidden = length === steps && !pulse.part;
    hide();
    draw();
  }

  function draw() {
    const available = scroller.clientWidth;
    if (!available) return;
    const context = map.getContext("2d");
    context.font = theme("font");
    const names = [...rows, ...findings].map(({ name }) => context.measureText(name).width);
    const widest = names.reduce((a, b) => Math.max(a, b), GUTTER[0]);
    const left = Math.round(Math.min(widest + 34, GUTTER[1], available * 0.35));
    state.scale = new Steps(pulse.steps.slice(state.first, state.end), pulse.merged, left, Math.max(40, available - left - 8));
    const { row, visible } = heights(rows);
    total.textContent = rows.length.toLocaleString("en");
    more.textContent = visible < row * rows.length ? " (scroll for those that follow)" : "";
    scroller.style.height = `${visible}px`;
    spacer.style.height = `${row * rows.length}px`;
    drawRows();
    drawSteps(resize(axis, available, AXIS), state.scale, 0, exams());
    lossTitle.textContent = drawLoss(loss, losses, state.scale, exams());
    lossTitle.style.marginLeft = `${left}px`;
    drawLanes();
  }

  function exams() {
    const [first, last] = [pulse.steps[state.first], pulse.steps[state.end - 1] + pulse.merged];
    return pulse.exams.filter((step) => step >= first && step < last);
  }

  function drawRows() {
    drawMap(map, rows, state.scale, octaves ?? [0, 1], scroller.scrollTop, marked);
  }

  function drawLanes() {
    const { scale } = state;
    lanes.replaceChildren(...findings.map((finding, i) => {
      const from = scale.x(scale.column(finding.since));
      const end = scale.x(scale.column(finding.until) + 1);
      const bar = el("a", {
        class: `bar ${finding.severity}`, href: `#finding-${i + 1}`,
        "aria-label": `${finding.name}, steps ${finding.since} to ${finding.until}`,
      });
      bar.hidden = finding.until < scale.steps[0] || finding.since >= scale.steps.at(-1) + pulse.merged;
      bar.style.left = `${from}px`;
      bar.style.width = `${Math.max(6, end - from)}px`;
      const name = el("span", { class: "name" }, `${i + 1} ${finding.name}`);
      name.style.width = `${scale.left - 8}px`;
      return el("div", { class: "lane" }, name, bar);
    }));
  }

  function drawLegend() {
    legend.replaceChildren();
    if (octaves) {
      const [low, high] = octaves;
      const paint = painter(low, high);
      const label = (exponent) => `${number(2 ** exponent)} (${power(exponent)})`;
      const shades = swatch(el("canvas"), 180, 12, (share) => paint(2 ** (low + share * (high - low))));
      const text = (words) => el("span", {}, words);
      legend.append(text("gradient norm"), text(label(low)), shades, text(label(high)));
    }
    const samples = { nan: NaN, inf: Infinity, zero: 0, missed: -1 };
    const kinds = new Set(all.flatMap(({ values }) => [...new Set(Array.from(values, kindOf))]));
    for (const [kind, sample] of Object.entries(samples)) {
      if (!kinds.has(kind)) continue;
      legend.append(el("span", { class: "key" },
        swatch(el("canvas"), 18, 12, () => painter(0, 1)(sample)), KEYS[kind]));
    }
    const key = (sign, words) => el("span", { class: "key" }, el("span", { class: "exam" }, sign), words);
    if (pulse.exams.length) legend.append(key("▴", "examined in full"));
    if (whole.breaks.length) legend.append(key("┆", "steps in between were not kept"));
    legend.append(back);
  }

  /** Show the numbers of a cell; `x` and `y` are where to, in the window. */
  function show(row, column, x, y) {
    Object.assign(state, { row, column });
    const { scale } = state;
    const { name, values, parts } = rows[row];
    const told = real(losses[column]);
    const lines = [
      el("b", {}, name),
      muted(scale.label(column), column === worst(values, 0, length) ? ", the largest of this row" : ""),
      el("span", { class: "value" }, "gradient norm ", el("b", {}, words(values[column]))),
      ...(parts.length > 1 ? parts.slice(0, MAX_PARTS).map((part) =>
        muted(`${part.name.split(".").at(-1)}: ${words(part.values[column])}`)) : []),
      parts.length > MAX_PARTS ? muted(`and ${parts.length - MAX_PARTS} more`) : null,
      el("span", {}, `loss ${told === null ? "not known" : number(told)}`),
    ];
    tip.replaceChildren(...lines.filter(Boolean));
    tip.hidden = line.hidden = box.hidden = false;
    beside(tip, x, y);
    line.style.left = `${scale.middle(column)}px`;
    const { row: height } = heights(rows);
    const top = row * height - scroller.scrollTop;
    box.style.top = `${top}px`;
    box.style.height = `${height - 1}px`;
    box.style.left = `${scale.x(column)}px`;
    box.style.width = `${Math.max(2, scale.each)}px`;
  }

  function hide() {
    tip.hidden = line.hidden = box.hidden = true;
  }

  /** The columns under the pointer; none where the names are. */
  function under(event) {
    const x = event.clientX - charts.getBoundingClientRect().left;
    return state.scale && x >= state.scale.left ? state.scale.under(Math.floor(x)) : null;
  }

  function point(event, row) {
    const columns = under(event);
    if (!columns || !rows[row]) return hide();
    show(row, worst(rows[row].values, ...columns), event.clientX, event.clientY);
  }

  function move(event) {
    const page = Math.max(1, Math.floor(length / 10));
    const [down, right] = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      PageUp: [0, -page], PageDown: [0, page], Home: [0, -steps], End: [0, steps],
    }[event.key] ?? [0, 0];
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "Escape") return hide();
    if (event.key === "Enter") choose(state.column);
    if (event.key === "0") zoom(0, steps, true);
    if (event.key === "+" || event.key === "=") closer(0.5, state.column);
    if (event.key === "-") closer(2, state.column);
    if (!down && !right && !"+=-0".includes(event.key)) return;
    event.preventDefault();
    const column = Math.min(steps - 1, Math.max(0, state.first + state.column + right));
    if (column < state.first) zoom(column, column + length);
    if (column >= state.end) zoom(column + 1 - length, column + 1);
    at(Math.min(rows.length - 1, Math.max(0, state.row + down)), column - state.first);
  }

  /** Change the number of columns by a factor; the one given stays where it is. */
  function closer(factor, column) {
    const size = Math.round(Math.max(CLOSEST, length * factor));
    const first = Math.round(state.first + column - (column / length) * size);
    zoom(first, first + size);
  }

  function choose(column) {
    const step = state.scale.steps[column] + pulse.merged - 1;
    changed(Object.assign(view, { step }));
    chosen(step, rows[state.row].layer);
  }

  function at(row, column) {
    if (!rows[row] || !state.scale) return;
    const { row: height, visible } = heights(rows);
    const top = row * height;
    scroller.scrollTop = Math.min(top, Math.max(scroller.scrollTop, top + height - visible));
    show(row, column, 0, 0);
    box.scrollIntoView({ block: "nearest" });
    const cell = box.getBoundingClientRect();
    show(row, column, cell.left, cell.top);
  }

  // A drag zooms to what it covers, a click chooses a step.
  let grip = null;
  scroller.addEventListener("pointerdown", (event) => {
    grip = event.button ? null : { x: event.clientX, column: under(event) };
  });
  scroller.addEventListener("pointerup", (event) => {
    const [begin, end] = [grip, under(event)];
    grip = null;
    if (!begin?.column || !end) return;
    const [low, high] = [begin.column[0], end[0]].sort((a, b) => a - b);
    if (Math.abs(event.clientX - begin.x) > 5) zoom(state.first + low, state.first + high + 1);
    else choose(state.column);
  });
  scroller.addEventListener("scroll", () => state.scale && drawRows());
  scroller.addEventListener("keydown", move);
  scroller.addEventListener("focus", () => {
    if (scroller.matches(":focus-visible")) at(state.row, state.column);
  });
  scroller.addEventListener("blur", hide);
  scroller.addEventListener("pointermove", (event) => {
    const y = event.clientY - scroller.getBoundingClientRect().top + scroller.scrollTop;
    point(event, Math.floor(y / heights(rows).row));
  });
  loss.addEventListener("pointermove", (event) => point(event, Math.min(state.row, rows.length - 1)));
  for (const element of [scroller, loss]) element.addEventListener("pointerleave", hide);
  drawLegend();
  if (view.from || view.to) {
    state.first = Math.max(0, Math.min(steps - CLOSEST, whole.column(view.from ?? 0)));
    state.end = Math.min(steps, Math.max(state.first + CLOSEST, whole.column(view.to ?? Infinity) + 1));
    cut();
  }
  state.column = length - 1;
  return { element: section("pulse", "Gradients over time",
    el("p", { class: "muted" }, "Each row is one of ", total, " ", choice, " in execution order", more,
      "; each column is a step; the colour is the norm of the gradient, in powers of two. ",
      el("span", { id: "pulse-keys" },
        "Point, or use the arrow keys, for the numbers; drag, or press + and −, to zoom; ",
        "click, or press Enter, for the ledger of a step and the distribution of a layer.")),
    legend, charts, tip), draw };
}

function muted(...words) {
  return el("span", { class: "muted" }, ...words);
}

function words(value) {
  const kind = kindOf(value);
  if (kind !== "finite") return WORDS[kind];
  return `${number(value)} (2^${Math.log2(value).toFixed(1)})`;
}
