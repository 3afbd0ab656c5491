// Draws the rows of a table: one point for each, in two colours. The table stays, for who does not see the chart.
"use strict";
(() => {
  const HEIGHT = 240; // pixels

  const draw = (place) => {
    const rows = [...document.querySelectorAll(`#${place.dataset.chart} tbody tr[data-at]`)]
      .map((row) => [Number(row.dataset.at), Number(row.dataset.value), row.dataset.good === "1"])
      .sort((one, other) => one[0] - other[0]);
    if (rows.length < 2) return;
    const style = getComputedStyle(place);
    const ink = style.color;
    const grid = { stroke: style.getPropertyValue("--pico-muted-border-color") || ink, width: 1 };
    const axis = { stroke: ink, grid, ticks: grid };
    const points = { show: true, size: 8 };
    const series = (label, colour, good) => ({
      label, stroke: colour, width: 0, paths: () => null, points: { ...points, fill: colour, stroke: colour },
      values: rows.map((row) => (row[2] === good ? row[1] : null)),
    });
    const { textGood, textBad, textSeconds } = place.dataset;
    const both = [
      series(textGood, style.getPropertyValue("--good").trim(), true),
      series(textBad, style.getPropertyValue("--bad").trim(), false),
    ];
    const chart = new window.uPlot(
      {
        width: place.clientWidth, height: HEIGHT, scales: { y: { range: (_, __, most) => [0, Math.max(1, most * 1.1)] } },
        axes: [axis, { ...axis, label: textSeconds }],
        series: [{}, ...both.map(({ values, ...one }) => one)],
      },
      [rows.map((row) => row[0]), ...both.map((one) => one.values)],
      place,
    );
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll("[data-chart]")) draw(place);
  });
})();
