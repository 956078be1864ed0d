// The axis of steps, which the heat map, the findings and the loss share. One column for each step
// that was kept, side by side: in a long run those in the middle are not, and a line says so.

import { theme } from "./paint.js";

/** A scale over `steps`, drawn from `left` over `width` CSS pixels. */
export class Steps {
  constructor(steps, merged, left, width) {
    Object.assign(this, { steps, merged, left, width });
    this.each = width / Math.max(1, steps.length);
    const gaps = steps.slice(1).map((step, i) => step - steps[i]);
    const usual = [...gaps].sort((a, b) => a - b)[gaps.length >> 1];
    /** Columns before which steps are missing. */
    this.breaks = gaps.flatMap((gap, i) => (gap > 2 * usual ? [i + 1] : []));
  }

  /** Left edge of a column. */
  x(column) {
    return this.left + column * this.each;
  }

  /** Middle of a column. */
  middle(column) {
    return this.x(column + 0.5);
  }

  /** First column that holds this step or a later one. */
  column(step) {
    const found = this.steps.findIndex((first) => first + this.merged > step);
    return found < 0 ? this.steps.length - 1 : found;
  }

  /** The columns under a stretch of the screen: at least one. */
  under(x, width = 1) {
    const first = Math.floor((x - this.left) / this.each + 1e-9);
    const end = Math.ceil((x + width - this.left) / this.each - 1e-9);
    const limit = this.steps.length;
    const low = Math.min(Math.max(0, first), limit - 1);
    return [low, this.each >= 1 ? low + 1 : Math.min(limit, Math.max(low + 1, end))];
  }

  /** Name a column. */
  label(column) {
    const step = this.steps[column];
    if (this.merged === 1) return `step ${step}`;
    const next = this.steps[column + 1] ?? step + this.merged;
    return `steps ${step} to ${Math.max(step, Math.min(step + this.merged, next) - 1)}`;
  }

  /** Columns to write the step under. */
  ticks() {
    const room = Math.max(1, Math.floor(this.width / 70));
    const span = (this.steps.at(-1) ?? 0) - (this.steps[0] ?? 0) - this.breaks.reduce(
      (sum, column) => sum + this.steps[column] - this.steps[column - 1], 0);
    const every = nice(span / room);
    let right = -Infinity;
    return this.steps.flatMap((step, column) => {
      const round = this.steps.length <= room || step % every < (column ? Math.min(this.merged, every) : 1);
      if (!round || this.middle(column) - right < 44) return [];
      right = this.middle(column);
      return [column];
    });
  }
}

/** The next number of 1, 2, 5, 10, 20, ... that is at least `size`. */
export function nice(size) {
  const decade = 10 ** Math.floor(Math.log10(Math.max(1, size)));
  return [1, 2, 5, 10].map((factor) => factor * decade).find((every) => every >= size) ?? 1;
}

/** Draw the axis below `top`, with a mark for each exam. */
export function drawSteps(context, scale, top, exams) {
  context.fillStyle = context.strokeStyle = theme("muted");
  context.font = theme("font");
  context.textBaseline = "top";
  context.textAlign = "right";
  context.fillText("step", scale.left - 8, top + 8);
  context.textAlign = "center";
  for (const column of scale.ticks()) {
    context.fillRect(Math.round(scale.middle(column)), top, 1, 5);
    context.fillText(scale.steps[column].toLocaleString("en"), scale.middle(column), top + 8);
  }
  context.fillStyle = theme("accent");
  for (const exam of exams) {
    const x = scale.middle(scale.column(exam));
    context.beginPath();
    context.moveTo(x, top);
    context.lineTo(x - 3, top + 5);
    context.lineTo(x + 3, top + 5);
    context.fill();
  }
}

/** Draw a dashed line wherever steps were not kept. */
export function drawBreaks(context, scale, top, height) {
  context.save();
  context.strokeStyle = theme("text");
  context.setLineDash([4, 3]);
  for (const column of scale.breaks) {
    context.beginPath();
    context.moveTo(scale.x(column), top);
    context.lineTo(scale.x(column), top + height);
    context.stroke();
  }
  context.restore();
}
