// What Gradio leaves out: words for those who do not see, keys for those without a mouse, boxes drawn by dragging.
(() => {
  const DRAG_PX = 6;

  function describe() {
    document.querySelectorAll("#samples button").forEach((button, index) => {
      const picture = button.querySelector("img");
      if (picture) picture.alt = `Sample ${index + 1}`;
    });
    document.querySelectorAll("#before-after .content img").forEach((picture, index) => {
      picture.alt = `The lesion ${["before", "after"][index]} correction`;
    });
    for (const picture of document.querySelectorAll("img:not([alt]), img[alt='']")) {
      const label = picture.closest(".block")?.querySelector("[data-testid=block-label]");
      const words = picture.closest("button")?.getAttribute("aria-label") || label?.textContent.trim();
      if (words) picture.alt = words;
    }
    const handle = document.querySelector("#before-after [data-testid=slider]");
    if (handle && handle.tabIndex < 0) {
      handle.tabIndex = 0;
      handle.setAttribute("role", "slider");
      handle.setAttribute("aria-label", "Line between before and after; arrow keys move it");
      handle.setAttribute("aria-valuenow", "50");
    }
  }

  function mouse(kind, target, x, y) {
    target.dispatchEvent(new MouseEvent(kind, {view: window, bubbles: true, clientX: x, clientY: y}));
  }

  function moveHandle(event) {
    const handle = event.target.closest?.("#before-after [role=slider]");
    const step = {ArrowLeft: -20, ArrowRight: 20}[event.key];
    if (!handle || !step) return;
    event.preventDefault();
    const {left, top, width} = handle.getBoundingClientRect();
    const x = left + width / 2;
    mouse("mousedown", handle, x, top);
    mouse("mousemove", window, x + step, top);
    mouse("mouseup", window, x + step, top);
    setTimeout(() => {  // once Gradio has moved the line
      const clip = document.querySelectorAll("#before-after .content img")[1].style.clipPath;
      handle.setAttribute("aria-valuenow", parseInt(clip.split(" ").at(-1)));
    });
  }

  // Corners of the drawn box in pixels of the shown image, which may stand in a larger frame.
  function corners({image, from, to}) {
    const frame = image.getBoundingClientRect();
    const scale = Math.min(frame.width / image.naturalWidth, frame.height / image.naturalHeight);
    const margins = [(frame.width - scale * image.naturalWidth) / 2, (frame.height - scale * image.naturalHeight) / 2];
    const inside = (at, start, margin, size) => Math.min(Math.max((at - start - margin) / scale, 0), size);
    return [from, to].flatMap(([x, y]) => [
      inside(x, frame.left, margins[0], image.naturalWidth),
      inside(y, frame.top, margins[1], image.naturalHeight),
    ]);
  }

  let drag = null;

  function start(event) {
    const image = event.target.closest?.("#guide img");
    const draws = image && event.pointerType !== "touch" && event.button === 0;
    drag = draws ? {image, from: [event.clientX, event.clientY], band: null} : null;
  }

  function move(event) {
    if (!drag || drag.done) return;
    drag.to = [event.clientX, event.clientY];
    const [[x1, y1], [x2, y2]] = [drag.from, drag.to];
    if (!drag.band && Math.hypot(x2 - x1, y2 - y1) < DRAG_PX) return;
    drag.band ??= document.body.appendChild(Object.assign(document.createElement("div"), {className: "rubber-band"}));
    Object.assign(drag.band.style, {
      left: `${Math.min(x1, x2)}px`,
      top: `${Math.min(y1, y2)}px`,
      width: `${Math.abs(x2 - x1)}px`,
      height: `${Math.abs(y2 - y1)}px`,
    });
  }

  function finish() {
    if (!drag?.band) {
      drag = null;
      return;
    }
    drag.band.remove();
    drag.done = true;
    document.dispatchEvent(new CustomEvent("box-drawn", {detail: {corners: corners(drag)}}));
  }

  function swallow(event) {  // the click that ends a drag is none
    if (!drag?.done) return;
    event.stopPropagation();
    drag = null;
  }

  new MutationObserver(describe).observe(document, {childList: true, subtree: true});
  document.addEventListener("keydown", moveHandle);
  document.addEventListener("pointerdown", start);
  document.addEventListener("pointermove", move);
  document.addEventListener("pointerup", finish);
  document.addEventListener("click", swallow, true);
  document.addEventListener("dragstart", event => event.target.closest?.("#guide") && event.preventDefault());
})();
