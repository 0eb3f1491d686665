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
let newest = 0; // number of the latest wish; values of older ones may still arrive
let series = 0; // number of the wish whose maps are shown
let shown = 0;
function show() {
  const { number = 0, keep, title, tiles, line, wrong, share } = props.value || {};
  if (number < newest) return;
  newest = number;
  if (keep) {
    find(".going").hidden = true;
    find(".line").textContent = line;
    return;
  }
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
