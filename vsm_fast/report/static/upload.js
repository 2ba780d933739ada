// Upload form of vsm-fast serve: sends images and shows their scores like a report.

function prepareUpload(report) {
  const form = byId("upload");
  const button = form.querySelector("button");
  const inputs = [...form.querySelectorAll("input")];
  const limits = Object.fromEntries(Object.entries(form.dataset).map(([k, v]) => [k, Number(v)]));

  const say = (text, problem = false) => {
    byId("upload-said").textContent = text;
    byId("upload-said").classList.toggle("problem", problem);
  };

  const check = () => {
    const files = inputs.flatMap((input) => [...input.files]);
    const big = files.find((file) => file.size > limits.fileBytes);
    let problem = "";
    if (big) problem = `${big.name} is larger than ${limits.fileBytes / 2 ** 20} MiB.`;
    else if (files.length > limits.files) problem = `At most ${limits.files} files at a time.`;
    else if (inputs[0].files.length > limits.references) {
      problem = `At most ${limits.references} references, masks included.`;
    } else if (files.reduce((sum, file) => sum + file.size, 0) > limits.allBytes) {
      problem = `At most ${limits.allBytes / 2 ** 20} MiB at a time.`;
    }
    say(problem, problem !== "");
    button.disabled = problem !== "" || inputs.some((input) => !input.files.length);
  };

  for (const input of inputs) {
    const drop = input.closest(".drop");
    const changed = () => {
      const names = [...input.files].map((file) => file.name);
      const more = names.length > 3 ? ` and ${names.length - 3} more` : "";
      drop.querySelector(".chosen-files").textContent = names.slice(0, 3).join(", ") + more
        || "Drop images here, or click to select";
      check();
    };
    input.addEventListener("change", changed);
    drop.addEventListener("drop", (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (!event.dataTransfer.files.length) return;
      input.files = event.dataTransfer.files;
      changed();
    });
    drop.addEventListener("dragover", (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  }
  // A file dropped outside the fields must not replace the page.
  for (const kind of ["dragover", "drop"]) {
    addEventListener(kind, (event) => event.preventDefault());
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    say("Scoring …");
    try {
      await scoreForm(report, new FormData(form));
      say("");
    } catch (error) {
      say(error.message, true);
    }
    button.disabled = false;
  });
}

async function scoreForm(report, body) {
  const answer = await fetch("score", { method: "POST", body }).catch(() => {
    throw new Error("The server did not answer. Check that it is running.");
  });
  if (!answer.ok) throw new Error(await answer.text());
  const { header, stream, images, head } = await answer.json();
  const dataset = await Dataset.open(header, stream, (place) => images[place]);
  report.dataset.close();
  report.setDataset(dataset);
  byId("head").replaceChildren(...head.map(([name, value]) =>
    make("div", {}, make("dt", {}, name), make("dd", {}, value))));
  byId("results").scrollIntoView({ block: "start" });
}
