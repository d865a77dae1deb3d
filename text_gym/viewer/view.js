// Shows the kept episodes of a run. Texts of models and users become text nodes and nothing else.
"use strict";
const $ = (id) => document.getElementById(id);
const about = JSON.parse($("about").textContent);
const blocks = [...document.querySelectorAll("script.iteration")];
const column = Object.fromEntries(about.columns.map((c) => [c.name, c]));
const AT_ONCE = 6000; // tokens that are put on the page before somebody asks for more
let now = null; // the iteration that is shown
let waiting = []; // groups that match the filter and are not on the page yet
let chosen = null; // the token whose numbers are shown

// Numbers

function floats(base64) {
  const raw = atob(base64);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return new Float32Array(bytes.buffer);
}

function written(x, digits = 4) {
  if (x === null || x === undefined || !Number.isFinite(x)) return "–";
  const small = x !== 0 && Math.abs(x) < 1e-3;
  return (small ? x.toExponential(2) : String(+x.toPrecision(digits))).replaceAll("-", "−");
}

/** The same with three digits, and nothing but 0 for what is rounding noise in a heading. */
const brief = (x) => written(Math.abs(x) < 5e-4 && x !== null ? 0 : x, 3);

function load(place) {
  const data = JSON.parse(blocks[place].textContent);
  for (const name of Object.keys(data.columns)) data.columns[name] = floats(data.columns[name]);
  let at = 0;
  data.episodes.forEach((episode, row) => {
    episode.at = at;
    episode.row = row;
    at += episode.tokens.length;
    episode.length = 0; // in tokens of the agent
    for (let i = 0; i < episode.tokens.length; i++) episode.length += isAgents(episode, i);
    episode.kl = sum(data, "kl", episode);
  });
  return data;
}

function isAgents(episode, i) {
  return episode.agent ? episode.agent[i] : 1;
}

function sum(data, name, episode) {
  const values = data.columns[name];
  let total = 0;
  let known = false;
  for (let i = 0; values && i < episode.tokens.length; i++) {
    const x = values[episode.at + i];
    if (isAgents(episode, i) && !Number.isNaN(x)) {
      total += x;
      known = true;
    }
  }
  return known ? total : null;
}

const mean = (values) => (values.length ? values.reduce((a, b) => a + b, 0) / values.length : null);

/** What the page adds up of an iteration, by the name it has in metrics.jsonl. */
function sums(data) {
  const all = data.episodes;
  const paid = all.filter((e) => e.reward !== null);
  const learnt = all.filter((e) => e.kl !== null);
  const kl = mean(learnt.map((e) => e.kl));
  const found = {
    reward: mean(paid.map((e) => sum(data, "reward", e) ?? 0)),
    kl,
    kl_per_token: kl === null ? null : kl / mean(learnt.map((e) => e.length)),
    length: mean(all.map((e) => e.length)),
    truncated: mean(all.map((e) => +(e.end === "length"))),
    eos: mean(all.map((e) => +(e.end === "eos"))),
  };
  for (const name of Object.keys(all[0].terms)) {
    found[`reward/${name}`] = mean(all.map((e) => e.terms[name]).filter((x) => x !== null));
  }
  return found;
}

// Elements

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function showSums() {
  const body = $("sums").tBodies[0];
  body.replaceChildren();
  const whole = now.episodes.length === now.played;
  const found = sums(now);
  const others = [];
  for (const [name, value] of Object.entries(found)) {
    const logged = now.metrics[name];
    if (value === null && logged === undefined) continue;
    const row = body.insertRow();
    row.dataset.name = name;
    const same = whole && value !== null && Math.abs(value - logged) <= 1e-4 * Math.max(0.01, Math.abs(logged));
    if (!same) others.push(name);
    const mark = logged === undefined ? "" : same ? "✓ the same" : "";
    [name, written(value, 6), written(logged, 6), mark].forEach((text) => (row.insertCell().textContent = text));
  }
  $("in-short").textContent =
    `On average reward ${brief(found.reward)}, KL ${brief(found.kl)} nats, ${brief(found.length)} tokens` +
    (others.length ? "" : ": the tokens add up to what metrics.jsonl says");
  $("sums-note").textContent = whole
    ? "Means over episodes; rewards and KL are added up token by token, lengths are in tokens of the agent."
    : `Means over the first ${now.episodes.length} of ${now.played} episodes, while metrics.jsonl is about all.`;
}

function showScale() {
  const c = column[$("colour").value];
  const deepest = c.kind === "ratio" ? Math.exp(c.limit) : c.limit;
  const ends = {
    signed: [c.limit ? `−${written(c.limit, 2)}` : "0", written(c.limit, 2)],
    ratio: [written(1 / deepest, 3), written(deepest, 3)],
    rising: ["0", written(c.limit, 2)],
    falling: [`−${written(c.limit, 2)}`, "0"],
  }[c.kind];
  $("scale").replaceChildren(
    make("span", "", ends[0]),
    make("span", `ramp ${c.kind}`),
    make("span", "", ends[1]),
  );
  $("what").textContent = `${c.label}: ${c.about}`;
}

/** The share of the deepest colour, from −1 to 1, of a value. */
function share(c, x) {
  if (!Number.isFinite(x) || !c.limit) return 0;
  const raw = c.kind === "ratio" ? Math.log(Math.max(x, 1e-9)) : x;
  return Math.max(-1, Math.min(1, raw / c.limit));
}

function paint(span) {
  const c = column[$("colour").value];
  const s = share(c, now.columns[c.name][span.dataset.at]);
  span.classList.toggle("up", s > 0);
  span.classList.toggle("down", s < 0);
  span.style.setProperty("--s", Math.abs(s).toFixed(3));
}

function tokens(episode) {
  const box = make("div", "tokens");
  box.tabIndex = 0;
  box.setAttribute("role", "group");
  box.setAttribute("aria-label", `Tokens of episode ${episode.row + 1}; arrow keys go from one to the next`);
  let turn = box;
  const roles = new Map(); // of the turns, by the place of their first tokens
  let begin = 0;
  for (const [role, count] of episode.turns ?? []) {
    if (count) roles.set(begin, role === "assistant" ? "agent" : role);
    begin += count;
  }
  episode.tokens.forEach((text, i) => {
    const agents = isAgents(episode, i);
    const role = roles.get(i);
    if (role !== undefined || (episode.agent && !episode.turns && (i === 0 || agents !== isAgents(episode, i - 1)))) {
      turn = make("div", agents ? "turn agent" : "turn environment");
      turn.append(make("small", "", role ?? (agents ? "agent" : "environment")));
      box.append(turn);
    }
    const span = make("span", "token", text);
    span.dataset.at = episode.at + i;
    if (agents) paint(span);
    turn.append(span);
  });
  return box;
}

function card(episode) {
  const box = make("article", "episode");
  const ends = { eos: "EOS", stop: "stop string", length: "cut at the limit", reply: "ended by a reply" };
  const parts = [
    episode.reward === null ? "not paid" : `reward ${brief(episode.reward)}`,
    `${episode.length} ${episode.length === 1 ? "token" : "tokens"}`,
    episode.kl === null ? "" : `KL ${brief(episode.kl)}`,
    ends[episode.end] ?? "",
  ];
  box.append(make("small", "", parts.filter(Boolean).join(" · ")), tokens(episode));
  return box;
}

function group(number, episodes) {
  const box = make("section", "group");
  const rewards = episodes.map((e) => e.reward).filter((x) => x !== null);
  if (now.group > 1) {
    const spread = rewards.length ? `, rewards ${brief(Math.min(...rewards))} to ${brief(Math.max(...rewards))}` : "";
    box.append(make("h3", "", `Group ${number + 1}: ${episodes.length} of ${now.group} siblings${spread}`));
  }
  box.append(make("div", "prompt", now.prompts[episodes[0].prompt]));
  const siblings = make("div", "siblings");
  siblings.append(...episodes.map(card));
  box.append(siblings);
  return box;
}

// What is shown

const bound = (id, otherwise) => ($(id).value === "" || Number.isNaN(+$(id).value) ? otherwise : +$(id).value);

function matches(episode) {
  const ended = $("ended").value;
  const reward = [bound("reward-from", -Infinity), bound("reward-to", Infinity)];
  const filtered = Number.isFinite(reward[0]) || Number.isFinite(reward[1]);
  return (
    (episode.reward === null ? !filtered : episode.reward >= reward[0] && episode.reward <= reward[1]) &&
    episode.length >= bound("length-from", 0) &&
    episode.length <= bound("length-to", Infinity) &&
    (ended === "" ||
      (ended === "cut" && episode.end === "length") ||
      (ended === "whole" && episode.end !== "length") ||
      (ended === "unpaid" && episode.reward === null))
  );
}

function ordered(groups) {
  const order = $("order").value;
  if (!order) return groups;
  const key = { "reward-down": "reward", "reward-up": "reward", kl: "kl", length: "length" }[order];
  const up = order === "reward-up";
  const of = ([, episodes]) => mean(episodes.map((e) => e[key]).filter((x) => x !== null));
  const missing = up ? Infinity : -Infinity;
  return [...groups].sort((a, b) => ((of(a) ?? missing) - (of(b) ?? missing)) * (up ? 1 : -1));
}

function filter() {
  const groups = new Map();
  for (const episode of now.episodes.filter(matches)) {
    const number = Math.floor(episode.row / now.group);
    if (!groups.has(number)) groups.set(number, []);
    groups.get(number).push(episode);
  }
  waiting = ordered([...groups.entries()]);
  const shown = waiting.reduce((n, [, episodes]) => n + episodes.length, 0);
  const left = now.played - now.episodes.length;
  $("count").textContent =
    `${shown} of ${now.episodes.length} episodes` + (left ? ` (${left} more were played and not kept)` : "");
  choose(null);
  $("groups").className = now.group > 1 ? "" : "single";
  $("groups").replaceChildren();
  more();
}

function more() {
  const page = document.createDocumentFragment();
  let room = AT_ONCE;
  while (waiting.length && room > 0) {
    const [number, episodes] = waiting.shift();
    page.append(group(number, episodes));
    room -= episodes.reduce((n, e) => n + e.tokens.length + 20, 0);
  }
  $("groups").append(page);
  $("more").hidden = !waiting.length;
  $("more").textContent = `show more (${waiting.length} ${now.group > 1 ? "groups" : "episodes"} left)`;
}

function show() {
  const place = +$("slider").value;
  now = load(place);
  $("which").textContent = `${about.iterations[place]} (${place + 1} of ${about.iterations.length})`;
  $("slider").setAttribute("aria-valuetext", about.iterations[place]);
  showSums();
  filter();
}

// One token

function choose(span) {
  chosen?.classList.remove("chosen");
  chosen = span;
  const panel = $("token");
  panel.hidden = !span;
  if (!span) return;
  span.classList.add("chosen");
  const at = +span.dataset.at;
  const episode = now.episodes.findLast((e) => e.at <= at);
  const i = at - episode.at;
  const agents = isAgents(episode, i);
  const list = make("dl");
  for (const c of agents ? about.columns : []) {
    const pair = make("div");
    pair.append(make("dt", "", c.label), make("dd", "", written(now.columns[c.name][at])));
    list.append(pair);
  }
  const where = `token ${i + 1} of ${episode.tokens.length}, id ${episode.ids[i]}${agents ? "" : ", written by the environment"}`;
  const head = make("p");
  head.append(make("b", "", episode.tokens[i]), make("small", "", where));
  panel.replaceChildren(head, list);
}

const neighbours = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

$("groups").addEventListener("pointerover", (event) => {
  const span = event.target.closest(".token");
  if (span) choose(span);
});
$("groups").addEventListener("click", (event) => {
  const span = event.target.closest(".token");
  if (span) choose(span);
});
$("groups").addEventListener("focusin", (event) => {
  if (event.target.classList.contains("tokens") && !event.target.contains(chosen)) {
    choose(event.target.querySelector(".token"));
  }
});
$("groups").addEventListener("keydown", (event) => {
  if (!event.target.classList.contains("tokens") || event.ctrlKey || event.altKey || event.metaKey) return;
  const all = [...event.target.querySelectorAll(".token")];
  const here = all.indexOf(chosen);
  const there = { Home: 0, End: all.length - 1 }[event.key] ?? here + (neighbours[event.key] ?? NaN);
  if (Number.isNaN(there)) return;
  event.preventDefault();
  choose(all[Math.max(0, Math.min(all.length - 1, there))]);
  chosen.scrollIntoView({ block: "nearest" });
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") choose(null);
});

for (const c of about.columns) {
  const option = make("option", "", c.label);
  option.value = c.name;
  $("colour").append(option);
}
$("colour").addEventListener("change", () => {
  showScale();
  for (const span of document.querySelectorAll(".tokens > .token, .agent > .token")) paint(span);
});
$("slider").addEventListener("input", show);
for (const id of ["reward-from", "reward-to", "length-from", "length-to", "ended", "order"]) {
  $(id).addEventListener("input", filter);
}
$("reset").addEventListener("click", () => {
  for (const id of ["reward-from", "reward-to", "length-from", "length-to", "ended", "order"]) $(id).value = "";
  filter();
});
$("more").addEventListener("click", more);
showScale();
show();
