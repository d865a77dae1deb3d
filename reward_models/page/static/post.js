// Talking to the server: answers are kept in the browser from before they are sent until the server has decided.
// What is asked and shown is page.js's business; it gives `trouble`, which shows what is wrong.
"use strict";

const WAITS = [500, 1000, 2000, 4000]; // ms between tries while the server cannot be reached
const DECIDED = [200, 400, 403, 404, 409]; // statuses by which the server has dealt with a request
const SIGNED_OUT = "This browser is not signed in, or the server was restarted: open the newest link from the terminal here.";

let store = ""; // which label store the server has
let wake = () => {};

const tabs = "BroadcastChannel" in window ? new BroadcastChannel("text-gym") : null;

const randomKey = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(16)), (b) => b.toString(16).padStart(2, "0")).join("");

// Talking to the server

async function call(path, body) {
  const reply = await fetch(`/api/${path}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal: AbortSignal.timeout(20000),
  });
  let data = {};
  try { data = await reply.json(); } catch { if (reply.ok) throw new Error("cut short"); }
  return { status: reply.status, data };
}

// Tries until the server has decided: a lost connection, a full disk or a restart is none of its decisions.
async function insist(path, body, unsaved = false) {
  for (let tries = 0; ; tries++) {
    let why;
    try {
      const reply = await call(path, body);
      if (DECIDED.includes(reply.status)) {
        trouble("");
        return reply;
      }
      why = reply.status === 401 ? SIGNED_OUT : reply.data.error || "The server has a problem.";
    } catch {
      why = "No connection to the server.";
    }
    trouble(unsaved ? `Not saved yet. ${why} Your answer is kept here and sent again.` : why);
    await new Promise((go) => {
      wake = go;
      setTimeout(go, WAITS[Math.min(tries, WAITS.length - 1)]);
    });
  }
}

// Answers on their way

const outbox = () => `text-gym/unsent/${store}/`;

async function deliver(name, entry) {
  const { status, data } = await insist("answer", entry, true);
  if (status === 403) return `Not saved: ${data.error}. It is kept here, and sent when the name is this browser's.`;
  kept.remove(name);
  if (tabs) tabs.postMessage(entry.item);
  if (status === 200) return entry.skip ? "Skipped, saved." : "Saved.";
  return status === 409
    ? "Answered already, perhaps in another tab; the first answer stands."
    : `Refused, not saved: ${data.error}`;
}

async function deliverKept() {
  let note = "";
  for (const name of kept.keys().filter((k) => k.startsWith(outbox()))) {
    const content = kept.get(name);
    if (content) note = await deliver(name, JSON.parse(content));
  }
  return note;
}
