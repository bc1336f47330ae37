
/* Filters: model and task choose the boards; name, mean and kind choose lines, columns and runs in all of them. */
const filters = document.querySelector(".filters");

function chosen(name) {
  return new Set([...filters.querySelectorAll(`input[name=${name}]:checked`)].map((input) => input.value));
}

/* The front of the runs that are shown: from the cheapest in steps up to each that is higher. */
function drawFront(chart) {
  const shown = [...chart.querySelectorAll(".dot:not([hidden])")].map((dot) => [Number(dot.dataset.x), Number(dot.dataset.y)]);
  shown.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
  const front = chart.querySelector(".front");
  let [path, best] = ["", Infinity];
  for (const [x, y] of shown) {
    if (y < best) {
      path += path ? `H${x}V${y}` : `M${x} ${y}`;
      best = y;
    }
  }
  front.setAttribute("d", path && `${path}H${front.dataset.right}`);
}

function applyFilters() {
  const [model, task] = [filters.elements.model.value, filters.elements.task.value];
  const [means, kinds, search] = [chosen("mean"), chosen("kind"), filters.elements.search.value.trim().toLowerCase()];
  let boards = 0;
  for (const board of document.querySelectorAll("article")) {
    const shown = (!model || board.dataset.model === model) && (!task || board.dataset.task === task);
    board.hidden = !shown;
    boards += shown;
  }
  document.querySelector(".nothing").hidden = boards > 0;
  for (const one of document.querySelectorAll("article [data-mean], article [data-kind]")) {
    const { mean, kind, name } = one.dataset;
    const shown = (!mean || means.has(mean)) && (!kind || kinds.has(kind)) && (!name || name.toLowerCase().includes(search));
    one.toggleAttribute("hidden", !shown);
  }
  document.querySelectorAll("article .chart").forEach(drawFront);
}

filters.addEventListener("input", applyFilters);
filters.addEventListener("submit", (event) => event.preventDefault());
applyFilters();

/* The table of methods and means shows the figure that is chosen. */
for (const board of document.querySelectorAll("article")) {
  board.querySelector(`.choice[data-choice="${board.id}-figure"]`)?.addEventListener("change", (event) => {
    for (const figure of board.querySelectorAll("[data-figure]")) figure.hidden = figure.dataset.figure !== event.target.value;
  });
}

/* A cell: its figures, the configurations of its runs, and what its plan kept of a dozen pictures. */
const dialog = document.querySelector("dialog");
const boardsData = new Map();

function dataOf(board) {
  if (!boardsData.has(board)) boardsData.set(board, JSON.parse(board.querySelector("script[type='application/json']").textContent));
  return boardsData.get(board);
}

function picturesOf(answers, pictures) {
  const cards = answers.map((answer) => {
    const picture = pictures[answer.picture];
    const one = card(answer, picture);
    one.update(answer.layers - 1);
    one.item.append(make("p", { class: "asked" }, `${picture.text.split("\n")[0]} (${picture.label})`));
    return one.item;
  });
  return make("ul", { class: "cards" }, ...cards);
}

function openCell(control) {
  const data = dataOf(control.closest("article"));
  const cell = data.cells[control.dataset.cell];
  const figures = cell.figures.flatMap(([head, text]) => [make("dt", {}, head), make("dd", {}, text)]);
  const links = cell.configs.flatMap(([name, way]) => [make("a", { href: way }, `${name}/config.yaml`), " "]);
  dialog.querySelector("h2").textContent = cell.title;
  dialog.querySelector(".cell").replaceChildren(
    make("p", {}, cell.about),
    ...(cell.reason ? [make("p", { class: "reason" }, `There is no run: ${cell.reason}.`)] : []),
    ...(links.length ? [make("p", {}, "Configuration: ", ...links), make("dl", {}, ...figures)] : []),
    ...(cell.answers.length ? [make("h3", {}, "What it kept"), picturesOf(cell.answers, data.pictures)] : []),
    ...(links.length && !cell.answers.length ? [make("p", {}, "This run has stored no pictures.")] : []),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
}

for (const control of document.querySelectorAll("[data-cell]")) control.addEventListener("click", () => openCell(control));
dialog.querySelector(".close").addEventListener("click", () => dialog.close());
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
