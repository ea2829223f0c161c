// Tells the numbers at the step that the pointer is over. Everything shown is set as text, never as markup.
for (const figure of document.querySelectorAll("figure[data-plot]")) {
  const plot = JSON.parse(figure.dataset.plot), svg = figure.querySelector("svg");
  const box = svg.viewBox.baseVal, tip = document.createElement("div");
  const rule = document.createElementNS("http://www.w3.org/2000/svg", "line");
  tip.className = "tip";
  tip.hidden = true;
  figure.append(tip);
  rule.setAttribute("stroke", "var(--mark)");
  rule.setAttribute("y1", plot.top);
  rule.setAttribute("y2", plot.bottom);
  const short = (value) => Math.abs(value) >= 1e-3 && Math.abs(value) < 1e5 || value === 0 ? +value.toFixed(4) : value.toExponential(2);
  svg.addEventListener("pointerleave", () => { tip.hidden = true; rule.remove(); });
  svg.addEventListener("pointermove", (event) => {
    const frame = svg.getBoundingClientRect();
    const x = (event.clientX - frame.left) / frame.width * box.width;
    const step = (x - plot.left) / (plot.right - plot.left) * plot.steps;
    const near = (points) => points.reduce((best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
    const lines = plot.lines.filter((line) => line.points.length);
    if (!lines.length) return;
    const at = near(lines.flatMap((line) => line.points))[0];
    const head = document.createElement("b");
    head.textContent = "step " + at;
    tip.replaceChildren(head);
    for (const line of lines) {
      const point = near(line.points);
      if (point[1] === null || Math.abs(point[0] - at) > plot.steps / 20) continue;
      const row = document.createElement("div"), dot = document.createElement("i");
      dot.style.background = line.color;
      row.append(dot, line.name + "  " + short(point[1]) + (point[0] === at ? "" : " (step " + point[0] + ")"));
      tip.append(row);
    }
    const place = plot.left + at / plot.steps * (plot.right - plot.left);
    rule.setAttribute("x1", place);
    rule.setAttribute("x2", place);
    svg.append(rule);
    tip.hidden = false;
    const left = place / box.width * frame.width;
    tip.style.left = (left > frame.width / 2 ? left - tip.offsetWidth - 12 : left + 12) + "px";
    tip.style.top = "34px";
  });
}
