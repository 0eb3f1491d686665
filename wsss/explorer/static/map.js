// A map over the photograph. The colours lie above it as a picture of their own, so that the slider needs no server.
const find = (selector) => element.querySelector(selector);
const slider = find(".opacity input");
const blend = () => (find(".over").style.opacity = Number(slider.value) / 100);
slider.addEventListener("input", blend);
find(".busy button").addEventListener("click", () => trigger("cancel", {}));
element.querySelectorAll("[data-what]").forEach((button) =>
  button.addEventListener("click", () =>
    trigger("download", { what: button.dataset.what, opacity: Number(slider.value) / 100 })
  )
);

function put(selector, url, alt) {
  const image = find(selector);
  if (url) image.src = url;
  else image.removeAttribute("src");
  image.alt = alt || "";
}

function wait({ busy, share }) {
  find(".busy").hidden = !busy;
  find(".busy span").textContent = busy || "";
  const progress = find("progress");
  if (share === null || share === undefined) progress.removeAttribute("value");
  else progress.value = share;
  find(".map").setAttribute("aria-busy", Boolean(busy));
}

let newest = 0; // number of the latest wish; values of older ones may still arrive
function show() {
  const value = props.value || {};
  const { number = 0, under, over, edge, low, high, middle, ramp, line, wrong, alt } = value;
  if (number < newest) return;
  newest = number;
  wait(value);
  if (value.keep) return;
  find(".map").dataset.number = over ? number : 0;
  put(".under", under, "");
  put(".over", over, alt);
  put(".edge", edge, "");
  find(".blank").hidden = Boolean(over);
  find(".scale").hidden = !over;
  find(".bar").hidden = !over;
  find(".low").textContent = low || "";
  find(".high").textContent = high || "";
  find(".ramp").style.background = ramp || "";
  find(".ramp").dataset.middle = middle || "";
  find(".ramp").setAttribute("aria-label", over ? `Colours from ${low} to ${high}` : "");
  find("figcaption").textContent = line || "";
  find("figcaption").classList.toggle("wrong", Boolean(wrong));
  blend();
}
find(".under").addEventListener("load", ({ target }) => {
  find(".frame").style.maxWidth = `${(76 * target.naturalWidth) / target.naturalHeight}vh`;
});
watch("value", show);
show();
