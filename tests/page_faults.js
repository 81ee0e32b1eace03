// What a visitor could not read or name: text of too little contrast, and controls without a name.
() => {
  const seen = element => element.checkVisibility({opacityProperty: true, visibilityProperty: true});
  const channel = v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const paper = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const rgba = colour => {
    paper.clearRect(0, 0, 1, 1);
    paper.fillStyle = colour;
    paper.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paper.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
  const behind = element => {
    const layers = [];
    for (let at = element; at; at = at.parentElement) layers.push(rgba(getComputedStyle(at).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const faults = [];
  const walker = document.createTreeWalker(document.querySelector("main"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, words = walker.currentNode.textContent.trim();
    const skipped = element.closest("[disabled], svg, style, script, .sr-only, footer");
    if (!words || !seen(element) || skipped) continue;
    let faint = 1;
    for (let at = element; at; at = at.parentElement) faint *= Number(getComputedStyle(at).opacity);
    const ground = behind(element), colour = rgba(getComputedStyle(element).color);
    const ink = over([...colour.slice(0, 3), colour[3] * faint], ground);
    const [bright, dark] = [light(ink), light(ground)].sort((a, b) => b - a);
    if ((bright + 0.05) / (dark + 0.05) < 4.5) faults.push(`contrast ${((bright + 0.05) / (dark + 0.05)).toFixed(2)}: ${words.slice(0, 40)}`);
  }
  for (const element of document.querySelectorAll("main :is(a, button, input, textarea, canvas, select, [role=button], [role=slider], [role=combobox], [role=radiogroup])")) {
    if (!seen(element) || element.type === "file") continue;
    const label = element.labels?.[0]?.textContent || element.closest("label")?.textContent;
    const own = element.getAttribute("aria-label") || element.getAttribute("aria-labelledby") || element.title;
    const name = own || label || element.textContent.trim() || element.querySelector("img")?.alt;
    if (!name?.trim()) faults.push(`no name: ${element.outerHTML.slice(0, 80)}`);
  }
  return faults;
}
