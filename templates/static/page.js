const form = document.querySelector("form");
const [task, phase, bar, log] = ["task", "phase", "bar", "log"].map(id => document.getElementById(id));

function show(text, ratio) {
  phase.textContent = text;
  bar.value = ratio;
}

function showLines(text) {
  log.textContent = text;
  const lines = text.split("\n").slice(0, -1);
  if (!lines.length) return;
  const { status, message } = JSON.parse(lines.at(-1));
  const { error, hint } = message.details;
  const said = status === 200 ? [message.action] : [message.action, error, hint];
  show(said.filter(Boolean).join(" "), message.progress);
}

// The API key, where the service wants one, stays in this tab.
function askForKey() {
  const key = prompt("This service wants an API key:");
  if (key) sessionStorage.setItem("key", key);
  return Boolean(key);
}

function deploy() {
  const request = new XMLHttpRequest();
  request.open("POST", form.action + "?verbose=1");
  const key = sessionStorage.getItem("key");
  if (key) request.setRequestHeader("X-API-Key", key);
  request.upload.onprogress = event => show("Uploading", event.loaded / event.total);
  request.onprogress = () => showLines(request.responseText);
  request.onload = () => {
    if (request.status === 401 && askForKey()) deploy();
    else showLines(request.responseText);
  };
  request.onerror = () => show("The connection was lost.", 0);
  request.send(new FormData(form));
}

form.addEventListener("submit", event => {
  event.preventDefault();
  task.hidden = false;
  deploy();
});
