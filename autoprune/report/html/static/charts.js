const view = { candidates: true, controls: true, feasible: false, selected: null, chosen: null };
const plots = [];
const MOST_SVG_CELLS = 3000;

function heightOf(chart) {
  if (chart.type === "rows") return 64 + 22 * chart.rows.length;
  if (chart.type === "heat") return 60 + 26 * chart.rows.length + 5.6 * Math.min(24, Math.max(...chart.columns.map((c) => c.length)));
  return chart.type === "lines" ? 320 : 380;
}

/* Points that arrow keys step through: models where there are some, from left to right. */
function stopsOf(option) {
  const all = option.series.flatMap((one, seriesIndex) => (one.data ?? []).map((item, dataIndex) => ({ seriesIndex, dataIndex, item })))
    .filter((stop) => stop.item?.tip);
  const models = all.filter((stop) => stop.item.model);
  const found = models.length ? models : all;
  return option.xAxis && models.length ? found.sort((a, b) => a.item.value[0] - b.item.value[0]) : found;
}

class Plot {
  constructor(host, id) {
    this.chart = data.charts[id];
    this.host = host;
    this.inner = document.createElement("div");
    this.inner.className = "plot";
    this.inner.setAttribute("aria-hidden", "true");
    this.spoken = document.createElement("p");
    this.spoken.className = "spoken";
    this.spoken.setAttribute("aria-live", "polite");
    host.append(this.inner, this.spoken);
    host.closest(".figure").classList.add("is-live");
    host.tabIndex = 0;
    host.setAttribute("role", "application");
    host.setAttribute("aria-roledescription", "interactive chart");
    host.setAttribute("aria-label", `${this.chart.description} Arrow keys step through the points${this.hasModels() ? ", Enter chooses a model" : ""}.`);
    this.inner.style.height = `${heightOf(this.chart)}px`;
    if (this.chart.type === "parallel") this.inner.style.minWidth = `${100 * this.chart.axes.length}px`;
    if (this.chart.type === "heat") this.inner.style.width = `${Math.min(1130, Math.max(320, 170 + 40 * this.chart.columns.length))}px`;
    const many = this.chart.type === "heat" && this.chart.rows.length * this.chart.columns.length > MOST_SVG_CELLS;
    this.plot = echarts.init(this.inner, null, { renderer: many ? "canvas" : "svg" });
    this.at = -1;
    this.plot.on("click", (event) => event.data?.model && choose(event.data.model));
    this.plot.on("brushSelected", (event) => this.select(event.batch[0]));
    host.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.plot.resize()).observe(this.inner);
    this.draw();
  }

  hasModels() {
    return this.chart.type === "scatter" && this.chart.series.some((one) => one.points.some((p) => p[5]));
  }

  draw() {
    this.option = OPTIONS[this.chart.type](this.chart, view);
    this.stops = stopsOf(this.option);
    this.plot.setOption(this.option, { replaceMerge: ["series"] });
  }

  brush(on) {
    if (!this.hasModels()) return;
    this.plot.dispatchAction({ type: "brush", areas: [] });
    this.plot.dispatchAction({ type: "takeGlobalCursor", key: "brush", brushOption: { brushType: on ? "rect" : false, brushMode: "single" } });
  }

  select(batch) {
    if (!batch || !this.hasModels()) return;
    const ids = batch.selected.flatMap((one) => one.dataIndex.map((i) => this.option.series[one.seriesIndex]?.data[i]?.model)).filter(Boolean);
    setSelection(batch.areas.length ? new Set(ids) : null, this);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step && this.stops.length) {
      this.at = this.at < 0 && step < 0 ? this.stops.length - 1 : (this.at + step + this.stops.length) % this.stops.length;
      const stop = this.stops[this.at];
      this.plot.dispatchAction({ type: "showTip", seriesIndex: stop.seriesIndex, dataIndex: stop.dataIndex });
      this.spoken.textContent = stop.item.tip;
    } else if (event.key === "Enter" && this.stops[this.at]?.item.model) {
      choose(this.stops[this.at].item.model);
    } else if (event.key === "Escape") {
      this.plot.dispatchAction({ type: "hideTip" });
      setSelection(null, null);
    } else {
      return;
    }
    event.preventDefault();
  }
}

/* Show which models are selected, everywhere but in the chart where it is being done. */
function setSelection(ids, source) {
  const same = ids === view.selected || (ids && view.selected && ids.size === view.selected.size && [...ids].every((id) => view.selected.has(id)));
  if (same) return;
  view.selected = ids;
  if (source === null) for (const plot of plots) if (plot.hasModels()) plot.plot.dispatchAction({ type: "brush", areas: [] });
  for (const plot of plots) if (plot !== source && (plot.hasModels() || plot.chart.type === "parallel")) plot.draw();
  for (const row of document.querySelectorAll("tr[data-model]")) row.classList.toggle("dim", ids !== null && !ids.has(row.dataset.model));
  const known = ids ? data.models.filter((m) => ids.has(m.id)).length : 0;
  byId("selection").textContent = ids ? `${known} of ${data.models.length} models selected` : "";
}

function redraw(kinds) {
  for (const plot of plots) if (!kinds || kinds.includes(plot.chart.type)) plot.draw();
}

function setUpCharts() {
  for (const host of document.querySelectorAll(".live")) plots.push(new Plot(host, host.dataset.chart));
  const bind = (id, name) => byId(id)?.addEventListener("change", (event) => {
    view[name] = event.target.checked;
    redraw(["scatter"]);
  });
  bind("show-candidates", "candidates");
  bind("show-controls", "controls");
  bind("only-feasible", "feasible");
  byId("brush")?.addEventListener("change", (event) => {
    for (const plot of plots) plot.brush(event.target.checked);
    if (!event.target.checked) setSelection(null, null);
  });
  listeners.push(() => redraw(null));
  picked.listeners.push(() => {
    view.chosen = picked.id;
    redraw(["scatter", "parallel"]);
  });
}
