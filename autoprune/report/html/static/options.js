const SYMBOLS = {
  circle: "circle",
  square: "rect",
  diamond: "diamond",
  up: "triangle",
  right: "path://M0 0L10 6L0 12Z",
  star: "path://M5 0L6.5 3.4L10 3.8L7.4 6.2L8.1 9.8L5 8L1.9 9.8L2.6 6.2L0 3.8L3.5 3.4Z",
  plus: "path://M4 0H6V4H10V6H6V10H4V6H0V4H4Z",
  cross: "path://M1.4 0L5 3.6L8.6 0L10 1.4L6.4 5L10 8.6L8.6 10L5 6.4L1.4 10L0 8.6L3.6 5L0 1.4Z",
  dot: "circle",
  dash: "rect",
};
const SIZES = { circle: 11, square: 11, diamond: 15, up: 13, right: 12, star: 16, plus: 12, cross: 11 };
const FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif";

/* Braces would be read as rich text. */
const literal = (text) => text.replaceAll("{", "(").replaceAll("}", ")");
const shorten = (text, most) => (text.length <= most ? text : `${text.slice(0, most / 2 - 1)}…${text.slice(1 - most / 2)}`);

function axisOption(axis, extra) {
  return {
    type: axis.log ? "log" : "value",
    min: axis.low,
    max: axis.high,
    name: axis.title,
    nameTextStyle: { color: variable("ink"), fontSize: 12 },
    axisLabel: { color: variable("soft"), customValues: axis.ticks, hideOverlap: true, formatter: (v) => drawn(axis.kind, v).replace(/ ms$|%$/, "") },
    axisTick: { show: false, customValues: axis.ticks },
    axisLine: { show: true, onZero: false, lineStyle: { color: variable("soft") } },
    splitLine: { show: true, lineStyle: { color: variable("rule"), opacity: 0.7 } },
    ...extra,
  };
}

function base(extra) {
  return {
    animation: false,
    textStyle: { fontFamily: FONT },
    tooltip: {
      renderMode: "richText",
      confine: true,
      trigger: "item",
      backgroundColor: variable("paper"),
      borderColor: variable("soft"),
      textStyle: { color: variable("ink"), fontSize: 13, fontFamily: FONT },
      formatter: (point) => literal(point.data?.tip ?? ""),
    },
    ...extra,
  };
}

const across = { nameLocation: "middle", nameGap: 28 };
const upward = { nameLocation: "end", nameGap: 10 };

function plane(chart, extra) {
  return base({
    grid: { left: 52, right: 14, top: 32, bottom: 46 },
    xAxis: axisOption(chart.x, across),
    yAxis: axisOption(chart.y, { ...upward, nameTextStyle: { color: variable("ink"), fontSize: 12, align: "left", padding: [0, 0, 0, -44] } }),
    ...extra,
  });
}

function itemStyle(css) {
  const colour = colourOf(css);
  const hollow = css.includes("open") || css === "s-full";
  return { color: hollow ? variable("paper") : colour, borderColor: colour, borderWidth: hollow ? 1.8 : 0, opacity: css.includes("faint") ? 0.5 : 1 };
}

/* Whiskers of points [x, y, xRange, yRange]. */
function whiskers(points, css) {
  const rows = points.flatMap(([x, y, xs, ys]) => [...(xs ? [[xs[0], y, xs[1], y]] : []), ...(ys ? [[x, ys[0], x, ys[1]]] : [])]);
  return {
    type: "custom",
    zlevel: 0,
    silent: true,
    clip: true,
    data: rows,
    encode: { x: [0, 2], y: [1, 3] },
    renderItem: (params, api) => {
      const [x1, y1] = api.coord([api.value(0), api.value(1)]);
      const [x2, y2] = api.coord([api.value(2), api.value(3)]);
      return { type: "line", shape: { x1, y1, x2, y2 }, style: { stroke: colourOf(css), lineWidth: 1.3, opacity: 0.55 } };
    },
  };
}

const nameOf = Object.fromEntries(data.models.map((model) => [model.id, model.name]));

function tipOf(chart, point) {
  return point[4] || (point[5] ? `${nameOf[point[5]]}\n` : "") + `${chart.x.title}: ${drawn(chart.x.kind, point[0])}\n${chart.y.title}: ${drawn(chart.y.kind, point[1])}`;
}

/* Names stand beside their points, a little higher, inside the frame. */
function sideOf(axis, value, size, letters) {
  const turn = axis.log ? Math.log : (v) => v;
  const share = (turn(value) - turn(axis.low)) / (turn(axis.high) - turn(axis.low));
  return share > 0.8 - 0.015 * letters ? { position: [-3, -11], align: "right" } : { position: [size + 3, -11], align: "left" };
}

function scatterSeries(chart, one, selected) {
  const small = one.points.every((p) => p.length < 3);
  return {
    type: "scatter",
    name: one.label,
    symbol: SYMBOLS[one.shape],
    symbolSize: one.shape === "dot" ? 5 : small ? 7 : SIZES[one.shape],
    itemStyle: itemStyle(one.css),
    z: one.group === "candidates" ? 2 : 4,
    labelLayout: { hideOverlap: true },
    cursor: one.points.some((p) => p[5]) ? "pointer" : "default",
    data: one.points.map((p) => ({
      value: [p[0], p[1]],
      model: p[5] || "",
      label: p[6] && p[5] ? { show: true, formatter: literal(shorten(p[6], 20)), ...sideOf(chart.x, p[0], SIZES[one.shape], Math.min(20, p[6].length)), color: variable("ink"), fontWeight: 600 } : undefined,
      tip: `${tipOf(chart, p)}${p[5] && one.label === "front" ? "" : `\n${one.label}`}`,
      itemStyle: selected && p[5] && !selected.has(p[5]) ? { opacity: 0.2 } : undefined,
    })),
  };
}

function scatterOption(chart, view) {
  const hidden = { candidates: !view.candidates, controls: !view.controls, infeasible: view.feasible };
  const visible = chart.series.filter((one) => !hidden[one.group]);
  const series = visible.map((one) => scatterSeries(chart, one, view.selected));
  series.push(...visible.filter((one) => one.points.some((p) => p[2] || p[3])).map((one) => whiskers(one.points, one.css)));
  const points = visible.flatMap((one) => one.points);
  const chosen = points.find((p) => p[5] && p[5] === view.chosen);
  if (chosen) {
    series.push({ type: "scatter", silent: true, symbol: "circle", symbolSize: 26, z: 3, data: [[chosen[0], chosen[1]]], itemStyle: { color: "transparent", borderColor: variable("ink"), borderWidth: 1.5 } });
  }
  if (chart.diagonal) {
    const low = Math.max(chart.x.low, chart.y.low), high = Math.min(chart.x.high, chart.y.high);
    series.push({ type: "line", silent: true, symbol: "none", data: [[low, low], [high, high]], lineStyle: { color: variable("soft"), type: "dashed", width: 1 } });
  }
  const models = points.some((p) => p[5]);
  return plane(chart, { series, ...(models ? { brush: { toolbox: [], xAxisIndex: 0, brushStyle: { color: "rgba(127,127,127,0.15)", borderColor: variable("soft") }, outOfBrush: { opacity: 1 } } } : {}) });
}

function linesOption(chart) {
  const series = chart.series.map((one) => ({
    type: "line",
    name: one.label,
    step: one.stepped ? "end" : false,
    symbol: SYMBOLS[one.shape],
    symbolSize: 7,
    showSymbol: one.points.length <= 40,
    lineStyle: { color: colourOf(one.css), type: one.css.includes("faint") ? "dashed" : "solid", opacity: one.css.includes("faint") ? 0.6 : 1 },
    itemStyle: itemStyle(one.css),
    data: one.points.map((p) => ({ value: p, tip: `${one.label}\n${tipOf(chart, p)}` })),
  }));
  return plane(chart, { series });
}

/* Boxes, whiskers and dots of a row; `i` is the row's place. */
function rowShapes(chart) {
  return (params, api) => {
    const row = chart.rows[api.value(1)], at = (v) => api.coord([v, api.value(1)]);
    const colour = colourOf(row.css), spread = row.quantiles.map((v) => at(v)[0]), y = at(chart.x.low)[1];
    const line = (x1, x2, y1 = y, y2 = y, lineWidth = 1.4) => ({ type: "line", shape: { x1, x2, y1, y2 }, style: { stroke: colour, lineWidth } });
    const children = row.dots.map((v) => ({ type: "circle", shape: { cx: at(v)[0], cy: y, r: 4.5 }, style: { fill: colour } }));
    if (spread.length === 5) {
      children.push(line(spread[0], spread[4]));
      children.push({ type: "rect", shape: { x: spread[1], y: y - 6, width: Math.max(1, spread[3] - spread[1]), height: 12 }, style: { fill: colour, opacity: 0.3 } });
      children.push(line(spread[2], spread[2], y - 7, y + 7, 2));
    } else if (spread.length) {
      children.push(line(spread[0], spread[spread.length - 1]));
      children.push({ type: "circle", shape: { cx: spread[Math.floor(spread.length / 2)], cy: y, r: 4.5 }, style: { fill: colour } });
    }
    if (row.bar) children.push({ type: "rect", shape: { x: at(row.bar[0])[0], y: y - 6, width: at(row.bar[1])[0] - at(row.bar[0])[0], height: 12 }, style: { fill: colour } });
    return { type: "group", children };
  };
}

function rowTip(row) {
  const parts = [`${row.label}: ${row.value}`];
  if (row.quantiles.length === 5) parts.push(`5% ${plain(row.quantiles[0])}, 25% ${plain(row.quantiles[1])}, 50% ${plain(row.quantiles[2])}, 75% ${plain(row.quantiles[3])}, 95% ${plain(row.quantiles[4])}`);
  if (row.quantiles.length === 3) parts.push(`95% interval ${plain(row.quantiles[0])} to ${plain(row.quantiles[2])}`);
  if (row.dots.length) parts.push(row.dots.map((v) => plain(Number(v.toPrecision(4)))).join(", "));
  return parts.join("\n");
}

function rowsOption(chart) {
  const middle = (row) => row.quantiles[Math.floor(row.quantiles.length / 2)] ?? row.dots[0] ?? row.bar?.[1] ?? chart.x.low;
  const labels = chart.rows.map((row) => shorten(row.label, 22));
  const category = { type: "category", inverse: true, data: labels.map((_, i) => i), axisTick: { show: false }, axisLine: { show: false } };
  return base({
    grid: { left: 14 + 6.6 * Math.max(...labels.map((l) => l.length)), right: 72, top: 8, bottom: 46 },
    xAxis: axisOption(chart.x, across),
    yAxis: [
      { ...category, axisLabel: { color: variable("soft"), interval: 0, formatter: (i) => labels[i] } },
      { ...category, position: "right", axisLabel: { color: variable("soft"), interval: 0, formatter: (i) => chart.rows[i].value } },
    ],
    series: [{ type: "custom", zlevel: 0, renderItem: rowShapes(chart), encode: { x: 0, y: 1 }, data: chart.rows.map((row, i) => ({ value: [middle(row), i], tip: rowTip(row) })) }],
  });
}

function heatOption(chart) {
  const cells = chart.values.flatMap((row, i) => row.map((share, j) => ({ value: [j, i, share], tip: `${chart.rows[i]}\n${chart.columns[j]}: ${share}% removed`, label: { color: variable(share >= 55 ? "on-dark" : "on-light") } })));
  const names = (list, most) => ({ type: "category", data: list.map((_, i) => i), axisTick: { show: false }, axisLine: { show: false }, axisLabel: { color: variable("soft"), interval: 0, formatter: (i) => shorten(list[i], most) } });
  const columns = names(chart.columns, 24);
  columns.axisLabel.rotate = 55;
  return base({
    grid: { left: 20 + 6.6 * Math.min(22, Math.max(...chart.rows.map((r) => r.length))), right: 8, top: 4, bottom: 24 + 5.6 * Math.min(24, Math.max(...chart.columns.map((c) => c.length))) },
    xAxis: columns,
    yAxis: { ...names(chart.rows, 22), inverse: true },
    visualMap: { show: false, type: "piecewise", dimension: 2, pieces: Array.from({ length: 11 }, (_, i) => ({ gte: i === 0 ? -1 : i === 1 ? 0.5 : 10 * i - 5, lt: i === 0 ? 0.5 : 10 * i + 5, color: variable(`q${i}`) })) },
    series: [{ type: "heatmap", data: cells, itemStyle: { borderColor: variable("paper"), borderWidth: 1 }, label: { show: cells.length <= 600, formatter: (cell) => String(cell.value[2]), fontSize: 11 }, emphasis: { itemStyle: { borderColor: variable("ink"), borderWidth: 1.5 } } }],
  });
}

function parallelOption(chart, view) {
  const turn = (axis) => (axis.log ? Math.log10 : (v) => v);
  const back = (axis) => (axis.log ? (v) => 10 ** v : (v) => v);
  return base({
    parallel: { left: 40, right: 60, top: 40, bottom: 16, axisExpandable: false },
    parallelAxis: chart.axes.map((axis, dim) => ({
      dim,
      z: 5,
      type: "value",
      name: shorten(axis.title, 22),
      inverse: !axis.up,
      nameLocation: axis.up ? "end" : "start",
      nameGap: 14,
      nameTextStyle: { color: variable("ink"), fontSize: 12 },
      min: turn(axis)(axis.low),
      max: turn(axis)(axis.high),
      axisLine: { lineStyle: { color: variable("soft") } },
      axisTick: { customValues: axis.ticks.map(turn(axis)) },
      axisLabel: { color: variable("soft"), backgroundColor: variable("paper"), padding: [0, 2], customValues: axis.ticks.map(turn(axis)), formatter: (v) => drawn(axis.kind, back(axis)(v)).replace(/ ms$|%$/, "") },
    })),
    series: chart.strands.map((strand) => {
      const dim = view.selected && strand.id && !view.selected.has(strand.id);
      const chosen = strand.id && strand.id === view.chosen;
      const tip = [strand.title, ...chart.axes.map((axis, i) => (strand.values[i] === null ? "" : `${axis.title}: ${drawn(axis.kind, strand.values[i])}`))].filter(Boolean).join("\n");
      return {
        type: "parallel",
        name: strand.title,
        smooth: false,
        inactiveOpacity: 0.08,
        lineStyle: { color: colourOf(strand.css), width: chosen ? 4 : strand.css === "s-member" ? 1.6 : 2.4, opacity: dim ? 0.1 : 0.9 },
        data: [{ value: strand.values.map((v, i) => (v === null ? "-" : turn(chart.axes[i])(v))), model: strand.id, tip }],
      };
    }),
  });
}

const OPTIONS = { scatter: scatterOption, lines: linesOption, rows: rowsOption, heat: heatOption, parallel: parallelOption };
