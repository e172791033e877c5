"use strict";
// The page of `t3d serve`. Names of classes and files are only ever set as text, never as HTML.

const $ = (id) => document.getElementById(id);
const COLORS = 8;
const SHOWN = 5;
const POLL = 400; // milliseconds
const TRIES = 3; // more, if the connection breaks

let model = null;
let job = null; // the last answer about the visitor's video
let upload = null; // the request that is sending a file
let turn = 0; // counts the videos of this page, so that late answers of an earlier one are ignored

function make(tag, options = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(options)) {
    if (name === "class") element.className = value;
    else if (name === "text") element.textContent = value;
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element[name] = value;
  }
  element.append(...children);
  return element;
}

function show(id) {
  for (const each of ["start", "working", "problem", "result"]) $(each).hidden = each !== id;
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

async function ask(address, options = {}) {
  let answer;
  try {
    answer = await fetch(address, options);
  } catch {
    throw Object.assign(new Error("The server does not answer. It may have ended."), { offline: true });
  }
  if (answer.status === 204) return null;
  const body = await answer.json().catch(() => ({}));
  if (answer.status === 401) location.reload();
  if (body.error && !body.id) throw new Error(body.error);
  if (!answer.ok && !body.id) throw new Error(`The server answered with status ${answer.status}.`);
  return body;
}

// Asks again after a short break of the connection.
async function askPatiently(address) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ask(address);
    } catch (error) {
      if (!error.offline || tries >= TRIES) throw error;
      await new Promise((resolve) => setTimeout(resolve, POLL * 2 ** tries));
    }
  }
}

function forget(id) {
  fetch(`api/jobs/${id}`, { method: "DELETE" }).catch(() => {});
}

// Classes, the most probable first. An object of JavaScript has keys such as "10" in the order of numbers.
function rankedOf(classes) {
  return Object.entries(classes).sort((a, b) => b[1] - a[1]);
}

// JSON with the classes in their order.
function pretty(value, key = "", indent = "") {
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const list = Array.isArray(value);
  const inner = `${indent}  `;
  const entries = key === "classes" && !list ? rankedOf(value) : Object.entries(value);
  const lines = entries.map(([name, each]) => `${inner}${list ? "" : `${JSON.stringify(name)}: `}${pretty(each, name, inner)}`);
  const [open, close] = list ? "[]" : "{}";
  return lines.length ? `${open}\n${lines.join(",\n")}\n${indent}${close}` : open + close;
}

function fail(text, name = "") {
  $("problem-title").textContent = name ? `“${name}” could not be classified` : "This video could not be classified";
  $("problem-text").replaceChildren(...withCode(text));
  show("problem");
  $("problem-again").focus();
}

// Text with `commands` in backticks.
function withCode(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", { text: part }) : part));
}

function working(name, text, share) {
  $("working-name").textContent = name;
  $("working-what").textContent = text;
  if (share === null) $("working-bar").removeAttribute("value");
  else $("working-bar").value = share;
  show("working");
}

// --- sending a video -----------------------------------------------------------------------------------

function begin() {
  turn += 1;
  if (upload && !upload.isSent) upload.abort(); // else its answer names the job to delete
  upload = null;
  discard();
  return turn;
}

function discard() {
  const player = $("player");
  player.pause();
  player.removeAttribute("src");
  player.load();
  if (job) forget(job.id);
  job = null;
}

function again() {
  begin();
  $("file").value = "";
  show("start");
  $("choose").focus();
}

function send(file) {
  const mine = begin();
  const limit = model.limits.max_mb;
  if (file.size > limit * 1e6) {
    fail(`The file has ${(file.size / 1e6).toFixed(0)} MB; this server accepts at most ${limit} MB. Send a shorter or smaller video.`, file.name);
    return;
  }
  if (file.size === 0) {
    fail("The file is empty (0 bytes). Send a video.", file.name);
    return;
  }
  working(file.name, "Uploading", 0);
  const form = new FormData();
  form.append("video", file, file.name);
  const request = new XMLHttpRequest(); // fetch does not report how much is sent
  upload = request;
  request.open("POST", "api/predict");
  request.responseType = "json";
  request.upload.onprogress = (event) => {
    if (mine === turn && event.lengthComputable) {
      const share = event.loaded / event.total;
      working(file.name, `Uploading: ${Math.floor(100 * share)} %`, share);
    }
  };
  request.upload.onload = () => { request.isSent = true; };
  request.onerror = () => mine === turn && fail("The connection was cut off. Send the video again.", file.name);
  request.onload = () => {
    const body = request.response || {};
    if (mine !== turn) {
      if (body.id) forget(body.id);
      return;
    }
    upload = null;
    if (body.id) follow(body, mine);
    else fail(body.error || `The server answered with status ${request.status}.`, file.name);
  };
  request.send(form);
}

async function sendExample(name) {
  const mine = begin();
  working(name, "Starting", null);
  try {
    const answer = await ask(`api/predict?example=${encodeURIComponent(name)}`, { method: "POST" });
    if (mine === turn) follow(answer, mine);
    else forget(answer.id);
  } catch (error) {
    if (mine === turn) fail(error.message, name);
  }
}

async function follow(answer, mine) {
  while (mine === turn) {
    job = answer;
    if (answer.state === "done") return present();
    if (answer.state === "failed") return fail(answer.error, answer.name);
    if (answer.state === "waiting") {
      const count = answer.position;
      const text = count === 0 ? "Waiting: your video is next" : `Waiting: ${count} ${count === 1 ? "video is" : "videos are"} before yours`;
      working(answer.name, text, null);
    } else {
      const share = answer.progress;
      working(answer.name, share > 0 ? `Classifying: ${Math.floor(100 * share)} %` : "Reading the video", share > 0 ? share : null);
    }
    await new Promise((resolve) => setTimeout(resolve, POLL));
    if (mine !== turn) return;
    try {
      answer = await askPatiently(`api/jobs/${answer.id}`);
    } catch (error) {
      if (mine === turn) fail(error.message, answer.name);
      return;
    }
  }
}

// --- the result ----------------------------------------------------------------------------------------

function present() {
  const { result, video } = job;
  const ranked = rankedOf(result.classes);
  const colors = chooseColors(result, ranked);
  const multi = result.targets === "multi";
  $("label").textContent = ranked[0][0];
  $("probability").textContent = percent(ranked[0][1]);
  $("probability").title = String(ranked[0][1]);
  $("sure-note").textContent = multi ? "several classes may apply" : `the most probable of ${ranked.length} classes`;
  bars($("bars"), ranked.slice(0, SHOWN).map(([name, share]) => [name, share, percent(share), colors(name)]));
  facts(video, result);
  unplayable = false;
  play("video");
  drawTimeline(result, video.seconds, colors);
  $("json").textContent = pretty({ name: job.name, ...result });
  $("copy").textContent = "Copy";
  $("depths").hidden = true;
  actions();
  show("result");
}

function chooseColors(result, ranked) {
  const seconds = new Map();
  for (const each of result.segments) seconds.set(each.label, (seconds.get(each.label) || 0) + each.end - each.start);
  const order = [...seconds].sort((a, b) => b[1] - a[1]).map(([name]) => name);
  for (const [name] of ranked) if (!seconds.has(name)) order.push(name);
  const numbers = new Map(order.slice(0, COLORS).map((name, number) => [name, number]));
  return (name) => (numbers.has(name) ? `var(--c${numbers.get(name)})` : "var(--rest)");
}

function bars(list, rows) {
  list.replaceChildren(
    ...rows.map(([name, share, text, color]) => {
      const fill = make("i");
      fill.style.width = `${Math.max(100 * share, 0.5)}%`;
      fill.style.background = color;
      return make("li", {}, make("span", { text: name }), make("b", { text }), make("div", {}, fill));
    }),
  );
}

function facts(video, result) {
  const rows = [
    ["File", job.name],
    ["Length", `${video.seconds.toFixed(2)} s, ${result.clips} ${result.clips === 1 ? "clip" : "clips"}`],
    ["Pictures", `${video.width} × ${video.height}, ${video.codec}`],
  ];
  $("facts").replaceChildren(...rows.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
}

function drawTimeline(result, seconds, colors) {
  const place = (element, start, end) => {
    element.style.left = `${(100 * start) / seconds}%`;
    element.style.width = `${(100 * Math.max(Math.min(end, seconds) - start, 0)) / seconds}%`;
  };
  const lanes = [];
  for (const each of result.segments) { // in the first lane where it overlaps no other
    let lane = lanes.find((other) => other.end <= each.start + 1e-6);
    if (!lane) {
      if (lanes.length === 4) continue;
      lane = { end: 0, element: make("div", { class: "lanes" }) };
      lanes.push(lane);
    }
    lane.end = each.end;
    const text = `${each.label}, ${clock(each.start)} to ${clock(each.end)}, ${percent(each.score)}`;
    const segment = make("button", { type: "button", class: "segment", text: each.label, title: text, onclick: () => seek(each.start) });
    segment.setAttribute("aria-label", text);
    segment.style.background = colors(each.label);
    place(segment, each.start, each.end);
    lane.element.append(segment);
  }
  $("segments").replaceChildren(...lanes.map((lane) => lane.element));
  const names = new Set(result.segments.map((each) => each.label));
  $("strip").replaceChildren(
    ...result.per_clip.map((clip, number) => {
      const [name, share] = rankedOf(clip.classes)[0];
      names.add(name);
      const next = result.per_clip[number + 1];
      const bar = make("i");
      bar.style.height = `${100 * share}%`;
      bar.style.background = colors(name);
      place(bar, clip.start, next ? next.start : clip.end);
      return bar;
    }),
  );
  const shown = [...names].slice(0, COLORS);
  $("legend").replaceChildren(
    ...shown.map((name) => {
      const square = make("i");
      square.style.background = colors(name);
      return make("li", {}, square, name);
    }),
  );
  $("time-end").textContent = clock(seconds);
  moveHead();
}

function seek(seconds) {
  const player = $("player");
  if (player.readyState > 0 && view !== "explained") player.currentTime = Math.min(seconds, player.duration || seconds);
}

function moveHead() {
  if (!job || !job.video) return;
  const now = $("player").currentTime || 0;
  $("head").style.left = `${Math.min(100, (100 * now) / job.video.seconds)}%`;
  $("time-now").textContent = now > 0 && view !== "explained" ? clock(now) : "";
}

// --- the player ----------------------------------------------------------------------------------------

// Videos that the player can show. The heat video shows some clips only, so its times are others.
const VIEWS = { video: "Video", annotated: "With classes", explained: "Heat" };
let view = "video";
let unplayable = false; // the uploaded format

function address(name) {
  if (name === "video") return unplayable ? null : job.file;
  return job.steps[name] ? job.steps[name].file : null;
}

function play(name) {
  view = name;
  note("");
  $("player").src = address(name);
  $("player").load();
  $("head").hidden = name === "explained";
  listViews();
}

function listViews() {
  const names = Object.keys(VIEWS).filter(address);
  $("views").replaceChildren(
    ...(names.length < 2 ? [] : names).map((name) => {
      const button = make("button", { type: "button", class: "quiet", text: VIEWS[name], onclick: () => play(name) });
      button.setAttribute("aria-pressed", String(name === view));
      return button;
    }),
  );
}

function note(text) {
  $("player-note").textContent = text;
  $("player-note").hidden = !text;
}

function cannotPlay() {
  if (!job || job.state !== "done" || !$("player").getAttribute("src")) return;
  if (view !== "video") {
    note("This browser cannot play the video.");
    return;
  }
  unplayable = true;
  $("player").removeAttribute("src");
  listViews();
  if (address("annotated")) {
    play("annotated");
    return;
  }
  note("This browser cannot play this format. The server converts it…");
  request("annotated");
}

// --- further work --------------------------------------------------------------------------------------

const STEPS = {
  annotated: { name: "Draw the classes", busy: "Drawing the classes", save: "Save video with classes" },
  explained: { name: "Explain", busy: "Explaining", save: "Save heat video" },
};

function actions() {
  $("action-error").hidden = true;
  $("actions").replaceChildren(
    ...model.steps.flatMap((step) => {
      const words = STEPS[step];
      if (!words) return [];
      const state = job.steps[step];
      if (state && state.state === "done") {
        const name = `${job.name.replace(/\.[^.]*$/, "")}-${step}.mp4`;
        return [make("a", { class: "button quiet", href: state.file, download: name, text: words.save })];
      }
      if (state && state.state !== "failed") {
        const text = state.state === "waiting" ? "Waiting" : words.busy;
        return [make("button", { type: "button", class: "quiet", disabled: true, text: `${text}…` })];
      }
      return [make("button", { type: "button", class: "quiet", text: words.name, onclick: () => request(step) })];
    }),
  );
}

async function request(step) {
  const mine = turn;
  const id = job.id;
  try {
    let answer = await ask(`api/jobs/${id}/${step}`, { method: "POST" });
    while (mine === turn) {
      job = answer;
      actions();
      const work = answer.steps[step];
      if (work.state === "done") {
        if (step === "explained") explain(work.facts);
        play(step);
        return;
      }
      if (work.state === "failed") throw new Error(work.error);
      await new Promise((resolve) => setTimeout(resolve, POLL));
      answer = { ...(await askPatiently(`api/jobs/${id}?brief=1`)), result: job.result, video: job.video };
    }
  } catch (error) {
    if (mine !== turn) return;
    note("");
    actions();
    $("action-error").textContent = error.message;
    $("action-error").hidden = false;
  }
}

function explain({ label, depths, remarks }) {
  const longest = Math.max(...depths.map((each) => Math.abs(each.contribution)), 1e-9);
  const rows = depths.map((each) => {
    const sign = each.contribution < 0 ? "−" : "+";
    const text = `${sign}${Math.abs(each.contribution).toFixed(2)} (${Math.round(100 * each.share)} %)`;
    const color = each.contribution < 0 ? "var(--wrong)" : "var(--accent)";
    return [`${each.stage}, depth ${each.depth}`, Math.abs(each.contribution) / longest, text, color];
  });
  $("depths-title").textContent = depths.length ? "Why: temporal depths" : "Why";
  bars($("depth-bars"), rows);
  const meaning = depths.length ? `What each temporal depth of a layer adds to the score of “${label}”. ` : "";
  $("depth-note").textContent = meaning + remarks.join(" ");
  $("depths").hidden = false;
}

// --- the page ------------------------------------------------------------------------------------------

function listExamples() {
  $("examples").hidden = model.examples.length === 0;
  $("example-list").replaceChildren(
    ...model.examples.map((name) => {
      const picture = make("video", { muted: true, playsInline: true, preload: "metadata", src: `api/examples/${encodeURIComponent(name)}#t=0.5`, tabIndex: -1 });
      const button = make("button", { type: "button", class: "example", onclick: () => sendExample(name) }, picture, make("span", { text: name }));
      return make("li", {}, button);
    }),
  );
}

function connect() {
  const drop = $("drop");
  const player = $("player");
  $("choose").addEventListener("click", () => $("file").click());
  $("file").addEventListener("change", (event) => event.target.files.length && send(event.target.files[0]));
  for (const name of ["dragenter", "dragover"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  document.addEventListener("dragleave", (event) => event.relatedTarget || drop.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files.length && model) send(event.dataTransfer.files[0]);
  });
  for (const id of ["again", "problem-again", "cancel"]) $(id).addEventListener("click", again);
  player.addEventListener("timeupdate", moveHead);
  player.addEventListener("seeking", moveHead);
  player.addEventListener("error", cannotPlay);
  player.addEventListener("loadedmetadata", () => {
    if (player.videoWidth === 0) cannotPlay(); // it plays the sound only
    moveHead();
  });
  const pointed = (event) => {
    const box = $("timeline").getBoundingClientRect();
    seek(Math.max(0, Math.min(1, (event.clientX - box.left) / box.width)) * job.video.seconds);
  };
  $("timeline").addEventListener("pointerdown", (event) => {
    pointed(event);
    const move = (other) => pointed(other);
    document.addEventListener("pointermove", move);
    document.addEventListener("pointerup", () => document.removeEventListener("pointermove", move), { once: true });
  });
  $("copy").addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText($("json").textContent);
      $("copy").textContent = "Copied";
    } catch { // without HTTPS, browsers allow only what the visitor does
      getSelection().selectAllChildren($("json"));
      $("copy").textContent = "Press Ctrl+C";
    }
  });
}

async function main() {
  history.replaceState(null, "", location.pathname); // the token does not stay in the address
  try {
    model = await ask("api/model");
  } catch (error) {
    fail(error.message);
    return;
  }
  connect();
  listExamples();
  show("start");
}

main();
