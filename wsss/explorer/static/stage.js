// The photograph with the predicted mask and the region, and the tools that draw on it.
// Runs once as the body of a function of (element, props, trigger, watch); Python gets pixels of the photograph.
const find = (selector) => element.querySelector(selector);
const canvas = find("canvas");
const context = canvas.getContext("2d");
const status = find(".status");
const group = `stage${Math.random().toString(36).slice(2)}`;
element.querySelectorAll('input[type="radio"]').forEach((input) => {
  input.name = `${group}-${input.dataset.role}`;
});
const chosen = (role) => find(`input[data-role="${role}"]:checked`).value;

const pictures = { photo: null, mask: null, region: null };
let stroke = null; // points of the movement that is going on, in pixels of the photograph
let cursor = null; // where the arrow keys are
let classes = "";

let seen = {}; // the last whole value; those with "keep" in them are words in between
const state = () => seen;
const scale = () => canvas.width / state().width;

function picture(name, url) {
  const old = pictures[name];
  if (old && old.address === url) return;
  if (!url) {
    pictures[name] = null;
    return;
  }
  const image = new Image();
  image.address = url;
  image.onload = () => {
    if (pictures[name] !== image) return;
    if (name === "photo") {
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      canvas.style.width = `min(100%, ${(76 * canvas.width) / canvas.height}vh)`; // all of it is seen at once
      cursor = null;
    }
    paint();
  };
  pictures[name] = image;
  image.src = url;
}

function paint() {
  const ready = (name) => pictures[name] && pictures[name].complete && pictures[name].naturalWidth;
  const layer = (name) => ready(name) && context.drawImage(pictures[name], 0, 0, canvas.width, canvas.height);
  context.clearRect(0, 0, canvas.width, canvas.height);
  layer("photo");
  if (find('[data-role="tint"]').checked) layer("mask");
  layer("region");
  (state().pixels || []).forEach(([x, y]) => ring((x + 0.5) * scale(), (y + 0.5) * scale(), 7));
  if (stroke) outline();
  if (cursor && document.activeElement === canvas) cross(cursor[0] * scale(), cursor[1] * scale());
  canvas.dataset.painted = `${ready("region") ? pictures.region.address.length : 0}`;
}

function twice(draw) {
  [["rgba(12,14,20,.85)", 4], ["#fff", 1.75]].forEach(([colour, width]) => {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    draw();
    context.stroke();
  });
}

function ring(x, y, radius) {
  twice(() => context.arc(x, y, radius, 0, 2 * Math.PI));
}

function cross(x, y) {
  twice(() => {
    context.moveTo(x - 9, y);
    context.lineTo(x + 9, y);
    context.moveTo(x, y - 9);
    context.lineTo(x, y + 9);
  });
}

function outline() {
  const points = stroke.map(([x, y]) => [x * scale(), y * scale()]);
  const [first, last] = [points[0], points[points.length - 1]];
  const follow = () => points.forEach(([x, y], at) => (at ? context.lineTo(x, y) : context.moveTo(x, y)));
  if (chosen("tool") === "rectangle") {
    twice(() => context.rect(first[0], first[1], last[0] - first[0], last[1] - first[1]));
  } else if (chosen("tool") === "brush") {
    context.lineCap = context.lineJoin = "round";
    context.strokeStyle = "rgba(255,255,255,.55)";
    context.lineWidth = 2 * radius() * scale();
    context.beginPath();
    follow();
    context.lineTo(last[0] + 0.01, last[1]);
    context.stroke();
  } else {
    twice(follow);
  }
}

// The slider is in hundredths of a tenth of the shorter side, so that it means the same on any photograph.
const radius = () => (Number(find('[data-role="radius"]').value) / 400) * Math.min(state().width, state().height);

function place(event) {
  const box = canvas.getBoundingClientRect();
  const within = (value, most) => Math.min(Math.max(value, 0), most - 0.001);
  return [
    within(((event.clientX - box.left) / box.width) * state().width, state().width),
    within(((event.clientY - box.top) / box.height) * state().height, state().height),
  ];
}

function finish() {
  if (!stroke) return;
  const points = stroke.map(([x, y]) => [Math.round(x * 100) / 100, Math.round(y * 100) / 100]);
  const tool = chosen("tool");
  stroke = null;
  paint();
  trigger("draw", { tool, mode: chosen("mode"), points: points.slice(0, 20000), radius: Math.max(radius(), 0.5) });
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state().photo || !state().segments || event.button) return;
  canvas.focus({ preventScroll: true });
  event.preventDefault();
  canvas.setPointerCapture(event.pointerId);
  cursor = null;
  stroke = [place(event)];
  if (chosen("tool") === "point") finish();
  else paint();
});
canvas.addEventListener("pointermove", (event) => {
  if (!stroke || !canvas.hasPointerCapture(event.pointerId)) return;
  const point = place(event);
  stroke = chosen("tool") === "rectangle" ? [stroke[0], point] : [...stroke, point];
  paint();
});
canvas.addEventListener("pointerup", finish);
canvas.addEventListener("pointercancel", () => {
  stroke = null;
  paint();
});
canvas.addEventListener("blur", paint);
canvas.addEventListener("focus", paint);
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const { width, height, photo, segments } = state();
  if (!photo || !segments) return;
  cursor = cursor || [width / 2, height / 2];
  if (event.key in steps) {
    const far = event.shiftKey ? 1 : Math.max(width, height) / 50;
    cursor = [
      Math.min(Math.max(cursor[0] + steps[event.key][0] * far, 0), width - 0.001),
      Math.min(Math.max(cursor[1] + steps[event.key][1] * far, 0), height - 0.001),
    ];
    if (stroke) stroke = chosen("tool") === "rectangle" ? [stroke[0], cursor] : [...stroke, cursor];
  } else if (event.key === "Enter" || event.key === " ") {
    if (stroke) finish();
    else {
      stroke = [cursor];
      if (chosen("tool") === "point") finish();
    }
  } else if (event.key === "Escape") {
    stroke = null;
  } else return;
  event.preventDefault();
  paint();
});

// A photograph comes from the disk, by drag and drop, or is one of the examples.
function say(line) {
  status.textContent = line;
  status.classList.add("wrong");
}

function send(file) {
  if (!file) return;
  const most = props.largest;
  if (file.size > most) {
    say(`The file has ${(file.size / 1e6).toFixed(0)} MB; at most ${(most / 1e6).toFixed(0)} MB are taken.`);
    return;
  }
  const reader = new FileReader();
  reader.onload = () => trigger("photo", { name: file.name, data: reader.result.split(",")[1] || "" });
  reader.onerror = () => say("The file cannot be read.");
  reader.readAsDataURL(file);
}
find('input[type="file"]').addEventListener("change", (event) => {
  send(event.target.files[0]);
  event.target.value = "";
});
const frame = find(".canvas");
["dragover", "dragleave", "drop"].forEach((name) =>
  frame.addEventListener(name, (event) => {
    event.preventDefault();
    frame.classList.toggle("over", name === "dragover");
    if (name === "drop") send(event.dataTransfer.files[0]);
  })
);
(props.examples || []).forEach(({ name, url }, index) => {
  const button = document.createElement("button");
  const image = document.createElement("img");
  button.type = "button";
  button.title = name;
  image.alt = `Example: ${name}`;
  image.src = url;
  button.append(image);
  button.addEventListener("click", () => trigger("example", { index }));
  find(".examples").append(button);
});

function listClasses() {
  const listed = JSON.stringify([state().classes, state().shown]);
  if (listed === classes) return;
  classes = listed;
  const box = find(".classes");
  box.replaceChildren(
    ...(state().classes || []).map(({ index, name, colour, share, text }) => {
      const button = document.createElement("button");
      const [swatch, label, value, bar] = ["i", "span", "b", "em"].map((tag) => document.createElement(tag));
      button.type = "button";
      button.dataset.index = index;
      button.setAttribute("aria-pressed", state().shown === index);
      swatch.style.background = colour;
      label.textContent = name;
      value.textContent = text;
      bar.style.width = `${100 * share}%`;
      bar.style.background = colour;
      button.append(swatch, label, value, bar);
      button.addEventListener("click", () => trigger("pick", { index, mode: chosen("mode") }));
      return button;
    })
  );
}

find('[data-role="tint"]').addEventListener("change", paint);
find('[data-role="whole"]').addEventListener("click", () => trigger("whole", {}));
element.addEventListener("change", (event) => {
  if (event.target.dataset.role === "tool") find(".size").hidden = chosen("tool") !== "brush";
});

let newest = 0; // values may arrive after later ones
function show() {
  const value = props.value || {};
  const { number = 0 } = value;
  if (number < newest) return;
  newest = number;
  if (value.keep) {
    status.textContent = value.line;
    return;
  }
  seen = value;
  const { photo, mask, region, segments, line, wrong, alt } = state();
  ["photo", "mask", "region"].forEach((name) => picture(name, { photo, mask, region }[name]));
  element.classList.toggle("empty", !photo);
  [".tools", ".below"].forEach((part) => (find(part).hidden = !segments));
  status.textContent = line || "";
  status.classList.toggle("wrong", Boolean(wrong));
  canvas.setAttribute("aria-description", alt || "");
  listClasses();
  paint();
}
watch("value", show);
show();
