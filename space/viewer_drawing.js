// How the viewer draws: the image, its layers as curves, prompts, and what is being drawn just now.
// One body with `viewer.js`, which is below it and holds the state.
const COLOURS = {mask: "#ffc20a", added: "#1a85ff", removed: "#e66100", initial: "#d38cff", reference: "#40b0ff"};

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const round = value => Math.round(value * 10) / 10;
const inside = ([x, y]) => image && x >= 0 && y >= 0 && x <= shown.width && y <= shown.height;
const isOn = layer => find(`[data-layer=${layer}]`).getAttribute("aria-pressed") === "true";

function redraw() {
  if (drawn) return;
  drawn = true;
  requestAnimationFrame(() => {
    drawn = false;
    draw();
  });
}

function draw() {
  const ratio = devicePixelRatio, {clientWidth: width, clientHeight: height} = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  pen.setTransform(1, 0, 0, 1, 0, 0);
  pen.clearRect(0, 0, canvas.width, canvas.height);
  if (!image) return;
  pen.setTransform(view.scale * ratio, 0, 0, view.scale * ratio, view.x * ratio, view.y * ratio);
  pen.imageSmoothingEnabled = view.scale < 4;
  pen.imageSmoothingQuality = ["pan", "pinch"].includes(gesture?.kind) ? "low" : "high";  // quick while it moves
  pen.drawImage(image, 0, 0, shown.width, shown.height);
  pen.imageSmoothingEnabled = true;
  if (isOn("uncertainty") && uncertainty) pen.drawImage(uncertainty, 0, 0, shown.width, shown.height);
  if (isOn("fill")) fill(paths.mask, COLOURS.mask, find("[data-name=opacity]").value / 100);
  if (isOn("corrections")) {
    difference(paths.mask, paths.initial, COLOURS.added);
    difference(paths.initial, paths.mask, COLOURS.removed);
  }
  if (isOn("reference")) stroke(paths.reference, COLOURS.reference, 2);
  if (isOn("initial")) stroke(paths.initial, COLOURS.initial, 2, [6, 5]);
  if (isOn("outline")) stroke(paths.mask, COLOURS.mask, 2);
  if (isOn("axes")) for (const line of shown.axes || []) axis(line);
  preview();
  prompts();
}

function fill(path, colour, alpha) {
  pen.globalAlpha = alpha;
  pen.fillStyle = colour;
  pen.fill(path, "evenodd");
  pen.globalAlpha = 1;
}

function difference(path, without, colour) {
  const rest = new Path2D();
  rest.rect(-1, -1, shown.width + 2, shown.height + 2);
  rest.addPath(without);
  pen.save();
  pen.clip(path, "evenodd");
  fill(rest, colour, 0.85);
  pen.restore();
}

function stroke(path, colour, width, dashes = []) {
  pen.lineJoin = pen.lineCap = "round";
  pen.setLineDash(dashes.map(dash => dash / view.scale));
  for (const [tone, wide] of [["#000a", width + 1.5], [colour, width]]) {  // a dark rim shows on bright tissue, too
    pen.strokeStyle = tone;
    pen.lineWidth = wide / view.scale;
    pen.stroke(path);
  }
  pen.setLineDash([]);
}

function segment([from, to]) {
  const path = new Path2D();
  path.moveTo(...from);
  path.lineTo(...to);
  return path;
}

function axis({line, text}) {
  stroke(segment(line), "#ffffff", 1.2);
  if (text) label(text, line[0][0] > line[1][0] ? line[0] : line[1]);
}

function label(text, [x, y]) {
  pen.save();
  pen.translate(x, y);
  pen.scale(1 / view.scale, 1 / view.scale);
  pen.font = "600 12px system-ui, sans-serif";
  pen.lineWidth = 3;
  pen.strokeStyle = "#000c";
  pen.fillStyle = "#fff";
  const room = canvas.clientWidth - (view.x + x * view.scale) - pen.measureText(text).width;
  pen.strokeText(text, Math.min(6, room - 6), 4);
  pen.fillText(text, Math.min(6, room - 6), 4);
  pen.restore();
}

function sign([x, y], text, colour) {
  const size = 8 / view.scale, arm = 4.5 / view.scale;
  pen.beginPath();
  pen.arc(x, y, size, 0, 7);
  pen.fillStyle = colour;
  pen.fill();
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.6 / view.scale;
  pen.stroke();
  pen.stroke(segment([[x - arm, y], [x + arm, y]]));
  if (text === "+") pen.stroke(segment([[x, y - arm], [x, y + arm]]));
}

function rectangle([x1, y1, x2, y2], dashes = []) {
  const path = new Path2D();
  path.rect(x1, y1, x2 - x1, y2 - y1);
  stroke(path, "#ffffff", 2, dashes);
}

function prompts() {
  const {points, labels, box} = said();
  if (box) rectangle(box);
  points.forEach((at, index) => sign(at, labels[index] ? "+" : "-", labels[index] ? COLOURS.added : COLOURS.removed));
}

function preview() {
  const open = said().strokes.slice((shown.guidance?.strokes || []).length);
  if (gesture?.kind === "stroke") open.push({path: gesture.path, radius: Number(find("[data-name=radius]").value), erase: tool === "eraser"});
  for (const {path, radius, erase} of open) {
    pen.lineJoin = pen.lineCap = "round";
    pen.strokeStyle = erase ? "#e6610088" : "#ffc20a88";
    pen.lineWidth = 2 * radius;
    pen.stroke(path.length > 1 ? path.slice(1).reduce((line, at) => (line.lineTo(...at), line), segment([path[0], path[0]])) : segment([path[0], path[0]]));
  }
  if (gesture?.kind === "box") rectangle([...gesture.from, ...gesture.to], [6, 5]);
  const line = gesture?.kind === "line" ? [gesture.from, gesture.to] : ruler;
  if (line && tool === "scale") stroke(segment(line), "#7cf29c", 2);
  if (!cursor) return;
  if (tool === "brush" || tool === "eraser") {
    const ring = new Path2D();
    ring.arc(...cursor, Number(find("[data-name=radius]").value), 0, 7);
    stroke(ring, "#ffffff", 1);
  } else if (root.classList.contains("by-keys")) {
    const [x, y] = cursor, arm = 12 / view.scale;
    stroke(segment([[x - arm, y], [x + arm, y]]), "#ffffff", 1.5);
    stroke(segment([[x, y - arm], [x, y + arm]]), "#ffffff", 1.5);
  }
}
