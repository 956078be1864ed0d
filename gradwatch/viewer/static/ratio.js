// How far each step moved the weights, compared with the weights: a line for each parameter.

import { count, el, number, power, section } from "./dom.js";
import { unpack } from "./heatmap.js";
import { kindOf, resize, theme, write } from "./paint.js";
import { drawSteps, nice, Steps } from "./scale.js";
import { walkable } from "./cursor.js";

/** Powers of ten that are usual: a rule of thumb (CS231n, "Ratio of weights:updates": about 1e-3). */
const USUAL = [-4, -2];
/** CSS pixels: of all, of the names at the left, of the lanes for what is no power of ten. */
const [TALL, NAMES, LANE] = [220, 64, 18];
const SAID = {
  nan: "not finite", inf: "infinite: it left 0", zero: "0: it did not move", unknown: "not measured",
};

/** Return the section; `choose` marks a layer, `draw` is for when its width changes. `told` hears of
 * the layer of a line that is clicked. */
export async function ratios(updates, told) {
  const { steps, parameters, layers } = updates;
  const values = await unpack(updates.ratios);
  const value = (line, exam) => values[line * steps.length + exam];
  const onScale = (line, exam) => kindOf(value(line, exam)) === "finite";
  const tens = values.filter((each) => kindOf(each) === "finite").map(Math.log10);
  const [low, high] = tens.reduce(([a, b], ten) => [Math.min(a, ten), Math.max(b, ten)], USUAL);
  const canvas = el("canvas");
  let chosen, scale;
  const y = (ten) => TALL - 2 * LANE - ((ten - low) / (high - low)) * (TALL - 4 * LANE);

  /** Where a value stands; NaN where there is none. */
  function height(line, exam) {
    const [each, lanes] = [value(line, exam), { zero: TALL - LANE / 2, nan: 6, inf: LANE }];
    return onScale(line, exam) ? y(Math.log10(each)) : lanes[kindOf(each)] ?? NaN;
  }

  const focus = walkable(canvas, "Update divided by weight, parameters by steps", "updates-keys", {
    size: [parameters.length, steps.length], draw, enter: (line) => told(layers[line]),
    begin: () => [Math.max(0, layers.indexOf(chosen)), steps.length - 1],
    under(x, y) {
      const exam = scale.under(x)[0];
      const near = (line) => 1 / (1 + Math.abs(height(line, exam) - y)) || 0; // 0 where there is none
      return [layers.reduce((best, _, line) => (near(line) > near(best) ? line : best), 0), exam];
    },
    tell(line, exam) {
      const each = value(line, exam);
      return { x: scale.middle(exam), y: height(line, exam) || TALL / 2, lines: [
        parameters[line], el("span", { class: "muted" }, `step ${steps[exam]}`),
        ["update ÷ weight ", el("b", {}, SAID[kindOf(each)] ?? number(each))],
      ] };
    },
  });

  function draw(cursor) {
    const width = focus.clientWidth;
    if (!width || !parameters.length) return;
    // Exams need not be at round steps: with so many "merged", each may have its number on the axis.
    scale = new Steps(steps, Infinity, NAMES, Math.max(40, width - NAMES - 10));
    const context = resize(canvas, width, TALL + 26);
    const name = (text, at) => write(context, text, NAMES - 8, at);
    Object.assign(context, { font: theme("font"), textBaseline: "middle", fillStyle: theme("usual") });
    context.fillRect(NAMES, y(USUAL[1]), scale.width, y(USUAL[0]) - y(USUAL[1]));
    const every = nice(((high - low) * 28) / TALL);
    for (let ten = Math.ceil(low / every) * every; ten <= high; ten += every) {
      context.fillStyle = theme("line");
      context.fillRect(NAMES, Math.round(y(ten)), scale.width, 1);
      name(power(ten, 10), y(ten));
    }
    if (values.includes(0)) name("0", TALL - LANE / 2);
    if (values.includes(Infinity)) name("from 0", LANE);
    if (values.some(Number.isNaN)) name("NaN", 6);
    const faint = Math.max(0.15, Math.min(0.6, 12 / parameters.length));
    const [muted, accent, text] = ["muted", "accent", "text"].map(theme);
    layers.forEach((_, line) => trace(context, line, muted, 1, faint));
    layers.forEach((layer, line) => layer === chosen && trace(context, line, accent, 2, 1));
    if (cursor) trace(context, cursor[0], text, 2, 1, cursor[1]);
    drawSteps(context, scale, TALL, []);
  }

  /** Draw a line through what was measured, with dots where it can be told from others. */
  function trace(context, line, colour, lineWidth, globalAlpha, exam) {
    context.save();
    Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth, globalAlpha });
    context.beginPath();
    steps.forEach((_, at) => context[at && onScale(line, at) && onScale(line, at - 1) ? "lineTo" : "moveTo"](
      scale.middle(at), height(line, at)));
    context.stroke();
    steps.forEach((_, at) => {
      if (lineWidth < 2 && onScale(line, at) && steps.length > 1) return;
      context.beginPath();
      context.arc(scale.middle(at), height(line, at), at === exam ? 6 : 3, 0, 7);
      context.fill();
    });
    context.restore();
  }

  function choose(layer) {
    chosen = layer;
    draw();
  }

  const measured = values.some((each) => each > -2);
  const text = measured ? [
    "Each line is a parameter: the norm of what a step changed, divided by the norm before it. ",
    el("span", { class: "usual swatch" }), ` ${power(USUAL[0], 10)} to ${power(USUAL[1], 10)} is usual: `,
    `a rule of thumb (CS231n: about ${power(-3, 10)}), no law. `,
    el("span", { class: "chosen swatch" }), " the chosen layer. ",
    updates.left_out ? `There was no room for ${count(updates.left_out, "parameter")}. ` : "",
    el("span", { id: "updates-keys" },
      "Point, or use the arrow keys, for the numbers; a click, or Enter, chooses the layer.")]
    : "No step of an optimizer was measured.";
  return { draw, choose, element: section("updates", "How far a step moves the weights",
    el("p", { class: "muted" }, text), measured ? focus : null) };
}
