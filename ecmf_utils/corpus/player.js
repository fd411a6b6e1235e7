// Plays one clip. Everything arrives as a message, nothing is kept in the widget's state, so no notebook can save it.
function player(message, buffers) {
  const element = document.createElement(message.kind);
  element.controls = true;
  element.preload = "auto";
  element.src = URL.createObjectURL(new Blob(buffers, { type: message.mime }));
  return element;
}

function fact([name, value]) {
  const row = document.createElement("tr");
  for (const [tag, text] of [["th", name], ["td", value]]) {
    row.appendChild(document.createElement(tag)).textContent = text; // text, never HTML: it comes from data
  }
  return row;
}

function render({ model, el }) {
  el.classList.add("ecmf-player");
  const clear = () => {
    for (const old of el.querySelectorAll("video, audio")) URL.revokeObjectURL(old.src);
    el.replaceChildren();
  };
  const show = (message, buffers) => {
    clear();
    if (buffers.length) el.append(player(message, buffers));
    const table = document.createElement("table");
    table.append(...message.facts.map(fact));
    el.append(table);
  };
  model.on("msg:custom", show);
  show({ facts: [["", "Choose a clip to see and hear it."]] }, []);
  return () => {
    model.off("msg:custom", show);
    clear();
  };
}

export default { render };
