// On every page: times in the device's time zone, and copy buttons.
"use strict";

const ROOT = document.documentElement.dataset.root; // all our addresses begin with it
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
const two = (number) => String(number).padStart(2, "0");

function shown(at, seconds) {
  const clock = two(at.getHours()) + ":" + two(at.getMinutes()) + (seconds ? ":" + two(at.getSeconds()) : "");
  return at.getDate() + " " + MONTHS[at.getMonth()] + " " + at.getFullYear() + ", " + clock;
}

function ago(at) {
  const minutes = Math.round((Date.now() - at) / 60000);
  if (minutes < 0 || minutes > 60 * 24 * 6) return null;
  if (minutes < 1) return "just now";
  if (minutes < 60) return minutes + " min ago";
  if (minutes < 60 * 24) return Math.round(minutes / 60) + " h ago";
  return Math.round(minutes / 1440) + " d ago";
}

function localTimes(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    const text = time.getAttribute("datetime");
    const at = new Date(text.replace(/(\.\d{3})\d+Z$/, "$1Z"));
    if (isNaN(at)) continue;
    const here = shown(at, true);
    time.title = text.slice(0, 19).replace("T", " ") + " UTC (here " + here + ")";
    time.textContent = ("ago" in time.dataset && ago(at)) || shown(at, !time.classList.contains("moment"));
  }
}

function copying(root) {
  for (const button of root.querySelectorAll("button.copy")) {
    if (!navigator.clipboard) continue;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }
}

// The state in the head, every 15 seconds while the page is seen. Only its text is announced, and only when it changes.
const EVERY_MS = 15000;

async function refresh() {
  localTimes(document);
  const live = document.getElementById("live");
  if (!live || document.hidden) return;
  let text = null;
  try {
    const response = await fetch(ROOT + "/state");
    if (response.ok && !response.redirected) text = await response.text();
  } catch { /* the page's server does not answer */ }
  const made = text === null ? null : new DOMParser().parseFromString(text, "text/html").getElementById("live");
  if (!made) {
    live.querySelector("[role=status]").textContent = "State unknown: reload the page";
    return;
  }
  const said = (of) => of.querySelector("[role=status]");
  if (said(live).textContent !== said(made).textContent) said(live).replaceChildren(...said(made).childNodes);
  const [at, now] = [live, made].map((of) => of.querySelector(".position"));
  if (at && now) at.textContent = now.textContent;
  const count = document.getElementById("needs");
  count.textContent = Number(made.dataset.needs).toLocaleString("en-GB");
  count.hidden = made.dataset.needs === "0";
}

// What is printed is all of the page: images below the fold, too, and what is folded.
addEventListener("beforeprint", () => {
  for (const image of document.querySelectorAll("img[loading=lazy]")) image.loading = "eager";
  for (const each of document.querySelectorAll(".timeline details:not([open]), details.as-table:not([open])")) {
    each.open = true;
    each.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const each of document.querySelectorAll("details[data-printed]")) {
    each.open = false;
    delete each.dataset.printed;
  }
});

// The zone of all times, at the foot of every page, printed ones included.
const zone = document.getElementById("zone");
if (zone) {
  const minutes = -new Date().getTimezoneOffset();
  const offset = (minutes < 0 ? "−" : "+") + two(Math.trunc(Math.abs(minutes) / 60)) + ":" + two(Math.abs(minutes) % 60);
  zone.textContent = "Times: " + Intl.DateTimeFormat().resolvedOptions().timeZone + " (now UTC" + offset + "); hover for UTC.";
}

// `/` goes to the search; in a list of studies, `j` and `k` go from row to row. Enter opens the study, as its link has the focus.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search][name=q]");
    if (!search) return;
    event.preventDefault();
    search.focus();
    search.select();
  }
  const step = { j: 1, k: -1 }[event.key];
  const rows = [...document.querySelectorAll("table.studies .row-link")];
  if (!step || !rows.length) return;
  const at = rows.indexOf(document.activeElement);
  const next = rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.min(Math.max(at + step, 0), rows.length - 1)];
  next.focus();
  next.scrollIntoView({ block: "nearest" });
});

localTimes(document);
copying(document);
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
