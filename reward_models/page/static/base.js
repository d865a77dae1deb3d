// What every page of this server begins with: elements, small things kept in the browser, light and dark.
"use strict";

const $ = (id) => document.getElementById(id);

function element(tag, text = "", classes = "") {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  if (classes) made.className = classes;
  return made;
}

// Small things kept in the browser. Where that is forbidden, they last as long as the page.

function keeper(name) {
  const memory = new Map();
  const run = (use, otherwise) => { try { return use(window[name]); } catch { return otherwise(); } };
  return {
    get: (k) => run((s) => s.getItem(k), () => null) ?? memory.get(k) ?? null,
    set: (k, v) => { memory.set(k, v); run((s) => s.setItem(k, v), () => null); },
    remove: (k) => { memory.delete(k); run((s) => s.removeItem(k), () => null); },
    keys: () => [...new Set([...memory.keys(), ...run((s) => Object.keys(s), () => [])])],
  };
}
const kept = keeper("localStorage");
const draft = keeper("sessionStorage");

function theme(chosen) {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  $("theme").textContent = { auto: "Auto", light: "Light", dark: "Dark" }[chosen];
  $("theme").setAttribute("aria-label", `Colours: ${chosen}`);
  kept.set("text-gym/theme", chosen);
}

function offerTheme() {
  theme(kept.get("text-gym/theme") || "auto");
  $("theme").addEventListener("click", () => {
    theme({ auto: "light", light: "dark", dark: "auto" }[kept.get("text-gym/theme")] || "auto");
  });
}
