// The labelling widget of notebooks. Texts of the model are shown with textContent only, never as markup.
// It decides nothing: Python says what is asked next, and only its reply makes an answer "saved".
const QUIET = 250; // ms after a question appears in which input is left alone: it was meant for the one before
const ARROWS = { ArrowLeft: "left", ArrowRight: "right", ArrowUp: "up", ArrowDown: "down" };
const KEYS = [
  ["1 … 9", "answer the marked criterion, or choose a text"],
  ["← →", "comparison: left, right · rating: lower, higher (then Enter)"],
  ["0 t", "comparison: tie"],
  ["↑ ↓", "other criterion"],
  ["Enter", "save"],
  ["s", "skip"],
  ["u", "undo: this answer, or the latest saved one"],
  ["m", "more of a long text"],
  ["g", "guidelines"],
  ["?", "these keys"],
];

const randomKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

function element(tag, text = "", classes = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

function button(text, key, act, classes = "") {
  const made = element("button", text, classes);
  made.type = "button";
  if (key && key !== text) made.append(element("kbd", key));
  made.addEventListener("click", act);
  return made;
}

// A turn is an item of the list, with its speaker in an element of its own: no text can pretend to be one.
function addTurns(list, part) {
  for (const turn of part.turns || []) {
    if (turn.goes_on && list.lastElementChild) {
      list.lastElementChild.lastElementChild.append(document.createTextNode(turn.text));
      continue;
    }
    const item = element("li", "", turn.role === "assistant" ? "turn own" : "turn");
    item.append(element("b", turn.role), element("p", turn.text));
    list.append(item);
  }
}

function render({ model, el }) {
  let question = null;
  let values = {}; // field name -> value
  let active = 0; // which field the keys answer
  let busy = false; // something is on its way to Python
  let key = ""; // of the answer: sent again, it is saved once
  let shownAt = 0;
  let more = {}; // number of a long text -> the button that shows more of it

  const root = element("div", "", "text-gym-label");
  root.tabIndex = 0;
  root.setAttribute("role", "group");
  root.setAttribute("aria-label", "Questions about texts");
  root.dataset.lmSuppressShortcuts = "true"; // JupyterLab's own keys
  const head = element("div", "", "head");
  const bar = element("progress");
  const count = element("span", "", "soft");
  const state = element("span", "", "state");
  state.setAttribute("role", "status");
  head.append(bar, count, state);
  const texts = element("div", "", "texts");
  const fields = element("div", "", "fields");
  const save = button("Save", "Enter", () => submit(), "primary");
  const skip = button("Skip", "s", () => submit(true));
  const takeBack = button("Undo", "u", () => undo());
  const actions = element("div", "", "actions");
  actions.append(save, skip, takeBack, element("span", "Click here once, then the keys work; ? shows them.", "hint soft"));
  const guidelines = element("dl", "", "guidelines");
  const help = element("dl", "", "help");
  help.hidden = guidelines.hidden = true;
  help.append(...KEYS.flatMap(([keys, what]) => {
    const term = element("dt");
    term.append(...keys.split(" ").map((k) => (k === "…" ? document.createTextNode(" … ") : element("kbd", k))));
    return [term, element("dd", what)];
  }));
  root.append(head, texts, fields, actions, guidelines, help);
  el.replaceChildren(root);

  const ready = () => !busy && question !== null && performance.now() - shownAt > QUIET;
  const complete = () => question.fields.every((f) => f.name in values);
  const say = (text, trouble = false) => { state.textContent = text; state.classList.toggle("trouble", trouble); };

  function send(message) {
    busy = true;
    root.setAttribute("aria-busy", "true");
    say("Saving …");
    model.send(message);
  }

  function submit(skipped = false) {
    if (!ready() || !(skipped || complete())) return;
    const seconds = (performance.now() - shownAt) / 1000;
    send({ do: skipped ? "skip" : "answer", item: question.id, key, seconds, ...(skipped ? {} : { values }) });
  }

  function undo() {
    const last = Object.keys(values).pop();
    if (question && ready() && last !== undefined) {
      delete values[last];
      active = question.fields.findIndex((f) => f.name === last);
      say(`${last}: taken back.`);
      drawAnswer();
    } else if (!busy && (!question || ready())) {
      send({ do: "undo", key: randomKey() });
    }
  }

  // A deliberate answer saves as soon as it is the last one; moving along a scale does not.
  function choose(f, value, deliberate) {
    const name = question.fields[f].name;
    delete values[name]; // the latest comes last: undo takes it first
    values[name] = value;
    const open = question.fields.findIndex((field) => !(field.name in values));
    active = deliberate && open >= 0 ? open : f;
    drawAnswer();
    if (deliberate && open < 0) submit();
  }

  function step(by) {
    const { name, options } = question.fields[active];
    const at = options.findIndex((o) => o.value === values[name]);
    const to = at < 0 ? (by > 0 ? 0 : options.length - 1) : Math.min(options.length - 1, Math.max(0, at + by));
    choose(active, options[to].value, false);
  }

  function drawQuestion() {
    const asked = question !== null;
    for (const part of [fields, save, skip]) part.hidden = !asked;
    more = {};
    if (!asked) {
      const { left, mine } = model.get("state").progress;
      const done = left ? `Nothing for you just now; others are at work on what is left (${left}).`
        : mine ? "All done, thank you." : "Nothing to rate: no question waits.";
      texts.className = "texts";
      texts.replaceChildren(element("p", done));
      fields.replaceChildren();
      guidelines.replaceChildren();
      return;
    }
    const names = { rating: ["Text"], comparison: ["1 · Left", "2 · Right"] }[question.kind];
    texts.className = `texts ${question.kind}`;
    texts.replaceChildren(...question.texts.map((part, i) => {
      const box = element("div", "", i ? "text" : "text prompt");
      const prompt = part.turns && part.turns.length > 1 ? "Conversation so far" : "Prompt";
      const nothing = !part.turns && !part.text.trim() && !part.left;
      const text = nothing ? "(nothing)" : part.text;
      const shown = element(part.turns ? "ol" : "p", text, nothing ? "soft" : "");
      box.append(element("div", i ? (names ? names[i - 1] : `Text ${i}`) : prompt, "soft"), shown);
      addTurns(shown, part);
      if (part.left) {
        const label = `Show more (${part.left.toLocaleString("en")} characters left)`;
        more[i] = button(label, "m", () => model.send({ do: "text", item: question.id, number: i, start: part.end }));
        box.append(more[i]);
      }
      return box;
    }));
    fields.replaceChildren(...question.fields.map((field, f) => {
      const row = element("div", "", "field");
      row.append(element("span", field.name, "name"));
      for (const option of field.options) {
        const made = button(option.label, option.keys[0], () => { if (ready()) choose(f, option.value, true); });
        made.dataset.value = String(option.value);
        row.append(made);
      }
      return row;
    }));
    guidelines.replaceChildren(...question.fields.flatMap((f) => [element("dt", f.name), element("dd", f.guideline)]));
  }

  function drawAnswer() {
    if (!question) return;
    question.fields.forEach((field, f) => {
      const row = fields.children[f];
      row.classList.toggle("active", f === active && question.fields.length > 1);
      for (const made of row.querySelectorAll("button")) {
        const chosen = field.name in values && made.dataset.value === String(values[field.name]);
        made.setAttribute("aria-pressed", String(chosen));
      }
    });
    save.setAttribute("aria-disabled", String(!complete()));
  }

  function show() {
    const now = model.get("state");
    busy = false;
    root.removeAttribute("aria-busy");
    bar.max = Math.max(1, now.progress.mine + now.progress.left);
    bar.value = now.progress.mine;
    count.textContent = `${now.progress.mine} saved · ${now.progress.left} left`;
    say(now.note, now.trouble);
    if (now.trouble) return; // the answer stays on the screen
    const focused = root.contains(document.activeElement);
    question = now.question;
    values = {};
    active = 0;
    key = randomKey();
    drawQuestion();
    drawAnswer();
    shownAt = performance.now();
    if (focused) root.focus({ preventScroll: true });
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (event.key === "Tab") return;
    event.stopPropagation(); // the notebook's own keys
    const name = ARROWS[event.key] || event.key.toLowerCase();
    const ours = () => event.preventDefault();
    if (event.repeat) { if (name in { left: 0, right: 0 } || name.length === 1) ours(); return; }
    if (name === "?") { ours(); help.hidden = !help.hidden; return; }
    if (name === "u" || name === "backspace") { ours(); undo(); return; }
    if (!question) return;
    if (name === "g") { ours(); guidelines.hidden = !guidelines.hidden; return; }
    if (name === "m") { ours(); for (const made of Object.values(more)) made.click(); return; }
    if (name === "s") { ours(); submit(true); return; }
    if (name === "enter") {
      if (event.target instanceof HTMLButtonElement && event.target !== save) return;
      ours();
      submit();
      return;
    }
    const option = question.fields[active].options.find((o) => o.keys.includes(name));
    if (option) {
      ours();
      if (ready()) choose(active, option.value, true);
    } else if (name === "left" || name === "right") {
      ours();
      if (ready()) step(name === "left" ? -1 : 1);
    } else if ((name === "up" || name === "down") && question.fields.length > 1) {
      ours();
      if (!ready()) return;
      active = (active + (name === "up" ? -1 : 1) + question.fields.length) % question.fields.length;
      drawAnswer();
    }
  }

  function onText(part) {
    const made = more[part.number];
    if (!question || part.item !== question.id || !made) return;
    if (part.turns) addTurns(made.previousSibling, part);
    else made.previousSibling.append(document.createTextNode(part.text));
    const number = part.number;
    if (part.left) {
      const label = `Show more (${part.left.toLocaleString("en")} characters left)`;
      more[number] = button(label, "m", () => model.send({ do: "text", item: part.item, number, start: part.end }));
      made.replaceWith(more[number]);
    } else {
      delete more[number];
      made.remove();
    }
  }

  root.addEventListener("keydown", onKey);
  model.on("change:state", show);
  model.on("msg:custom", onText);
  show();
  return () => { model.off("change:state", show); model.off("msg:custom", onText); };
}

export default { render };
