// The viewer's behaviour. Gradio calls this once with `element`, `props`, `trigger`, `upload` and `watch`.
// Zoom, pan, layers, frames, undo and redo are done here; what was pointed out is sent whole, and answered whole.
const find = selector => element.querySelector(selector);
const all = selector => [...element.querySelectorAll(selector)];
const root = find(".viewer"), canvas = find("canvas"), pen = canvas.getContext("2d");
const DRAG_PX = 6, MOST = 40;
const KEYS = {o: "outline", f: "fill", u: "uncertainty", c: "corrections", i: "initial", r: "reference", a: "axes"};
const TOOLS = {l: "lesion", g: "background", x: "box", b: "brush", e: "eraser", h: "pan", m: "scale"};
const FRAME_KEYS = {",": "before", ".": "after", p: "play"};
const NOTHING = {points: [], labels: [], box: null, strokes: []};

let shown = {}, image = null, uncertainty = null, paths = {};
let view = {scale: 1, x: 0, y: 0}, tool = "lesion", drawn = false;
let history = [{}], now = 0, ticket = 0;  // what was pointed out, by the index of the frame; 0 of an image
let frame = 0, outlines = [], playing = false;  // of a clip
const loaded = new Map();
let gesture = null, cursor = null, ruler = null, spaceHeld = false;
const pointers = new Map();

// What the server said

function picture(url) {
  if (!loaded.has(url)) {
    loaded.set(url, new Promise((done, failed) => {
      const fresh = new Image();
      fresh.onload = () => done(fresh);
      fresh.onerror = failed;
      fresh.src = url;
    }));
  }
  return loaded.get(url);
}

function outline(rings) {
  const path = new Path2D();
  for (const ring of rings || []) {
    ring.forEach(([x, y], index) => (index ? path.lineTo(x, y) : path.moveTo(x, y)));
    path.closePath();
  }
  return path;
}

async function receive() {
  const value = props.value || {};
  let fresh = true;
  if (!value.image) {
    shown = {}, image = uncertainty = ruler = null, paths = {}, history = [{}], now = frame = 0, outlines = [];
  } else {
    fresh = folder(value) !== folder(shown);
    if (!fresh && value.frames && value.ticket < ticket) return;  // of a frame that has been left
    if (fresh) loaded.clear();
    const kept = value.frames?.outlines.url === shown.frames?.outlines.url;
    const [first, second, drawn] = await Promise.all([
      picture(value.image.url),
      picture(value.uncertainty.url),
      kept ? outlines : fetch(value.frames.outlines.url).then(answer => answer.json()),
    ]);
    loaded.delete(value.uncertainty.url);
    if (value !== props.value && JSON.stringify(value) !== JSON.stringify(props.value)) return;  // a later one has come
    shown = value, image = first, uncertainty = second, outlines = value.frames ? drawn : [];
    if (value.frames) frame = value.frames.shown;
    paths = Object.fromEntries(["mask", "initial", "reference"].map(name => [name, outline(value[name])]));
    if (fresh) {
      history = [{}], now = 0, ruler = cursor = null, playing = false;
      frame = value.frames?.shown ?? 0;
      if (value.frames && !isFor(tool)) choose("lesion");
      fit();
      const {top, bottom} = root.getBoundingClientRect();
      if (top < 0 || bottom > innerHeight) root.scrollIntoView({block: "start", behavior: "smooth"});
    }
  }
  if (fresh || value.ticket >= ticket) busy(false);
  refresh();
}

function busy(on) {
  find(".busy").hidden = !on;
  root.setAttribute("aria-busy", String(on));
}

// Where the pictures of an image or a clip lie: its own folder, whatever frame is shown.
const folder = value => value.image?.url.replace(/[^/]*$/, "");

// Frames of a clip

async function show(index) {
  frame = (index + shown.frames.count) % shown.frames.count;
  const wanted = frame, next = await picture(`${folder(shown)}${String(frame + 1).padStart(4, "0")}.jpg`);
  if (wanted !== frame || !outlines[frame]) return;  // another frame or image has come
  const {mask, axes} = outlines[frame];
  image = next, uncertainty = null;  // the rest comes with the answer to this frame
  paths = {mask: outline(mask), initial: outline([]), reference: outline([])};
  shown = {...shown, axes};
  refresh();
}

async function stay(index) {
  playing = false;
  await show(index);
  ticket += 1;
  trigger("framed", {frame, ticket});
}

async function play() {
  if (playing) return stay(frame);
  playing = true;
  while (playing && root.isConnected) {
    const due = performance.now() + 1000 / shown.frames.rate;
    await show(frame + 1);
    await new Promise(done => setTimeout(done, Math.max(0, due - performance.now())));
  }
}

function strip() {  // where a lesion is marked, and the frame to measure
  const {count, measure} = shown.frames, share = index => `${(100 * index / count).toFixed(2)}%`;
  const colour = index => index === measure ? COLOURS.added : outlines[index].mask.length ? COLOURS.mask : "transparent";
  const steps = outlines.map((_, index) => `${colour(index)} ${share(index)} ${share(index + 1)}`);
  find(".strip").style.background = `linear-gradient(90deg, ${steps.join(", ")})`;
}

// What is sent

const said = () => history[now][frame] ?? NOTHING;

function change(step) {
  history = [...history.slice(0, now + 1), {...history[now], [frame]: {...said(), ...step}}];
  now = history.length - 1;
  send();
}

function go(to) {
  if (to < 0 || to >= history.length) return;
  now = to;
  send();
}

function send() {
  ticket += 1;
  busy(true);
  playing = false;
  trigger("guided", {...said(), frames: history[now], frame, ticket});
  refresh();
}

function mark(at, label) {
  if (inside(at)) change({points: [...said().points, at.map(round)], labels: [...said().labels, label]});
}

function boxed([x1, y1], [x2, y2]) {
  const [left, right] = [x1, x2].map(x => clamp(x, 0, shown.width)).sort((a, b) => a - b);
  const [top, bottom] = [y1, y2].map(y => clamp(y, 0, shown.height)).sort((a, b) => a - b);
  if (right > left && bottom > top) change({box: [left, top, right, bottom].map(round)});
}

function painted(path) {
  const radius = Number(find("[data-name=radius]").value);
  change({strokes: [...said().strokes, {path: path.map(at => at.map(round)), radius, erase: tool === "eraser"}]});
}

async function open(file) {
  if (!file) return;
  busy(true);
  try {
    const {path} = await upload(file);
    ticket += 1;
    trigger("opened", {path, ticket});
  } catch {
    busy(false);  // Gradio says what was wrong
  }
}

// What stands around the picture

function refresh() {
  const empty = !image, clip = shown.frames;
  find(".empty").hidden = !empty;
  find(".another").hidden = empty;
  find("[data-layer=reference]").hidden = !(shown.reference || []).length;
  find("[data-do=undo]").disabled = now === 0;
  find("[data-do=redo]").disabled = now === history.length - 1;
  find("[data-do=clear]").disabled = !Object.values(history[now]).some(({points, box, strokes}) => points.length || box || strokes.length);
  for (const name of ["brush", "eraser"]) find(`[data-tool=${name}]`).hidden = Boolean(clip);
  find(".frames").hidden = !clip;
  if (clip) {
    find("[data-name=frame]").max = clip.count;
    find("[data-name=frame]").value = frame + 1;
    find(".frames output").textContent = `${frame + 1} of ${clip.count}`;
    find("[data-do=play]").textContent = playing ? "Pause" : "Play";
    find("[data-do=measure]").hidden = clip.measure === null;
    find("[data-do=measure]").textContent = `Measure on ${(clip.measure ?? 0) + 1}`;
    strip();
  }
  find(".brush").hidden = !["brush", "eraser"].includes(tool);
  find(".length").hidden = !(tool === "scale" && ruler);
  root.dataset.tool = tool;
  root.dataset.name = shown.name || "";
  tell();
  redraw();
}

function tell() {
  const parts = [];
  if (image) {
    parts.push(`${shown.name}: ${shown.width} x ${shown.height} px`, `zoom ${Math.round(view.scale * 100)} %`);
    if (cursor) parts.push(`x ${Math.floor(cursor[0])}, y ${Math.floor(cursor[1])}`);
    parts.push(shown.mm_per_pixel ? `${shown.mm_per_pixel.map(side => side.toFixed(3)).join(" x ")} mm per pixel` : "no scale known");
  }
  find(".place").textContent = parts.join("  ·  ");
}

// Zoom and pan

function fit() {
  if (!image) return;
  const {clientWidth: width, clientHeight: height} = canvas;
  const scale = Math.min(width / shown.width, height / shown.height);
  view = {scale, x: (width - scale * shown.width) / 2, y: (height - scale * shown.height) / 2};
}

function zoom(times, at = [canvas.clientWidth / 2, canvas.clientHeight / 2]) {
  const scale = clamp(view.scale * times, 0.02, MOST), by = scale / view.scale;
  view = {scale, x: at[0] - by * (at[0] - view.x), y: at[1] - by * (at[1] - view.y)};
  keep();
}

function pan(x, y) {
  view = {...view, x: view.x + x, y: view.y + y};
  keep();
}

function keep() {  // some of the image stays in sight
  const {clientWidth: width, clientHeight: height} = canvas, margin = 40;
  view.x = clamp(view.x, margin - view.scale * shown.width, width - margin);
  view.y = clamp(view.y, margin - view.scale * shown.height, height - margin);
  tell();
  redraw();
}

// Pointers

function onCanvas(event) {
  const {left, top} = canvas.getBoundingClientRect();
  return [event.clientX - left, event.clientY - top];
}

const inImage = ([x, y]) => [(x - view.x) / view.scale, (y - view.y) / view.scale];
const middle = ([a, b]) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
const apart = ([a, b]) => Math.hypot(a[0] - b[0], a[1] - b[1]);

canvas.addEventListener("pointerdown", event => {
  if (!image) return;
  canvas.focus({preventScroll: true});
  root.classList.remove("by-keys");
  canvas.setPointerCapture(event.pointerId);
  const at = onCanvas(event), from = inImage(at);
  pointers.set(event.pointerId, at);
  if (pointers.size === 2) {
    gesture = {kind: "pinch"};
  } else if (event.button === 1 || spaceHeld || tool === "pan") {
    gesture = {kind: "pan"};
  } else if (event.button === 2) {
    gesture = {kind: "tap", at, from, label: 0};
  } else if (tool === "brush" || tool === "eraser") {
    gesture = {kind: "stroke", path: [from]};
  } else if (tool === "scale") {
    gesture = {kind: "line", from, to: from};
  } else {
    gesture = {kind: "tap", at, from, label: tool === "background" ? 0 : 1};
  }
  if (gesture.kind !== "tap") event.preventDefault();
  redraw();
});

canvas.addEventListener("pointermove", event => {
  if (!image) return;
  const at = onCanvas(event), to = inImage(at), before = pointers.get(event.pointerId);
  cursor = to;
  if (before && gesture?.kind === "pinch") {
    const old = [...pointers.values()];
    pointers.set(event.pointerId, at);
    const fresh = [...pointers.values()];
    zoom(apart(fresh) / Math.max(apart(old), 1), middle(fresh));
    pan(middle(fresh)[0] - middle(old)[0], middle(fresh)[1] - middle(old)[1]);
    return;
  }
  if (before) {
    pointers.set(event.pointerId, at);
    if (gesture?.kind === "tap" && apart([gesture.at, at]) > DRAG_PX) {
      gesture = gesture.label ? {kind: "box", from: gesture.from, to} : {kind: "pan"};
    }
    if (gesture?.kind === "pan") pan(at[0] - before[0], at[1] - before[1]);
    else if (gesture?.kind === "stroke") gesture.path.push(to);
    else if (gesture?.kind === "box" || gesture?.kind === "line") gesture.to = to;
  }
  tell();
  redraw();
});

canvas.addEventListener("pointerup", event => {
  pointers.delete(event.pointerId);
  const done = gesture;
  if (!done) return;
  if (done.kind === "pinch") {
    if (!pointers.size) gesture = null;
    redraw();
    return;
  }
  gesture = null;
  if (done.kind === "tap" && tool !== "box") mark(done.from, done.label);
  else if (done.kind === "box") boxed(done.from, done.to);
  else if (done.kind === "stroke") painted(done.path);
  else if (done.kind === "line" && apart([done.from, done.to]) * view.scale > DRAG_PX) ruler = [done.from, done.to];
  refresh();
});

canvas.addEventListener("pointercancel", event => {
  pointers.delete(event.pointerId);
  gesture = null;
  redraw();
});
canvas.addEventListener("pointerleave", () => {
  if (!root.classList.contains("by-keys")) cursor = null;
  tell();
  redraw();
});
canvas.addEventListener("contextmenu", event => event.preventDefault());
canvas.addEventListener("wheel", event => {
  if (!image) return;
  event.preventDefault();
  zoom(Math.exp(-clamp(event.deltaY, -120, 120) / 400), onCanvas(event));
}, {passive: false});

// Keys and buttons

const ACTIONS = {
  undo: () => go(now - 1),
  redo: () => go(now + 1),
  clear: () => {
    history = [...history.slice(0, now + 1), {}];
    now = history.length - 1;
    send();
  },
  play,
  measure: () => stay(shown.frames.measure),
  before: () => stay(frame - 1),
  after: () => stay(frame + 1),
  in: () => zoom(1.25),
  out: () => zoom(0.8),
  fit: () => (fit(), refresh()),
  full: () => zoom(1 / view.scale),
  open: () => find("[data-name=file]").click(),
};

const isFor = name => !(shown.frames && ["brush", "eraser"].includes(name));

function choose(name) {
  if (!isFor(name)) return;
  tool = name, gesture = null;
  for (const button of all("[data-tool]")) button.setAttribute("aria-checked", String(button.dataset.tool === name));
  refresh();
}

function toggle(name) {
  const button = find(`[data-layer=${name}]`);
  button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
  redraw();
}

function enter() {
  if (tool === "lesion" || tool === "background") mark(cursor, tool === "background" ? 0 : 1);
  else if (tool === "brush" || tool === "eraser") painted([cursor]);
  else if (gesture) {
    const {kind, from} = gesture;
    gesture = null;
    if (kind === "box") boxed(from, cursor);
    else ruler = [from, cursor];
  } else if (tool !== "pan") gesture = {kind: tool === "box" ? "box" : "line", from: cursor, to: cursor};
  refresh();
}

function step(key, fine) {
  const [x, y] = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[key];
  if (tool === "pan") return pan(-24 * x, -24 * y);
  root.classList.add("by-keys");
  const by = fine ? 1 : Math.max(1, 12 / view.scale), [a, b] = cursor ?? [shown.width / 2, shown.height / 2];
  cursor = [clamp(a + by * x, 0, shown.width), clamp(b + by * y, 0, shown.height)];
  if (gesture) gesture.to = cursor;
  tell();
  redraw();
}

root.addEventListener("keydown", event => {
  if (event.target.matches("input")) return;
  const key = event.key, low = key.toLowerCase(), atCanvas = event.target === canvas;
  if (event.ctrlKey || event.metaKey) return;
  if (event.target.dataset.tool && key.startsWith("Arrow")) {  // as in any group of radio buttons
    const names = Object.values(TOOLS).filter(isFor), by = ["ArrowRight", "ArrowDown"].includes(key) ? 1 : names.length - 1;
    choose(names[(names.indexOf(tool) + by) % names.length]);
    find("[data-tool][aria-checked=true]").focus();
  } else if (!image || event.altKey) return;
  else if (key === "Escape") {
    gesture = null, ruler = null, pointers.clear();
    choose("lesion");
  } else if (KEYS[low]) toggle(KEYS[low]);
  else if (TOOLS[low]) choose(TOOLS[low]);
  else if (key === "+" || key === "=") ACTIONS.in();
  else if (key === "-") ACTIONS.out();
  else if (key === "0") ACTIONS.fit();
  else if (key === "1") ACTIONS.full();
  else if (shown.frames && FRAME_KEYS[low]) ACTIONS[FRAME_KEYS[low]]();
  else if (atCanvas && key.startsWith("Arrow")) step(key, event.shiftKey);
  else if (atCanvas && key === "Enter" && cursor) enter();
  else if (atCanvas && key === " ") spaceHeld = true;
  else return;
  event.preventDefault();
});
document.addEventListener("keydown", event => {  // wherever the focus is, but in a field where one types
  const typing = event.target.matches?.("textarea, input:not([type=range], [type=checkbox], [type=radio])");
  if (typing || !root.checkVisibility() || !(event.ctrlKey || event.metaKey)) return;
  const key = event.shiftKey ? event.key.toUpperCase() : event.key;
  const action = {z: ACTIONS.undo, y: ACTIONS.redo, Z: ACTIONS.redo}[key];
  if (!action) return;
  event.preventDefault();
  action();
});
root.addEventListener("keyup", event => {
  if (event.key === " ") spaceHeld = false;
});
root.addEventListener("click", event => {
  const button = event.target.closest("button");
  if (button?.dataset.do) ACTIONS[button.dataset.do]();
  else if (button?.dataset.tool) choose(button.dataset.tool);
  else if (button?.dataset.layer) toggle(button.dataset.layer);
});
find("[data-name=opacity]").addEventListener("input", redraw);
find("[data-name=frame]").addEventListener("input", event => {
  playing = false;
  show(event.target.value - 1);
});
find("[data-name=frame]").addEventListener("change", event => stay(event.target.value - 1));
find("[data-name=file]").addEventListener("change", event => {
  open(event.target.files[0]);
  event.target.value = "";
});
find(".length").addEventListener("submit", event => {
  event.preventDefault();
  ticket += 1;
  busy(true);
  trigger("calibrated", {mm_per_pixel: Number(find("[data-name=length]").value) / apart(ruler), ticket});
  ruler = null;
  choose("lesion");
});

// Files that are dropped or pasted

root.addEventListener("dragover", event => event.preventDefault());
root.addEventListener("drop", event => {
  event.preventDefault();
  open(event.dataTransfer.files[0]);
});
document.addEventListener("paste", event => {
  const file = [...event.clipboardData.files].find(Boolean);
  if (file && root.checkVisibility() && !event.target.matches?.("input, textarea")) open(file);
});
document.addEventListener("busy", () => busy(true));

new ResizeObserver(() => {
  if (image && canvas.clientWidth) fit();
  redraw();
}).observe(canvas);
watch("value", receive);
receive();
