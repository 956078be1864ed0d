// How large the numbers of one layer are: a ridge for each exam, over the powers of two.

import { count, el, number, power, section } from "./dom.js";
import { unpack } from "./heatmap.js";
import { resize, theme, write } from "./paint.js";
import { walkable } from "./cursor.js";

const QUANTITIES = ["gradients", "weights", "outputs"];
/** What an exam tells before its octaves. */
const REST = ["zero", "NaN", "infinite"];
/** CSS pixels: from ridge to ridge, of the highest one, below all, and for words at the sides. */
const [PITCH, PEAK, BELOW, STEP, SIDE] = [15, 40, 36, 52, 56];

/** Return the section; `choose` shows another layer, `draw` is for when its width changes. `told`
 * hears of the layer that the reader has chosen here. */
export async function ridges(octaves, told) {
  const { steps, layers, ends } = octaves;
  const shares = await unpack(octaves.shares);
  const rows = new Map(layers.map((layer) => [layer, []]));
  let [at, panels] = [0, []];
  for (const [layer, quantity, low, width, size] of octaves.rows) {
    const own = shares.subarray(at, at += (width + REST.length) * steps.length);
    rows.get(layers[layer]).push({ name: QUANTITIES[quantity], low, width, size,
      rest: (exam) => REST.map((_, i) => own[i * steps.length + exam]),
      share: (exam, i) => own[(REST.length + i) * steps.length + exam] || 0 });
  }
  const choice = el("select", { "aria-label": "Layer", change: () => told(choice.value) },
    layers.map((layer) => el("option", { value: layer }, layer)));
  const place = el("div", { class: "ridges" });
  const draw = () => panels.forEach((panel) => panel.draw());

  function choose(layer) {
    choice.value = layer;
    panels = (rows.get(layer) ?? []).map((row) => panel(row, layer, steps, ends));
    place.replaceChildren(...panels.map(({ element }) => element));
    if (layer && !panels.length) place.append(`There is none of ${layer} here.`);
    draw();
  }

  const some = steps.length < octaves.made ? ` of ${octaves.made}, evenly spaced` : "";
  const text = layers.length ? ["Layer ", choice, ` at ${count(steps.length, "exam")}${some}: `,
    "the height is the share of its numbers from one power of two to the next. ",
    octaves.left_out ? `There was no room for ${count(octaves.left_out, "layer")}. ` : "",
    el("span", { id: "octaves-keys" },
      "Point, or use the arrow keys, for the shares. A click on a row above, or Enter, chooses its layer.")]
    : "No step was examined.";
  return { choose, draw, element: section("octaves", "How large a layer's numbers are",
    el("p", { class: "muted" }, text), place) };
}

/** The ridges of one quantity of a layer. */
function panel(row, layer, steps, ends) {
  const canvas = el("canvas");
  const octaves = Array.from({ length: row.width }, (_, i) => i);
  const rests = steps.map((_, exam) => row.rest(exam));
  const bad = ([, nan, infinite]) => nan + infinite;
  const top = Math.max(1e-9, ...steps.flatMap((_, exam) => octaves.map((i) => row.share(exam, i))));
  const left = STEP + (rests.some(([zero]) => zero > 0) ? SIDE : 0);
  const right = rests.some((rest) => bad(rest) > 0) ? SIDE : 12;
  const [bottom, base] = [PEAK + (steps.length - 1) * PITCH, (exam) => PEAK + exam * PITCH];
  const height = (exam, i) => (PEAK * row.share(exam, i)) / top;
  let each = 1;
  const focus = walkable(canvas, `${row.name} of ${layer}, powers of two by steps`, "octaves-keys", {
    size: [steps.length, row.width], begin: () => [steps.length - 1, row.width >> 1], draw,
    under: (x, y) => [Math.ceil((y - PEAK - 1) / PITCH), Math.floor((x - left) / each)],
    tell: (exam, i) => ({ x: left + (i + 1) * each, y: base(exam), lines: [
      layer, el("span", { class: "muted" }, `${row.name}, step ${steps[exam]}`),
      ...(Number.isNaN(rests[exam][0]) ? ["not measured"] : [
        [`${reach(row.low + i, ends)}: `, el("b", {}, portion(row.share(exam, i)))],
        ...rests[exam].map((share, k) => (share ? [`${REST[k]}: `, el("b", {}, portion(share))] : "")),
      ])] }),
  });

  function draw(cursor) {
    const width = Math.floor(focus.clientWidth);
    if (!width) return;
    each = Math.max(1, width - left - right) / row.width;
    const context = resize(canvas, width, bottom + BELOW);
    context.font = theme("font");
    const octave = Math.log2(10);
    const every = Math.ceil(40 / (each * octave));
    const first = Math.ceil(row.low / octave / every) * every;
    for (let ten = first; ten * octave <= row.low + row.width; ten += every) {
      const x = left + (ten * octave - row.low) * each;
      context.fillStyle = theme("line");
      context.fillRect(Math.round(x), PEAK - PITCH, 1, bottom - PEAK + PITCH + 5);
      write(context, power(ten, 10), x, bottom + 18, "muted", "center");
    }
    write(context, "magnitude", left + (row.width * each) / 2, bottom + 33, "muted", "center");
    write(context, "step", STEP - 8, 12);
    if (left > STEP) write(context, "zero", left - 8, 12);
    if (right === SIDE) write(context, "not finite", width, 12, "critical");
    rests.forEach((rest, exam) => {
      const y = base(exam);
      write(context, steps[exam].toLocaleString("en"), STEP - 8, y, cursor?.[0] === exam ? "text" : "muted");
      if (Number.isNaN(rest[0])) write(context, "not measured", left + 4, y - 2, "muted", "left");
      if (rest[0] > 0) write(context, portion(rest[0]), left - 8, y, "text");
      if (bad(rest) > 0) write(context, `✕ ${portion(bad(rest))}`, width, y, "critical");
      context.beginPath();
      context.moveTo(left, y);
      for (const i of octaves) context.lineTo(left + (i + 0.5) * each, y - height(exam, i));
      context.lineTo(left + row.width * each, y);
      Object.assign(context, { fillStyle: theme("ridge"), strokeStyle: theme("accent"), lineWidth: 1 });
      context.fill();
      context.stroke();
    });
    if (!cursor) return;
    const high = Math.max(2, height(...cursor));
    context.fillStyle = theme("text");
    context.fillRect(left + cursor[1] * each, base(cursor[0]) - high, Math.max(2, each), high + 1);
  }

  return { draw, element: el("div", {},
    el("h3", {}, row.name, el("span", { class: "muted" }, `, ${count(row.size, "number")}`)), focus) };
}

/** The magnitudes of an octave; the outermost ones hold all that is beyond, too. */
function reach(exponent, [first, last]) {
  const text = (k) => `${power(k)} (${number(2 ** k)})`;
  if (exponent <= first) return `below ${text(first + 1)}`;
  return exponent >= last ? `${text(last)} and more` : `${text(exponent)} to ${text(exponent + 1)}`;
}

function portion(share) {
  return `${number(100 * share)} %`;
}
