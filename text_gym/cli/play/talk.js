// A person plays the user. All texts are shown with textContent only, never as markup.
// It decides nothing: the server says what is said, asked and saved.
"use strict";

const WRITING = 150; // ms between looks while the policy writes
const WAITING = 1000; // ms between looks while the person does
const GONE = "No connection to the server. If it was ended, a conversation in the middle is dropped; those called saved are on the disk.";
const tab = randomKey();
const DRAFT = "text-gym/reply"; // a reply that is being typed, kept over loading the page anew

let since = 0; // the number of the next row
let asked = 0; // the number of the question that is shown
let sent = 0; // the number of the question that was answered last
let ended = false;
let timer = 0;
let running = false; // a look is on its way

function trouble(text) {
  if ($("trouble-text").textContent !== text) $("trouble-text").textContent = text;
  $("trouble").hidden = !text;
}

// A turn has its speaker in an element of its own: no text can pretend to be one.
function addRow(row) {
  const item = element("li", "", row.kind === "turn" ? `turn${row.role === "user" ? " own" : ""}` : row.kind);
  if (row.kind === "turn") item.append(element("b", row.role));
  item.append(element("p", row.text));
  $("talk").append(item);
}

function show(state) {
  state.rows.forEach(addRow);
  since = state.next;
  if (state.rows.length) $("talk").scrollTop = $("talk").scrollHeight;
  $("task").hidden = !state.task;
  const asking = state.ended || state.number <= sent ? "" : state.asking;
  $("say").hidden = asking !== "text";
  $("next").hidden = asking !== "next";
  $("state").textContent = state.ended || (asking ? "" : "The policy is writing …");
  if (asking && state.number !== asked) {
    asked = state.number;
    $("problem").textContent = state.problem;
    const begun = JSON.parse(draft.get(DRAFT) || "{}");
    if (begun.number === asked) $("line").value = begun.text;
    else if (!state.problem) $("line").value = "";
    $("line").setAttribute("aria-invalid", String(Boolean(state.problem)));
    $(asking === "text" ? "line" : "next").focus();
  }
  if (state.ended) {
    ended = true;
    $("leave").hidden = true;
    document.querySelector("details").hidden = true;
  }
}

async function look() {
  clearTimeout(timer);
  if (running || ended) return;
  running = true;
  let wait = WAITING;
  try {
    const { status, data } = await call("state", { tab, since });
    trouble(status === 401 ? RESTARTED : status === 200 ? "" : data.error || "The server has a problem.");
    if (status === 200) {
      show(data);
      if (!data.asking || data.number <= sent) wait = WRITING;
    }
  } catch {
    trouble(GONE);
  }
  running = false;
  clearTimeout(timer);
  if (!ended) timer = setTimeout(look, wait);
}

async function send(text) {
  if ($("say").hidden && $("next").hidden) return;
  const number = asked;
  $("state").textContent = "Sending …";
  try {
    const { status, data } = await call("send", { number, text });
    if (status === 200 || status === 409) { sent = number; draft.remove(DRAFT); }
    else $("problem").textContent = status === 401 ? RESTARTED : data.error || "The server has a problem.";
  } catch {
    trouble(GONE);
  }
  if (!ended) $("state").textContent = "";
  look();
}

async function leave() {
  if (!window.confirm("Leave? A conversation in the middle is dropped.")) return;
  try { await call("leave", {}); } catch { trouble(GONE); }
  look();
}

function start() {
  offerTheme();
  $("say").addEventListener("submit", (event) => { event.preventDefault(); send($("line").value); });
  $("line").addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    if (!event.repeat) send($("line").value);
  });
  $("line").addEventListener("input", () => draft.set(DRAFT, JSON.stringify({ number: asked, text: $("line").value })));
  $("end").addEventListener("click", () => send(`:end ${$("line").value}`));
  $("task").addEventListener("click", () => send(":task"));
  $("next").addEventListener("click", () => send(""));
  $("leave").addEventListener("click", leave);
  $("retry").addEventListener("click", look);
  window.addEventListener("pagehide", () => {
    clearTimeout(timer);
    if (ended) return;
    const body = JSON.stringify({ tab });
    fetch("/api/away", { method: "POST", headers: { "Content-Type": "application/json" }, body, keepalive: true });
  });
  window.addEventListener("pageshow", (event) => { if (event.persisted) window.location.reload(); });
  look();
}

start();
