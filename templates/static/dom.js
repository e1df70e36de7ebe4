// What is in the document, and new parts of it.

export const byId = id => document.getElementById(id);

// made("p", { className: "small" }, "text", node): properties, then what is in it.
export function made(tag, properties = {}, ...content) {
  const { dataset, ...others } = properties;
  const element = Object.assign(document.createElement(tag), others);
  Object.assign(element.dataset, dataset);
  element.append(...content.filter(part => part !== null && part !== undefined && part !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
const sprite = document.documentElement.dataset.icons;

// One of the icons that app/views/assets.py lists; an ornament, which says nothing by itself.
export function icon(name, className = "") {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("class", `icon ${className}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(document.createElementNS(SVG, "use"));
  svg.firstChild.setAttribute("href", `${sprite}#${name}`);
  return svg;
}

// Shows a dialog; resolves to whether it was confirmed.
export function confirmed(dialog) {
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise(resolve => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// What hasn't changed stays as it is, so that nobody loses the button under their fingers.
export function memory() {
  let shown;
  return value => {
    const text = JSON.stringify(value);
    const isNew = text !== shown;
    shown = text;
    return isNew;
  };
}
