// Small multiples, which come one by one.
const find = (selector) => element.querySelector(selector);

function tile({ name, note, url }) {
  const [figure, image, caption, small] = ["figure", "img", "figcaption", "small"].map((tag) =>
    document.createElement(tag)
  );
  image.alt = `Map of ${name}`;
  if (url) image.src = url;
  else image.hidden = true;
  caption.textContent = name;
  small.textContent = note;
  figure.append(image, caption, small);
  return figure;
}

find(".going button").addEventListener("click", () => trigger("cancel", {}));
let shown = 0;
let series = null;
let stopped = null;
function show() {
  if (props.value && props.value.keep) {
    stopped = series || null;
    find(".going").hidden = true;
    if (!find("section").hidden) find(".line").textContent = props.value.line;
    return;
  }
  const { title, tiles, line, wrong, share, number } = props.value || {};
  // The end of a stream repeats its last value, maybe after what came in its place.
  if (number < series || number === stopped) return;
  const box = find(".sheet");
  if (number !== series) {
    series = number;
    shown = 0;
    box.replaceChildren();
  }
  (tiles || []).slice(shown).forEach((one) => box.append(tile(one)));
  shown = (tiles || []).length;
  find("section").hidden = !title;
  find("h2").textContent = title || "";
  find(".line").textContent = line || "";
  find(".line").classList.toggle("wrong", Boolean(wrong));
  find(".going").hidden = share === null || share === undefined;
  find("progress").value = share || 0;
}
watch("value", show);
show();
