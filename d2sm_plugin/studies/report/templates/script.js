
"use strict";
document.documentElement.classList.add("js");
for (const slider of document.querySelectorAll(".slider")) {
  const stage = slider.querySelector(".stage");
  const place = slider.querySelector(".place");
  const layers = [...slider.querySelectorAll(".layer")];
  const [left, right] = [".left", ".right"].map((name) => slider.querySelector(name));
  const show = () => {
    layers.forEach((layer, number) => {
      layer.classList.toggle("on-left", number === left.selectedIndex);
      layer.classList.toggle("on-right", number === right.selectedIndex);
    });
    stage.style.setProperty("--place", `${place.value}%`);
    place.setAttribute("aria-valuetext", `${place.value} % ${left.value}, ${100 - place.value} % ${right.value}`);
  };
  const follow = (event) => {
    const box = stage.getBoundingClientRect();
    place.value = Math.round(100 * Math.min(1, Math.max(0, (event.clientX - box.left) / box.width)));
    show();
  };
  for (const control of [place, left, right]) control.addEventListener("input", show);
  stage.addEventListener("pointerdown", (event) => {
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    follow(event);
  });
  stage.addEventListener("pointermove", (event) => {
    if (stage.hasPointerCapture(event.pointerId)) follow(event);
  });
  show();
}
