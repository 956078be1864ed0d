// The pulse: a row for each layer, a column for each step, the colour is log2 of the gradient norm.

import { fit } from "./dom.js";
import { painter, resize, theme } from "./paint.js";
import { drawBreaks } from "./scale.js";

/** Higher maps scroll; half a row at the end shows that there are more. */
const MAX_HEIGHT = 630;
/** Height of a row: as much as there is room for, within these bounds. */
const ROW = [13, 26];

/** Read packed numbers: base64 of gzip of float32, all first bytes before all second ones. */
export async function unpack(packed) {
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = text.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const planes = new Uint8Array(await new Response(stream).arrayBuffer());
  const length = planes.length / 4;
  const [a, b, c, d] = [0, 1, 2, 3].map((i) => planes.subarray(i * length, (i + 1) * length));
  const words = new Uint32Array(length);
  for (let i = 0; i < length; i++) words[i] = a[i] | (b[i] << 8) | (c[i] << 16) | (d[i] << 24);
  return new Float32Array(words.buffer);
}

/** The rows by parameter, or added up by layer: { name, values, parts }. */
export function rowsOf(pulse, norms, byLayer) {
  const steps = pulse.steps.length;
  const parameters = pulse.parameters.map((name, i) => ({
    name, layer: pulse.layers[i], values: norms.subarray(i * steps, (i + 1) * steps), parts: [],
  }));
  if (!byLayer) return parameters;
  const layers = new Map();
  for (const parameter of parameters) {
    const layer = layers.get(parameter.layer);
    if (layer) layer.parts.push(parameter);
    else layers.set(parameter.layer, { name: parameter.layer, layer: parameter.layer, parts: [parameter] });
  }
  return [...layers.values()].map((layer) => ({ ...layer, values: together(layer.parts, steps) }));
}

function together(parts, steps) {
  if (parts.length === 1) return parts[0].values;
  return Float64Array.from({ length: steps }, (_, step) => {
    let [squares, worst] = [0, -Infinity];
    for (const { values } of parts) {
      const value = values[step];
      worst = Math.max(worst, value); // NaN if any is
      if (value > 0) squares += value * value;
    }
    return worst > 0 && worst < Infinity ? Math.sqrt(squares) : worst;
  });
}

/** The column of the largest value from `first` up to `end`: NaN before all, no spike is lost. */
export function worst(values, first, end) {
  let found = first;
  for (let column = first; column < end; column++) {
    if (Number.isNaN(values[column])) return column;
    if (values[column] > values[found]) found = column;
  }
  return found;
}

/** The range of the colours, in powers of two: all finite values, and at least four octaves. */
export function range(rows) {
  let [low, high] = [Infinity, -Infinity];
  for (const { values } of rows) {
    for (const value of values) {
      if (value > 0 && value < Infinity) {
        low = Math.min(low, value);
        high = Math.max(high, value);
      }
    }
  }
  if (low > high) return null;
  const [bottom, top] = [Math.floor(Math.log2(low)), Math.ceil(Math.log2(high))];
  return [Math.min(bottom, top - 4), top];
}

/** Height of a row, and of what is seen of all rows. */
export function heights(rows) {
  const row = Math.min(ROW[1], Math.max(ROW[0], Math.floor(MAX_HEIGHT / Math.max(1, rows.length))));
  return { row, visible: Math.min(MAX_HEIGHT, row * Math.max(1, rows.length)) };
}

/** Draw the rows that are scrolled into view: a canvas of all would be too large for some models. */
export function drawMap(canvas, rows, scale, [low, high], offset, marked) {
  const { row: height, visible } = heights(rows);
  const context = resize(canvas, scale.left + scale.width, visible);
  const ratio = canvas.height / visible;
  const image = context.createImageData(Math.max(1, Math.round(scale.width * ratio)), canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  const columns = Array.from({ length: image.width }, (_, x) =>
    scale.under(scale.left + x / ratio, 1 / ratio));
  const paint = painter(low, high);
  const first = Math.floor(offset / height);
  const end = Math.min(rows.length, Math.ceil((offset + visible) / height));
  for (let row = first; row < end; row++) {
    const top = Math.max(0, Math.round((row * height - offset) * ratio));
    const bottom = Math.min(image.height, Math.round(((row + 1) * height - offset - 1) * ratio));
    const { values } = rows[row];
    let [key, pixel] = [-1, null];
    for (let x = 0; x < image.width; x++) {
      const [from, to] = columns[x];
      if (from !== key || to > from + 1) pixel = paint(values[worst(values, from, to)]);
      key = from;
      for (let y = top; y < bottom; y++) pixels[y * image.width + x] = pixel(x, y);
    }
  }
  context.putImageData(image, Math.round(scale.left * ratio), 0);
  drawBreaks(context, scale, 0, visible);
  context.font = theme("font");
  context.textAlign = "right";
  context.textBaseline = "middle";
  for (let row = first; row < end; row++) {
    const y = (row + 0.5) * height - offset;
    const found = marked.get(rows[row].layer);
    context.fillStyle = theme(found ? found.severity : "text");
    const mark = found ? ` ◂${found.number}` : "";
    const room = scale.left - 12 - context.measureText(mark).width;
    const name = fit(rows[row].name, (text) => context.measureText(text).width <= room);
    // Isolated, or a name that is written from right to left would take the mark along.
    context.fillText(`\u2068${name}\u2069${mark}`, scale.left - 8, y);
  }
}
