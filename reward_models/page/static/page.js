// The labelling page. Texts of the model are shown with textContent only, never as markup.
// It decides nothing: the server says what is asked next, and only the server's reply makes an answer "saved".
"use strict";

const QUIET = 250; // ms after a question appears in which input is left alone: it was meant for the one before
const HEARTBEAT = 30000; // ms; renews the question's lease
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
  ["?", "this help"],
];

const tab = randomKey();
let live = false; // whether a training waits for the answers
let rater = "";
let only = ""; // the one name that this browser's link is for
let question = null;
let values = {}; // field name -> value, of the question shown
let key = ""; // of the answer to the question shown: sent again, it is saved once
let active = 0; // which field the keys answer
let busy = true; // something is being sent, or there is nothing to answer
let shownAt = 0;
let over = false; // the training that asked has ended
let progress = { mine: 0, left: 0, all: 0 };
let resting = false; // nothing to answer, looking from time to time
let polling = 0; // that look's timer

function trouble(text) {
  if ($("trouble-text").textContent !== text) $("trouble-text").textContent = text;
  $("trouble").hidden = !text;
  if (text) say("");
}

function say(text) { $("state").textContent = text; }

async function submit(skip = false) {
  if (!ready() || !(skip || complete())) return;
  setBusy(true);
  const seconds = (performance.now() - shownAt) / 1000;
  const entry = { rater, item: question.id, key, seconds, ...(skip ? { skip } : { values }) };
  kept.set(outbox() + key, JSON.stringify(entry));
  say("Saving …");
  const note = await deliver(outbox() + key, entry);
  draft.remove("text-gym/draft");
  await next(note);
}

async function undo() {
  if (question && ready() && Object.keys(values).length) {
    const last = Object.keys(values).pop();
    delete values[last];
    active = question.fields.findIndex((f) => f.name === last);
    keepDraft();
    drawAnswer();
    focusField();
    say(`${last}: taken back.`);
    return;
  }
  if (question ? !ready() : !resting) return;
  stopResting();
  setBusy(true);
  const { status, data } = await insist("undo", { rater, key: randomKey() });
  if (status === 200 && data.undone && data.question) {
    show(data, "Taken back; here it is again.");
  } else {
    await next("There is nothing to take back.");
  }
}
async function next(note = "") {
  stopResting();
  setBusy(true);
  const { status, data } = await insist("next", { rater, tab });
  if (status === 200) show(data, note);
  else signIn(data.error);
}

// Renews the lease, and follows what happened in other tabs.
async function refresh() {
  if (busy || !question) return;
  const held = question.id;
  try {
    const { status, data } = await call("next", { rater, tab, hold: held });
    if (busy || !question || question.id !== held) return;
    trouble(status === 401 ? SIGNED_OUT : "");
    if (status !== 200) return;
    if (!data.question || data.question.id !== held) show(data, "Answered in another tab.");
    else count(data.progress);
  } catch {
    if (busy || !question) return;
    trouble("No connection to the server. You can go on: your answer is kept here until it is saved.");
    setTimeout(refresh, 3000);
  }
}

// Showing

const ready = () => !busy && question !== null && performance.now() - shownAt > QUIET && !$("help").open;
const complete = () => question.fields.every((f) => f.name in values);

function setBusy(now) {
  busy = now;
  $("answer").setAttribute("aria-busy", String(now));
}

function panel(name) {
  for (const id of ["notice", "sign-in", "work"]) $(id).hidden = id !== name;
  $("guidelines").hidden = name !== "work";
}

function count(counts) {
  progress = counts;
  const total = counts.mine + counts.left;
  $("bar").max = Math.max(1, total);
  $("bar").value = total ? counts.mine : Number(counts.all > 0); // between two batches: all that was asked
  $("count").textContent = `${counts.all} saved · ${counts.left} left`;
}

function show(data, note) {
  count(data.progress);
  say(note);
  question = data.question;
  over = data.over;
  if (!question) { rest(); return; }
  const found = JSON.parse(draft.get("text-gym/draft") || "{}");
  const same = found.item === question.id && found.rater === rater;
  values = same ? found.values : {};
  key = same ? found.key : randomKey();
  active = Math.max(0, question.fields.findIndex((f) => !(f.name in values)));
  panel("work");
  document.body.className = `${question.kind} ${question.fields.length > 1 ? "several" : "one"}`;
  $("title").textContent = `Question ${progress.mine + 1}` + (live ? " of this batch" : "");
  drawTexts();
  drawFields();
  drawGuidelines();
  drawAnswer();
  keepDraft();
  window.scrollTo(0, 0);
  $("title").focus({ preventScroll: true });
  shownAt = performance.now();
  setBusy(false);
}

function stopResting() {
  resting = false;
  clearTimeout(polling);
}

function rest() {
  resting = true;
  panel("notice");
  setBusy(true);
  const [title, text] = over
    ? ["The training is over", "Thank you. Your saved answers are on the disk; you can close this page."]
    : progress.left
    ? ["Nothing for you just now", `Other raters are at work on what is left (${progress.left}). If they leave, it comes to you.`]
    : live
      ? ["Waiting for the next texts", "The training goes on with your answers. If it has more to ask, it asks here: leave this page open."]
      : progress.all
        ? ["All done, thank you", `${progress.all} saved. You can close this page, or press u to take the last one back.`]
        : ["Nothing to rate", "No question waits for you. New ones appear here by themselves."];
  $("notice-title").textContent = title;
  $("notice-text").textContent = text;
  if (!over) polling = setTimeout(poll, live ? 1000 : 4000);
}

async function poll() {
  try {
    const { status, data } = await call("next", { rater, tab });
    if (!resting) return;
    if (status !== 200) return void next();
    trouble("");
    if (data.question) { stopResting(); show(data, ""); }
    else { count(data.progress); over = data.over; rest(); }
  } catch {
    if (!resting) return;
    trouble("No connection to the server.");
    polling = setTimeout(poll, 2000);
  }
}

function drawTexts() {
  const names = { rating: ["Text"], comparison: ["1 · Left", "2 · Right"] }[question.kind];
  $("texts").replaceChildren(...question.texts.map((part, i) => {
    const box = element("article", "", i ? "text" : "text prompt");
    box.append(element("h3", i ? (names ? names[i - 1] : `Text ${i}`) : part.turns && part.turns.length > 1 ? "Conversation so far" : "Prompt"));
    if (part.turns) box.classList.add("talk");
    const nothing = !part.turns && !part.text.trim() && !part.left;
    const text = nothing ? "(nothing)" : part.text;
    const shown = element(part.turns ? "ol" : "p", text, nothing ? "soft" : "");
    box.append(shown);
    addTurns(shown, part);
    if (part.left) {
      const more = element("button");
      more.type = "button";
      const label = (left) => { more.textContent = `Show more (${left.toLocaleString("en")} characters left)`; };
      label(part.left);
      let start = part.end;
      more.addEventListener("click", async () => {
        const { status, data } = await insist("text", { item: question.id, number: i, start });
        if (status !== 200) return;
        if (data.turns) addTurns(shown, data);
        else shown.append(document.createTextNode(data.text));
        start = data.end;
        if (data.left) label(data.left); else more.remove();
      });
      box.append(more);
    }
    return box;
  }));
  for (const list of $("texts").querySelectorAll(".prompt ol")) list.scrollTop = list.scrollHeight;
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

function drawFields() {
  $("fields").replaceChildren(...question.fields.map((field, f) => {
    const set = element("fieldset");
    set.append(element("legend", field.name));
    const options = element("div", "", "options");
    for (const option of field.options) {
      const label = element("label", "", "option");
      const input = element("input");
      input.type = "radio";
      input.name = `field-${f}`;
      input.value = String(option.value);
      input.addEventListener("click", (event) => {
        if (ready()) choose(f, option.value, true); else event.preventDefault();
      });
      input.addEventListener("focus", () => mark(f));
      const face = element("span", option.label);
      if (option.keys[0] !== option.label) face.append(element("kbd", option.keys[0]));
      label.append(input, face);
      options.append(label);
    }
    set.append(options);
    return set;
  }));
}

function drawGuidelines() {
  $("guideline-list").replaceChildren(...question.fields.flatMap((f) => [element("dt", f.name), element("dd", f.guideline)]));
}

function drawAnswer() {
  question.fields.forEach((field, f) => {
    for (const input of $("fields").children[f].querySelectorAll("input")) {
      input.checked = field.name in values && input.value === String(values[field.name]);
    }
  });
  const chosen = question.fields.length === 1 ? values[question.fields[0].name] : undefined;
  const place = { left: 1, right: 2 }[chosen] ?? (question.kind === "best-of-n" ? chosen : undefined);
  [...$("texts").children].forEach((box, i) => box.classList.toggle("chosen", i > 0 && i === place));
  $("save").setAttribute("aria-disabled", String(!complete()));
  mark(active);
}

function mark(f) {
  active = f;
  [...$("fields").children].forEach((set, i) => set.classList.toggle("active", i === f));
  [...$("guideline-list").querySelectorAll("dt")].forEach((dt, i) =>
    dt.classList.toggle("active", i === f && question.fields.length > 1));
}

function focusField() {
  const set = $("fields").children[active];
  (set.querySelector("input:checked") || set.querySelector("input")).focus({ preventScroll: true });
}

// Answering

function keepDraft() {
  draft.set("text-gym/draft", JSON.stringify({ rater, item: question.id, values, key }));
}

// A deliberate answer saves as soon as it is the last one; moving along a scale does not.
function choose(f, value, deliberate) {
  const name = question.fields[f].name;
  delete values[name]; // the latest comes last: undo takes it first
  values[name] = value;
  const open = question.fields.findIndex((field) => !(field.name in values));
  active = deliberate && open >= 0 ? open : f;
  keepDraft();
  drawAnswer();
  focusField();
  if (deliberate && open < 0) submit();
}

function step(by) {
  const { name, options } = question.fields[active];
  const at = options.findIndex((o) => o.value === values[name]);
  const to = at < 0 ? (by > 0 ? 0 : options.length - 1) : Math.min(options.length - 1, Math.max(0, at + by));
  choose(active, options[to].value, false);
}

function onKey(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
  if (event.target instanceof HTMLInputElement && event.target.type !== "radio") return;
  const name = ARROWS[event.key] || event.key.toLowerCase();
  if (name === "?") { event.preventDefault(); toggleHelp(); return; }
  if ($("help").open) return;
  if (event.repeat) { if (name in { left: 0, right: 0 } || name.length === 1) event.preventDefault(); return; }
  if (name === "u" || name === "backspace") { event.preventDefault(); undo(); return; }
  if (!question) return;
  if (name === "g") { $("guidelines").open = !$("guidelines").open; return; }
  if (name === "m") { for (const more of $("texts").querySelectorAll("button")) more.click(); return; }
  if (name === "s") { event.preventDefault(); submit(true); return; }
  if (name === "enter") {
    if (event.target instanceof HTMLButtonElement || event.target.tagName === "SUMMARY") return;
    event.preventDefault();
    submit();
    return;
  }
  const field = question.fields[active];
  const option = field.options.find((o) => o.keys.includes(name));
  if (option) {
    event.preventDefault();
    if (ready()) choose(active, option.value, true);
  } else if (name === "left" || name === "right") {
    event.preventDefault();
    if (ready()) step(name === "left" ? -1 : 1);
  } else if ((name === "up" || name === "down") && question.fields.length > 1) {
    event.preventDefault();
    if (!ready()) return;
    mark((active + (name === "up" ? -1 : 1) + question.fields.length) % question.fields.length);
    focusField();
  } else if (name === "up" || name === "down") {
    if (event.target instanceof HTMLInputElement) event.preventDefault(); // else the browser would choose
  }
}

function toggleHelp() {
  if ($("help").open) $("help").close();
  else $("help").showModal();
}

// Name, theme, start

// Nobody waits for the question of a page that is closed, or given to another rater.
function away() {
  if (!rater || !question) return;
  const body = JSON.stringify({ rater, tab, item: question.id });
  fetch("/api/away", { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: true }).catch(() => {});
}

function signIn(note = "") {
  away();
  rater = "";
  question = null;
  stopResting();
  setBusy(true);
  panel("sign-in");
  $("who").hidden = $("progress").hidden = true;
  say(note);
  $("name").value = kept.get("text-gym/rater") || "";
  $("name").focus();
}

async function begin(name) {
  rater = name;
  kept.set("text-gym/rater", name);
  $("who").textContent = name;
  $("who").hidden = $("progress").hidden = false;
  await next(await deliverKept());
}

async function end() {
  if (!window.confirm("Stop the training? It is saved, and so are all answers.")) return;
  $("help").close();
  await insist("end", {});
}

function listen() {
  document.addEventListener("keydown", onKey);
  $("answer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
  $("skip").addEventListener("click", () => submit(true));
  $("undo").addEventListener("click", () => undo());
  $("show-help").addEventListener("click", toggleHelp);
  $("close-help").addEventListener("click", toggleHelp);
  $("end").addEventListener("click", end);
  $("retry").addEventListener("click", () => { wake(); refresh(); });
  $("who").addEventListener("click", () => { if (!only && (!busy || !question)) signIn(); });
  $("sign-in").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = $("name").value.replace(/\p{C}/gu, "").trim();
    if (name) begin(name);
  });
  for (const event of ["online", "focus", "pageshow"]) window.addEventListener(event, () => { wake(); refresh(); });
  if (tabs) tabs.addEventListener("message", (event) => { if (question && event.data === question.id) refresh(); });
  window.addEventListener("pagehide", away);
  setInterval(refresh, HEARTBEAT);
}

async function start() {
  offerTheme();
  $("guidelines").open = window.matchMedia("(min-width: 55rem)").matches;
  $("keys").replaceChildren(...KEYS.flatMap(([keys, what]) => {
    const term = element("dt");
    term.append(...keys.split(" ").map((k) => (k === "…" ? document.createTextNode(" … ") : element("kbd", k))));
    return [term, element("dd", what)];
  }));
  listen();
  let host;
  ({ data: { store, live, host, rater: only } } = await insist("hello", {}));
  $("end").hidden = !(live && host);
  const name = only || kept.get("text-gym/rater");
  if (name) await begin(name);
  else signIn();
}

start();
