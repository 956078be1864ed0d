// Pixels: the colours of numbers, and patterns for what has none (so that no one depends on hue).

// Viridis: even steps of lightness, readable with every kind of colour vision.
const ANCHORS = [
  [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
  [31, 158, 137], [53, 183, 121], [110, 206, 88], [181, 222, 43], [253, 231, 37],
];
const SHADES = 256;
const PALETTE = Uint32Array.from({ length: SHADES }, (_, i) => {
  const place = (i / (SHADES - 1)) * (ANCHORS.length - 1);
  const [low, high] = [ANCHORS[Math.floor(place)], ANCHORS[Math.ceil(place)]];
  return colour(low.map((part, k) => part + (high[k] - part) * (place % 1)));
});
const WHITE = colour([255, 255, 255]);
const BLACK = colour([0, 0, 0]);
const MAGENTA = colour([216, 0, 130]);
const ORANGE = colour([255, 140, 0]);
const GREY = colour([140, 140, 146]);

/** The 32 bits of a pixel as ImageData has them (little-endian: red first). */
function colour([red, green, blue]) {
  return ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0;
}

/** The kinds of values that no shade stands for; `x` and `y` are in pixels of the screen. */
const PATTERNS = {
  nan: (x, y) => ((x + y) % 6 < 2 ? WHITE : MAGENTA),
  inf: (x, y) => ((x - y + 6000) % 6 < 2 ? BLACK : ORANGE),
  zero: (x, y) => (x % 5 === 0 && y % 5 === 0 ? WHITE : BLACK),
  missed: () => GREY,
  unknown: () => 0,
};

/** Say what kind of value it is: negative ones are marks of "not reached" and "not measured". */
export function kindOf(value) {
  if (Number.isNaN(value)) return "nan";
  if (value === Infinity) return "inf";
  if (value === 0) return "zero";
  return value > 0 ? "finite" : value < -1 ? "unknown" : "missed";
}

/** Return how to paint the numbers from 2^low to 2^high: a function of value, x and y. */
export function painter(low, high) {
  const scale = (SHADES - 1) / (high - low);
  return (value) => {
    const kind = kindOf(value);
    if (kind !== "finite") return PATTERNS[kind];
    const shade = Math.round((Math.log2(value) - low) * scale);
    const pixel = PALETTE[Math.min(SHADES - 1, Math.max(0, shade))];
    return () => pixel;
  };
}

/** Give a canvas its size in CSS pixels, and return a context that draws in them. */
export function resize(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  return context;
}

/** Paint a small canvas by a function of x and y, for a legend. */
export function swatch(canvas, width, height, paint) {
  const context = resize(canvas, width, height);
  const image = context.createImageData(canvas.width, canvas.height);
  const pixels = new Uint32Array(image.data.buffer);
  pixels.forEach((_, i) => {
    const x = i % canvas.width;
    pixels[i] = paint(x / canvas.width)(x, Math.floor(i / canvas.width));
  });
  context.putImageData(image, 0, 0);
  return canvas;
}

/** Return a colour of the style sheet. */
export function theme(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

/** Write on a canvas, in a colour of the style sheet. */
export function write(context, text, x, y, colour = "muted", align = "right") {
  Object.assign(context, { fillStyle: theme(colour), textAlign: align });
  context.fillText(text, x, y);
}
