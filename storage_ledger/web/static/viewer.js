// The study page: step through images, frames and windows; load header and metadata.json on demand.
"use strict";

const byId = (id) => document.getElementById(id);
const links = [...document.querySelectorAll("#images a[data-path]")];
const picture = byId("picture");
const imageAt = byId("image-at");
const frameAt = byId("frame-at");
const windowChoice = byId("window");
let at = Math.max(0, links.findIndex((link) => link.getAttribute("aria-current") === "true"));
let asked = 0;
let playing = 0; // milliseconds per frame; 0: stopped
let pace = 66;

function address(link, frame) {
  let text = ROOT + "/image/" + link.dataset.path + "?size=1024";
  if (frame > 0) text += "&frame=" + frame;
  if (windowChoice.value) text += "&window=" + windowChoice.value;
  return text;
}

// Swap the image only once the next one has loaded: no flicker, and late answers are skipped.
function show() {
  const link = links[at];
  const ours = ++asked;
  const next = new Image();
  const put = () => {
    if (ours !== asked) return;
    picture.src = next.src;
    picture.alt = "Image " + (at + 1) + " of " + links.length;
    if (playing) setTimeout(() => { if (playing && ours === asked) frame(Number(frameAt.value) % Number(frameAt.max) + 1); }, playing);
  };
  next.onload = put;
  next.onerror = put;
  next.src = address(link, frameAt.value - 1);
}

function choose(number) {
  if (!links.length) return;
  at = Math.min(Math.max(number, 0), links.length - 1);
  const link = links[at];
  for (const each of links) each.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  const grid = byId("images");
  const top = link.offsetTop - grid.offsetTop;
  if (top < grid.scrollTop || top + link.offsetHeight > grid.scrollTop + grid.clientHeight) grid.scrollTop = top;
  imageAt.value = at + 1;
  byId("image-told").textContent = (at + 1) + " / " + links.length;
  play(false);
  frames(Number(link.dataset.frames));
  facts(link);
  history.replaceState(null, "", link.getAttribute("href"));
  show();
  about(link);
  for (const each of details) if (each.open()) each.load();
}

function frames(count) {
  byId("frames").hidden = count < 2;
  frameAt.max = count;
  frameAt.value = 1;
  byId("frame-told").textContent = "1 / " + count;
}

function frame(number) {
  frameAt.value = Math.min(Math.max(number, 1), Number(frameAt.max));
  byId("frame-told").textContent = frameAt.value + " / " + frameAt.max;
  show();
}

function play(yes) {
  playing = yes ? pace : 0;
  byId("play").textContent = yes ? "Stop" : "Play";
  byId("play").setAttribute("aria-pressed", String(yes));
  if (yes) show();
}

function facts(link) {
  const told = (name) => document.querySelector("#file-facts [data-fact=" + name + "]");
  const data = link.dataset;
  told("name").textContent = data.name;
  told("shape").textContent = data.shape;
  told("size").textContent = data.size;
  told("sha256").textContent = told("sha256").title = data.sha256;
  told("sha256").parentElement.querySelector(".copy").dataset.copy = data.sha256;
  const badge = document.createElement("span");
  badge.className = "badge badge-" + data.fixity;
  badge.textContent = data.fixity === "unverified" ? "not verified" : data.fixity;
  told("fixity").replaceChildren(badge, ...(data.verified ? [" ", moment(data.verified)] : []));
  told("archived").replaceChildren(moment(data.archived));
  localTimes(byId("file-facts"));
  downloadable(!/^(missing|changed)$/.test(data.fixity));
  byId("stage").classList.toggle("none", data.shape === "no image");
  told("entry").textContent = "entry " + data.position;
  told("entry").href = ROOT + "/ledger/entries/" + data.position;
  told("pipeline").textContent = data.name.startsWith(data.study + ".") ? "of the same name" : data.study;
  told("pipeline").href = ROOT + "/studies/" + encodeURIComponent(data.study);
  byId("download").href = ROOT + "/file/" + data.path;
}

function moment(at) {
  const time = document.createElement("time");
  time.className = "moment";
  time.dateTime = at;
  return time;
}

function downloadable(yes) {
  byId("download").hidden = !yes;
  byId("no-download").hidden = yes;
}

// The windows stored in the file, or why there is no image.
async function about(link) {
  const why = byId("picture-why");
  why.textContent = "";
  let answer = null;
  try {
    const response = await fetch(ROOT + "/image/" + link.dataset.path + "/about");
    if (response.ok) answer = await response.json();
  } catch { /* offline: the image reports it */ }
  if (!answer || links[at] !== link) return;
  if (answer.why) why.textContent = answer.text || answer.why;
  if (!answer.downloadable) downloadable(false);
  if (answer.frames && answer.frames !== Number(frameAt.max)) frames(answer.frames);
  pace = answer.frame_ms || 66;
  const kept = windowChoice.value;
  windowChoice.length = 1;
  for (const each of answer.windows) {
    windowChoice.add(new Option((each.name || "Stored") + " (" + each.center + " / " + each.width + ")", each.center + "," + each.width));
  }
  byId("windows").hidden = !answer.windows.length; // colour images have none
  windowChoice.value = kept;
  if (windowChoice.selectedIndex < 0) windowChoice.selectedIndex = 0;
}

async function json(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(String(response.status));
  return response.json();
}

class OnDemand {
  constructor(id, url, draw) {
    this.box = byId(id);
    this.why = byId(id + "-why");
    this.url = url;
    this.draw = draw;
    this.box.addEventListener("toggle", () => { if (this.box.open) this.load(); });
  }
  open() { return this.box.open; }
  async load() {
    const url = this.url(links[at].dataset);
    if (this.loaded === url) return;
    this.loaded = url;
    this.why.textContent = "Loading …";
    try {
      const answer = await json(url);
      if (this.loaded !== url) return;
      this.draw(answer);
      this.why.textContent = "";
    } catch {
      this.loaded = null;
      this.why.textContent = "It cannot be read right now. You can still download the file.";
    }
  }
}

function cell(text) {
  const made = document.createElement("td");
  made.textContent = text;
  return made;
}

function drawHeader(answer) {
  const body = byId("header-rows");
  body.replaceChildren(...answer.rows.map((row) => {
    const line = document.createElement("tr");
    line.append(cell("\u00a0\u00a0".repeat(row.depth || 0) + row.tag), cell(row.name), cell(row.vr), cell(row.value));
    return line;
  }));
  narrow();
}

// Accept any spelling of a tag: 0010,0010, (0010,0010) or 00100010.
const bare = (tag) => tag.replace(/[(),\s]/g, "");

function narrow() {
  const words = byId("header-find").value.toLowerCase().split(/\s+/).filter(Boolean);
  const lines = [...byId("header-rows").rows];
  let left = 0;
  for (const line of lines) {
    const text = line.textContent.toLowerCase();
    const tag = bare(line.cells[0].textContent.toLowerCase());
    line.hidden = !words.every((word) => text.includes(word) || bare(word) === tag);
    left += line.hidden ? 0 : 1;
  }
  byId("header-count").textContent = lines.length ? left + " of " + lines.length : "";
}

const GROUPS = {
  patient_info: "Patient", study_info: "Study", modality_info: "Equipment", exposure_info: "Exposure", location_info: "Location and staff",
  validation_details: "Validation",
};
const SPELLED = { id: "ID", uid: "UID", sop: "SOP", sha256: "SHA-256", kvp: "kVp", mas: "mAs" };
const TITLES = { study_id: "Pipeline study_id", position: "Entry" };

function words(key) {
  const said = key.split("_").map((each) => SPELLED[each] || each).join(" ");
  return TITLES[key] || said.charAt(0).toUpperCase() + said.slice(1);
}

const isGroup = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

// Format dates and names for people; the exact value is in the title.
function readable(key, text) {
  const date = /_date$/.test(key) && text.match(/^(\d{4})(\d\d)(\d\d)$/);
  if (date && MONTHS[date[2] - 1]) return Number(date[3]) + " " + MONTHS[date[2] - 1] + " " + date[1];
  if (!/(patient_name|physician)$/.test(key)) return text;
  const groups = text.split("=").map((each) => {
    const [family, given, middle, prefix, suffix] = each.split("^");
    return [family, [prefix, given, middle].filter(Boolean).join(" "), suffix].filter(Boolean).join(each.match(/[A-Za-z\u00c0-\u024f]/) ? ", " : " ");
  });
  return groups.filter(Boolean).join(" ") || text;
}

function group(title, value) {
  const made = document.createElement("section");
  const heading = document.createElement("h3");
  heading.textContent = title;
  made.append(heading);
  const entries = Object.entries(value);
  if (!entries.length) {
    const none = document.createElement("p");
    none.className = "quiet";
    none.textContent = "Empty.";
    made.append(none);
  }
  const list = document.createElement("dl");
  list.className = "pairs";
  for (const [key, each] of entries) {
    const name = document.createElement("dt");
    const told = document.createElement("dd");
    name.textContent = words(key);
    const exact = each !== null && typeof each === "object" ? JSON.stringify(each) : String(each);
    told.textContent = readable(key, exact);
    if (told.textContent !== exact) told.title = exact;
    list.append(name, told);
  }
  if (entries.length) made.append(list);
  return made;
}

function drawMetadata(answer) {
  const rest = {};
  const made = [];
  for (const [key, value] of Object.entries(answer)) {
    if (isGroup(value)) made.push([Object.keys(GROUPS).indexOf(key), group(GROUPS[key] || words(key), value)]);
    else if (key !== "files") rest[key] = value;
  }
  made.sort((one, other) => (one[0] < 0 ? 99 : one[0]) - (other[0] < 0 ? 99 : other[0]));
  const all = made.map((each) => each[1]);
  all.push(group("Archive", rest));
  (answer.files || []).forEach((file, number) => all.push(group("File " + (number + 1), file)));
  byId("metadata-groups").replaceChildren(...all);
}

const details = [];
if (picture && links.length) {
  details.push(new OnDemand("header", (data) => ROOT + "/header/" + data.path, drawHeader));
  details.push(new OnDemand("metadata", (data) => ROOT + "/metadata/" + encodeURIComponent(data.study), drawMetadata));
  byId("header-find").addEventListener("input", narrow);
  for (const [number, link] of links.entries()) {
    link.addEventListener("click", (event) => {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return;
      event.preventDefault();
      choose(number);
    });
  }
  imageAt.addEventListener("input", () => choose(imageAt.value - 1));
  frameAt.addEventListener("input", () => frame(Number(frameAt.value)));
  windowChoice.addEventListener("change", show);
  byId("play").addEventListener("click", () => play(!playing));
  byId("before").addEventListener("click", () => choose(at - 1));
  byId("after").addEventListener("click", () => choose(at + 1));
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    event.preventDefault();
    if (event.shiftKey || links.length === 1) frame(Number(frameAt.value) + step);
    else choose(at + step);
  });
  byId("stage").addEventListener("wheel", (event) => {
    if (document.activeElement !== byId("stage")) return; // only when focused: otherwise the page scrolls
    event.preventDefault();
    if (links.length === 1) frame(Number(frameAt.value) + Math.sign(event.deltaY));
    else choose(at + Math.sign(event.deltaY));
  }, { passive: false });
  about(links[at]);
}
