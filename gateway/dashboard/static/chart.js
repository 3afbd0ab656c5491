// Draws the rows of a table: a point of each series for each row, or a bar. The table stays, for who does not see the chart.
"use strict";
(() => {
  const HEIGHT = 240; // pixels
  const COLOURS = ["--first", "--second"];
  const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000]; // steps of an axis that counts

  // The values of a row, one for each series; "-" stands for none.
  const valuesOf = (row) => row.dataset.values.split(" ").map((text) => (text === "-" ? null : Number(text)));

  const draw = (place) => {
    const rows = [...document.querySelectorAll(`#${place.dataset.chart} tbody tr[data-at]`)]
      .map((row) => [Number(row.dataset.at), valuesOf(row)])
      .sort((one, other) => one[0] - other[0]);
    if (rows.length < 2) return;
    const style = getComputedStyle(place);
    const ink = style.color;
    const grid = { stroke: style.getPropertyValue("--pico-muted-border-color") || ink, width: 1 };
    const axis = { stroke: ink, grid, ticks: grid };
    const width = Number(place.dataset.bars || 0); // of a bar, in seconds
    // A bar begins where its time begins.
    const bars = width ? window.uPlot.paths.bars({ size: [0.8], align: 1 }) : () => null;
    const series = place.dataset.textSeries.split("|").map((label, number) => {
      const colour = style.getPropertyValue(COLOURS[number]).trim();
      const points = { show: !width, size: 8, fill: colour, stroke: colour };
      return { label, stroke: colour, fill: width ? colour : undefined, width: 0, paths: bars, points };
    });
    const range = (_, __, most) => [0, Math.max(1, most * 1.1)];
    const chart = new window.uPlot(
      {
        width: place.clientWidth, height: HEIGHT,
        scales: { x: width ? { range: (_, from, to) => [from, to + width] } : {}, y: { range } },
        axes: [axis, { ...axis, label: place.dataset.textY, ...(width ? { incrs: WHOLE } : {}) }],
        series: [{}, ...series],
      },
      [rows.map((row) => row[0]), ...series.map((_, number) => rows.map((row) => row[1][number]))],
      place,
    );
    new ResizeObserver(() => chart.setSize({ width: place.clientWidth, height: HEIGHT })).observe(place);
  };

  document.addEventListener("DOMContentLoaded", () => {
    for (const place of document.querySelectorAll("[data-chart]")) draw(place);
  });
})();
