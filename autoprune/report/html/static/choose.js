const STEPS = 200;
const NUMBER = /^\s*[+-]?(\d{1,30}(\.\d{0,30})?|\.\d{1,30})([eE][+-]?\d{1,2})?\s*$/;
const bounds = data.quantities.map(() => null);
const picked = { id: null, listeners: [] };

const lax = (quantity) => (quantity.direction === "max" ? 0 : STEPS);
const meets = (quantity, value, bound) => (quantity.direction === "max" ? value >= bound : value <= bound);

/* The rule of `autoprune pick`: the best first objective, of equals the fastest. */
function pick() {
  const fitting = data.models.filter((model) => model.feasible && data.quantities.every((q, i) =>
    bounds[i] === null || (model.values[q.key] !== null && meets(q, model.values[q.key], Number(bounds[i])))));
  const loss = (model) => data.metric.sign * model.values[data.metric.key];
  const latency = (model) => model.values.latency_ms ?? 0;
  return fitting.reduce((best, model) => {
    if (best === null || loss(model) < loss(best)) return model;
    return loss(model) === loss(best) && latency(model) < latency(best) ? model : best;
  }, null);
}

function rangeOf(quantity) {
  const values = data.models.filter((m) => m.feasible).map((m) => m.values[quantity.key]).filter((v) => v !== null);
  return values.length ? [Math.min(...values), Math.max(...values)] : [0, 0];
}

/* Text of the bound at a position of the slider, rounded so that the strictest one can still be met. */
function boundAt(quantity, position) {
  if (position === lax(quantity)) return null;
  const [low, high] = rangeOf(quantity);
  const share = position / STEPS;
  const log = quantity.log && low > 0;
  const value = log ? low * (high / low) ** share : low + (high - low) * share;
  const least = high > low ? (high - low) / STEPS : Math.abs(high) / STEPS || 1;
  const step = log ? Math.min(least, value / 100) : least;
  const decimals = Math.min(15, Math.max(0, Math.ceil(-Math.log10(step))));
  const factor = 10 ** decimals;
  const eased = quantity.direction === "max" ? Math.floor(value * factor) : Math.ceil(value * factor);
  return (eased / factor).toFixed(decimals);
}

function positionOf(quantity, bound) {
  if (bound === null) return lax(quantity);
  const [low, high] = rangeOf(quantity);
  if (high <= low) return lax(quantity);
  const log = quantity.log && low > 0;
  const share = log ? Math.log(Number(bound) / low) / Math.log(high / low) : (Number(bound) - low) / (high - low);
  return Math.round(STEPS * Math.min(1, Math.max(0, share)));
}

function commandText() {
  const options = data.quantities.map((q, i) => {
    if (bounds[i] === null) return "";
    if (q.key === "latency_ms" && q.direction === "min") return `--max-latency-ms ${bounds[i]}`;
    return `--require '${q.key}${q.direction === "max" ? ">=" : "<="}${bounds[i]}'`;
  });
  return [data.prefix, ...options.filter(Boolean), "--to DIR"].join(" ");
}

/* A model's figures, as the table of models tells them. */
function factsOf(model) {
  const row = [...document.querySelectorAll("#models tr[data-model]")].find((tr) => tr.dataset.model === model.id);
  const titles = [...document.querySelectorAll("#models thead th")].map((th) => th.textContent);
  const cells = [...row.cells].map((cell, i) => `${titles[i]} ${cell.textContent.replace(/\s+/g, " ").trim()}`);
  return cells.slice(1, titles.indexOf("size") + 1).join("; ");
}

function tellChoice() {
  const model = pick();
  const sentence = byId("chosen");
  sentence.replaceChildren();
  byId("chosen-command").parentElement.hidden = model === null;
  byId("chosen-command").textContent = model ? commandText() : "";
  if (model) {
    const name = document.createElement("strong");
    name.textContent = model.name;
    sentence.append(name, `: ${factsOf(model)}`);
  } else {
    const ranges = data.quantities.map((q) => `${q.label} ${rangeOf(q).map((v) => shown(q.kind, v)).join(" to ")}`);
    sentence.textContent = `No model meets these limits together. Reachable: ${ranges.join("; ")}.`;
  }
  for (const row of document.querySelectorAll("tr[data-model]")) {
    row.classList.toggle("chosen", model !== null && row.dataset.model === model.id);
  }
  picked.id = model ? model.id : null;
  for (const listener of picked.listeners) listener();
}

function setBound(index, text) {
  const quantity = data.quantities[index];
  bounds[index] = text;
  const slider = byId(`slider-${index}`);
  slider.value = String(positionOf(quantity, text));
  const label = text === null ? "any" : shown(quantity.kind, Number(text));
  slider.setAttribute("aria-valuetext", label);
  byId(`shown-${index}`).textContent = label;
}

function setUpChoice() {
  if (!byId("limits")) return;
  data.quantities.forEach((quantity, index) => {
    const slider = byId(`slider-${index}`), field = byId(`bound-${index}`);
    slider.addEventListener("input", () => {
      const position = slider.value;
      setBound(index, boundAt(quantity, Number(position)));
      slider.value = position;
      field.value = bounds[index] ?? "";
      field.removeAttribute("aria-invalid");
      tellChoice();
    });
    const read = () => {
      const text = field.value.trim();
      const valid = text === "" || NUMBER.test(text);
      if (!valid) return field.setAttribute("aria-invalid", "true");
      field.removeAttribute("aria-invalid");
      setBound(index, text === "" ? null : text);
      tellChoice();
    };
    field.addEventListener("input", read);
    field.addEventListener("change", read);
  });
  byId("limits").addEventListener("submit", (event) => event.preventDefault());
  tellChoice();
}

/* Set the limits to what a model just meets. */
function choose(id) {
  const model = data.models.find((m) => m.id === id);
  if (!model || !byId("limits")) return;
  data.quantities.forEach((quantity, index) => {
    const value = model.values[quantity.key];
    setBound(index, value === null ? null : String(value));
    byId(`bound-${index}`).value = bounds[index] ?? "";
  });
  tellChoice();
}
