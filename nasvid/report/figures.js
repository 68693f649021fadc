// Draws the figures in the page's colours; redraws them when the theme or the size changes.
(() => {
  const style = getComputedStyle(document.documentElement);
  const colour = (text) =>
    text.replace(/^var\((--[\w-]+)\)$/, (_, name) => style.getPropertyValue(name).trim());

  const coloured = (value) => {
    if (typeof value === "string") return colour(value);
    if (Array.isArray(value)) return value.map(coloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, part]) => [key, coloured(part)]));
  };

  const axis = {
    gridcolor: "var(--line)",
    linecolor: "var(--line)",
    zeroline: false,
    ticks: "",
    automargin: true,
    exponentformat: "SI",
    title: { standoff: 10, font: { size: 12, color: "var(--ink-2)" } },
  };

  const merged = (base, over) => {
    const result = { ...base };
    for (const [key, value] of Object.entries(over ?? {})) {
      const both = value && base[key] && typeof value === "object" && !Array.isArray(value);
      result[key] = both ? merged(base[key], value) : value;
    }
    return result;
  };

  const base = {
    font: { family: style.fontFamily, size: 12, color: "var(--ink-2)" },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 8, r: 12, t: 12, b: 8 },
    hoverlabel: {
      bgcolor: "var(--surface)",
      bordercolor: "var(--line)",
      align: "left",
      font: { size: 12, color: "var(--ink)" },
    },
    xaxis: axis,
    yaxis: axis,
  };

  const draw = (element) => {
    const { clientWidth: width, clientHeight: height } = element;
    if (!width) return;
    const { data, layout } = element.figure;
    const full = coloured({ ...merged(base, layout), width, height });
    Plotly.react(element, coloured(data), full, { displayModeBar: false });
  };

  const plots = [...document.querySelectorAll(".plot")];
  for (const element of plots) {
    element.figure = JSON.parse(element.firstElementChild.textContent);
    element.replaceChildren();
  }
  const seen = new ResizeObserver((entries) => entries.forEach((entry) => draw(entry.target)));
  plots.forEach((element) => seen.observe(element));
  const redraw = () => plots.forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  addEventListener("beforeprint", redraw);
})();
