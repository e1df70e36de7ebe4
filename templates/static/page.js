const form = document.querySelector("form");
const [task, phase, bar, log] = ["task", "phase", "bar", "log"].map(id => document.getElementById(id));

function show(text, ratio) {
  phase.textContent = text;
  bar.value = ratio;
}

form.addEventListener("submit", event => {
  event.preventDefault();
  task.hidden = false;
  log.textContent = "";
  const request = new XMLHttpRequest();
  request.open("POST", form.action + "?verbose=1");
  request.upload.onprogress = event => show("Uploading", event.loaded / event.total);
  request.onprogress = request.onload = () => {
    log.textContent = request.responseText;
    const lines = request.responseText.split("\n").slice(0, -1);
    if (!lines.length) return;
    const { status, message } = JSON.parse(lines.at(-1));
    const { error, hint } = message.details;
    show(status === 200 ? message.action : [message.action, error, hint].filter(Boolean).join(" "),
         message.progress);
  };
  request.onerror = () => show("The connection was lost.", 0);
  request.send(new FormData(form));
});
