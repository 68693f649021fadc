// Compares two subnets side by side: pictures, metrics with their ratio, videos.
(() => {
  const section = document.getElementById("compare");
  if (!section) return;
  const choices = [...section.querySelectorAll("select")];
  const table = section.querySelector("table");
  const metrics = document.getElementById("metrics");

  const cell = (tag, ...content) => {
    const made = document.createElement(tag);
    made.append(...content);
    return made;
  };

  const row = (label, ...cells) => {
    const head = cell("th", label);
    head.scope = "row";
    const made = document.createElement("tr");
    made.append(head, ...cells);
    return made;
  };

  const of = (id, selector) => document.querySelector(`${selector}[data-subnet="${id}"]`);

  const pictures = (ids) => {
    const drawn = ids.map((id) => of(id, ".card").querySelector(".picture"));
    return drawn.every(Boolean)
      ? [row("architecture", ...drawn.map((each, i) => picture(each, ids[i])), cell("td"))]
      : [];
  };

  const picture = (drawn, id) => {
    const made = cell("td", drawn.cloneNode(true));
    made.style.setProperty("--cost", of(id, ".card").style.getPropertyValue("--cost"));
    return made;
  };

  const numbers = (ids) => {
    const rows = ids.map((id) => of(id, "#metrics tr"));
    return nasvidTables.heads(metrics).flatMap(({ ariaLabel: label }, place) => {
      if (!label) return [];
      const cells = rows.map((each) => each.cells[place]);
      const [a, b] = cells.map((each) => Number(each.dataset.value));
      const ratio = a > 0 && b > 0 ? `× ${(b / a).toPrecision(3)}` : "";
      return [row(label, ...cells.map((each) => cell("td", each.textContent)), cell("td", ratio))];
    });
  };

  const videos = (ids) => {
    const own = ids.map((id) => [
      ...document.querySelectorAll(`#samples img[data-subnet="${id.slice(0, 6)}"]`),
    ]);
    return own[0].flatMap((image) => {
      const same = (other) =>
        other.dataset.resolution === image.dataset.resolution &&
        other.dataset.prompt === image.dataset.prompt;
      const pair = [image, own[1].find(same)];
      if (!pair[1]) return [];
      const label = `${image.dataset.prompt} (${image.dataset.resolution})`;
      return [row(label, ...pair.map(video), cell("td"))];
    });
  };

  const video = (image) => {
    const made = image.cloneNode();
    nasvidVideos.show(made);
    const shown = cell("td", made);
    shown.className = image.closest(".coarse") ? "coarse" : "";
    return shown;
  };

  const show = () => {
    const ids = choices.map((choice) => choice.value);
    const heads = ids.map((id) => cell("th", of(id, ".card").querySelector("h3").cloneNode(true)));
    heads.forEach((head) => (head.scope = "col"));
    const head = cell("thead", row("", ...heads, cell("td", "second / first")));
    table.replaceChildren(head, cell("tbody", ...pictures(ids), ...numbers(ids), ...videos(ids)));
  };

  choices.forEach((choice) => choice.addEventListener("change", show));
  show();
})();
