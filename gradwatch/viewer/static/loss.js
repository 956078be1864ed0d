// The loss under the heat map, over the same steps.

import { real, round } from "./dom.js";
import { resize, theme } from "./paint.js";
import { drawBreaks, drawSteps, nice } from "./scale.js";

const HEIGHT = 150;
const TOP = 12;
const BOTTOM = 26;
/** A positive loss that spans this many decades is drawn on a logarithmic axis. */
const DECADES = 2;
/** How the curves of one run, and of another beside it, are told apart. */
const LINES = [{ colour: "accent", dash: [] }, { colour: "lost", dash: [6, 4] }];

/** Draw the losses (null where not known) of one run or more, and say on which kind of axis. */
export function drawLoss(canvas, losses, scale, exams, ...others) {
  const context = resize(canvas, scale.left + scale.width, HEIGHT + TOP + BOTTOM);
  const curves = [losses, ...others].map((each) => each.map(real));
  const finite = curves.flat().filter((value) => value !== null && Number.isFinite(value));
  const axis = vertical(finite);
  context.font = theme("font");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (const tick of axis.ticks) {
    context.fillStyle = theme("line");
    context.fillRect(scale.left, Math.round(axis.y(tick)), scale.width, 1);
    context.fillStyle = theme("muted");
    context.fillText(axis.format(tick), scale.left - 8, axis.y(tick));
  }
  drawBreaks(context, scale, TOP, HEIGHT);
  curves.forEach((values, i) => {
    context.setLineDash(LINES[i].dash);
    context.strokeStyle = context.fillStyle = theme(LINES[i].colour);
    curve(context, values, scale, axis);
    context.setLineDash([]);
    marks(context, values, scale);
  });
  drawSteps(context, scale, TOP + HEIGHT, exams);
  return axis.logarithmic ? "loss (log axis)" : "loss";
}

function vertical(finite) {
  let [low, high] = finite.length ? extremes(finite) : [0, 1];
  const logarithmic = low > 0 && high / low >= 10 ** DECADES;
  const place = logarithmic ? Math.log10 : (value) => value;
  if (low === high) [low, high] = [low - (Math.abs(low) || 1) / 2, high + (Math.abs(high) || 1) / 2];
  const span = place(high) - place(low);
  const y = (value) => TOP + HEIGHT * (1 - (place(value) - place(low)) / span);
  let [ticks, format] = [[], round];
  if (logarithmic) {
    const every = nice(span / 5);
    const first = Math.ceil(place(low) / every) * every;
    for (let decade = first; decade <= place(high); decade += every) ticks.push(10 ** decade);
  } else if (finite.length) {
    const unit = 10 ** Math.floor(Math.log10(span / 3)); // `nice` is for whole numbers
    const every = nice(span / 3 / unit) * unit;
    const first = Math.ceil(low / every);
    const digits = -Math.floor(Math.log10(every) + 1e-9);
    if (digits > 0 && digits < 5) format = (tick) => tick.toFixed(digits);
    for (let i = first; i * every <= high; i++) ticks.push(i * every);
  }
  return { logarithmic, y, ticks, format };
}

/** Join the points; where several share a column of pixels, from the lowest to the highest. */
function curve(context, values, scale, axis) {
  context.lineWidth = 1.5;
  context.lineJoin = "round";
  context.beginPath();
  let joined = false;
  const wide = scale.each >= 1;
  for (let x = wide ? 0 : scale.left; x < (wide ? values.length : scale.left + scale.width); x++) {
    const [from, end] = wide ? [x, x + 1] : scale.under(x);
    const here = values.slice(from, end);
    const known = here.filter((value) => value !== null && Number.isFinite(value));
    // A loss that is not finite tears the line; one that was not told does not.
    if (here.some((value) => value !== null && !Number.isFinite(value))) joined = false;
    if (!known.length) continue;
    const at = wide ? scale.middle(x) : x;
    const [low, high] = extremes(known);
    if (joined) context.lineTo(at, axis.y(known[0]));
    else context.moveTo(at, axis.y(known[0]));
    if (low !== high) {
      context.lineTo(at, axis.y(low));
      context.lineTo(at, axis.y(high));
    }
    context.lineTo(at, axis.y(known.at(-1)));
    joined = true;
  }
  context.stroke();
  if (values.length > 60) return;
  values.forEach((value, column) => {
    if (value === null || !Number.isFinite(value)) return;
    context.beginPath();
    context.arc(scale.middle(column), axis.y(value), 2.5, 0, 7);
    context.fill();
  });
}

/** Mark each loss that is not finite with a cross at the top. */
function marks(context, values, scale) {
  context.fillStyle = theme("critical");
  context.textAlign = "center";
  values.forEach((value, column) => {
    if (value === null || Number.isFinite(value)) return;
    context.fillText("✕", scale.middle(column), TOP - 6);
  });
}

function extremes(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)],
    [Infinity, -Infinity]);
}
