"use strict";
const root = document.documentElement;
root.classList.add("js");
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);

const plain = (value) => String(Number(value.toPrecision(10))).replace("-", "−");

function amount(value) {
  for (const [unit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= 0.9995 * unit) return `${Number((value / unit).toPrecision(3))} ${letter}`;
  }
  return plain(Number(value.toPrecision(3)));
}

/* A value in the unit of its axis: fractions are drawn in percent. */
function drawn(kind, value) {
  if (kind === "count") return amount(value);
  if (kind === "bytes") return amount(value).replace(/(\d)$/, "$1 ") + "B";
  const text = plain(Number(value.toPrecision(4)));
  return kind === "fraction" ? `${text}%` : kind === "ms" ? `${text} ms` : text;
}

const shown = (kind, value) => drawn(kind, kind === "fraction" ? 100 * value : value);
