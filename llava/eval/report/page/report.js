"use strict";

/* Leaderboards: a heading sorts by its column, greatest first; again turns the order round. Empty entries stay last. */
function sortBy(table, column, descending) {
  const body = table.tBodies[0];
  const key = (row) => row.cells[column].dataset.order;
  const numbers = [...body.rows].every((row) => key(row) === "" || !isNaN(key(row)));
  const compare = (a, b) => (numbers ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const rows = [...body.rows].sort((first, second) => {
    const [a, b] = [key(first), key(second)];
    if (a === "" || b === "") return (a === "") - (b === "");
    return descending ? compare(b, a) : compare(a, b);
  });
  body.append(...rows);
}

for (const table of document.querySelectorAll(".leaderboard")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const first = head.classList.contains("words") ? "ascending" : "descending";
      const second = first === "ascending" ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      sortBy(table, column, order === "descending");
    });
  });
}

/* Choices: of the panels that belong to one, the chosen one is shown. */
for (const choice of document.querySelectorAll(".choice[data-choice]")) {
  choice.addEventListener("change", (event) => {
    for (const panel of document.querySelectorAll(`[data-panel="${choice.dataset.choice}"]`)) {
      panel.hidden = panel.dataset.key !== event.target.value;
    }
  });
}

/* Legends: a method is hidden in, or comes back to, every chart of its section. */
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") === "false";
    button.setAttribute("aria-pressed", String(shown));
    for (const series of button.closest("section").querySelectorAll(".series")) {
      if (series.dataset.method === button.dataset.method) series.toggleAttribute("hidden", !shown);
    }
  });
}

/* Samples: a strip of pictures; of the chosen one its questions, a slider over the layers, and a card for every plan. */
function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "image", "path", "circle"].includes(tag);
  const element = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function bits(mask, count) {
  return Array.from({ length: count }, (_, at) => ((parseInt(mask[at >> 2], 16) >> (3 - (at % 4))) & 1) === 1);
}

/* The last entry of a list of [layer or null, ...] that holds in a layer. */
function inForce(entries, layer, from) {
  return entries.filter((entry) => (from(entry) ?? 0) <= layer).at(-1);
}

function drawPatches(svg, answer, layer) {
  svg.querySelectorAll("path, circle").forEach((old) => old.remove());
  const stage = inForce(answer.stages, layer, (one) => one.layer);
  if (!stage) return;
  const side = answer.patches;
  const kept = bits(stage.kept, side * side);
  const unit = 24 / side;
  const none = kept.every((one) => !one);
  if (stage.merges && !none) {
    kept.forEach((one, at) => {
      const centre = { cx: ((at % side) + 0.5) * unit, cy: (Math.floor(at / side) + 0.5) * unit, r: 0.3 };
      if (one) svg.append(make("circle", { class: "dot", ...centre }));
    });
    return;
  }
  const gone = kept.map((one, at) => (one ? "" : `M${(at % side) * unit} ${Math.floor(at / side) * unit}h${unit}v${unit}h${-unit}z`));
  svg.append(make("path", { class: "gone", d: gone.join("") }));
}

function card(answer, picture) {
  const svg = make("svg", { viewBox: "0 0 24 24", role: "img" });
  if (picture.src) svg.append(make("image", { href: picture.src, width: 24, height: 24 }));
  const count = make("p");
  const mark = make("span", { class: "mark" }, answer.right ? "\u2713 right: " : "\u2717 wrong: ");
  const item = make(
    "li", { class: answer.right ? "right" : "wrong" },
    make("h4", {}, answer.plan), svg, make("p", {}, mark, answer.text || "(nothing)"), count,
  );
  const update = (layer) => {
    const entry = inForce(answer.tokens, layer, (one) => one[0]);
    const words = entry ? `${entry[1]} visual tokens` : "not asked";
    const undrawn = answer.patches === null ? "; not drawn" : "";
    count.textContent = words + undrawn;
    svg.setAttribute("aria-label", `what ${answer.plan} shows layer ${layer}: ${words}`);
    if (answer.patches !== null) drawPatches(svg, answer, layer);
  };
  return { item, update };
}

function showQuestion(place, question, picture, state, layers) {
  const cards = question.answers.map((answer) => card(answer, picture));
  const right = question.answers.filter((answer) => answer.right).length;
  const slider = make("input", { type: "range", min: 0, max: layers - 1, step: 1 });
  slider.value = state.layer;
  const output = make("output");
  const update = () => {
    state.layer = Number(slider.value);
    output.textContent = `layer ${state.layer}`;
    cards.forEach((one) => one.update(state.layer));
  };
  slider.addEventListener("input", update);
  update();
  place.replaceChildren(
    make("p", { class: "question" }, question.text),
    make("p", {}, `The true answer is ${question.label}; ${right} of ${cards.length} plans are right.`),
    make("label", { class: "layer" }, "Decoder layer ", slider, output),
    make("ul", { class: "cards" }, ...cards.map((one) => one.item)),
  );
}

function showPicture(viewer, picture, state, layers) {
  const place = make("div");
  const choice = make("fieldset", { class: "choice" }, make("legend", {}, `${picture.category}: ${picture.name}`));
  picture.questions.forEach((question, number) => {
    const input = make("input", { type: "radio", name: `${viewer.id}-question`, value: number });
    input.checked = number === 0;
    input.addEventListener("change", () => showQuestion(place, question, picture, state, layers));
    choice.append(make("label", {}, input, make("span", {}, `question ${number + 1}`)));
  });
  viewer.replaceChildren(choice, place);
  showQuestion(place, picture.questions[0], picture, state, layers);
}

document.querySelectorAll(".samples").forEach((section, number) => {
  const data = section.querySelector("script[type='application/json']");
  if (!data) return;
  const { layers, pictures } = JSON.parse(data.textContent);
  const [strip, viewer] = [section.querySelector(".strip"), section.querySelector(".viewer")];
  const state = { layer: layers - 1 };
  viewer.id = `viewer-${number}`;
  const buttons = pictures.map((picture) => {
    const image = make("img", { src: picture.src || "data:,", alt: `picture ${picture.name}` });
    const button = make("button", { type: "button", "aria-pressed": "false" }, image, make("span", {}, picture.category));
    button.addEventListener("click", () => {
      buttons.forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
      showPicture(viewer, picture, state, layers);
    });
    return button;
  });
  strip.append(...buttons);
  buttons[0].click();
});
