// Elements and numbers. What comes from a run becomes text, never markup.

/** Make an element; strings among its children become text nodes. */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.flat(2).filter((child) => child !== null && child !== ""));
  return element;
}

/** Make a section of the page, with a heading that can be linked to. */
export function section(id, title, ...children) {
  return el("section", { id, "aria-labelledby": `${id}-title` },
    el("h2", { id: `${id}-title` }, title), ...children);
}

/** Read a number of the data, where the ones that are not finite are words. */
export function real(value) {
  if (typeof value !== "string") return value;
  return value === "nan" ? NaN : value.startsWith("-") ? -Infinity : Infinity;
}

/** Write a number with 3 digits. */
export function number(value) {
  if (Number.isNaN(value)) return "NaN";
  if (!Number.isFinite(value)) return value > 0 ? "inf" : "-inf";
  const size = Math.abs(value);
  if (size >= 100 && size < 1e5) return String(Math.round(value));
  return value === 0 ? "0" : value.toPrecision(3).replace("e+", "e");
}

/** Write a round number, as an axis has. */
export function round(value) {
  return String(Number(value.toPrecision(3))).replace("e+", "e");
}

/** Write a number of bits with its sign. */
export function signed(bits, digits = 1) {
  const text = (bits ?? 0).toFixed(digits);
  return Number(text) > 0 ? `+${text}` : Number(text) === 0 ? (0).toFixed(digits) : text;
}

/** Write 2, or another base, to the power of an integer. */
export function power(exponent, base = 2) {
  const digits = [...String(exponent)].map((digit) => (digit === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]));
  return `${base}${digits.join("")}`;
}

/** "1 step", "2 steps". */
export function count(times, word) {
  return `${times.toLocaleString("en")} ${word}${times === 1 ? "" : "s"}`;
}

/** Return the parts of a sentence, where `names` stand in backticks. */
export function prose(text) {
  return text.split(/`([^`]+)`/).map((part, i) => (i % 2 ? el("code", {}, part) : part));
}

/** Shorten a text in its middle, until it fits by the measure given. */
export function fit(text, fits) {
  if (fits(text)) return text;
  let [low, high] = [0, text.length]; // characters that are kept
  const kept = (n) => `${text.slice(0, n >> 1)}…${text.slice(text.length - ((n + 1) >> 1))}`;
  while (low < high - 1) {
    const middle = (low + high) >> 1;
    if (fits(kept(middle))) low = middle;
    else high = middle;
  }
  return kept(low);
}
