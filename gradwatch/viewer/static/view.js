// What is looked at, as a link carries it: run, rows, range of steps, chosen step. In the form in
// which TensorBoard leaves the address of its page alone: the tab's name, then its parameters.

const PREFIX = "p.gradwatch.";

/** Read a view out of the hash of an address. */
export function fromHash(hash) {
  const given = new URLSearchParams(hash.slice(1));
  const text = (name) => given.get(PREFIX + name) ?? undefined;
  const whole = (name) => (/^\d{1,15}$/.test(text(name)) ? Number(text(name)) : undefined);
  return { run: text("run"), by: text("by"), from: whole("from"), to: whole("to"), step: whole("step") };
}

/** Write a view as such a hash. */
export function toHash(view) {
  const known = Object.entries(view).filter(([, value]) => value !== undefined && value !== null);
  return ["#gradwatch", ...known.map(([name, value]) =>
    `${PREFIX}${name}=${encodeURIComponent(value)}`)].join("&");
}
