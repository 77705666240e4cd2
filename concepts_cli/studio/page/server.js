// Calls to the server: one answer, or answers as they come.

export class Problem extends Error {
  constructor(message, hint) {
    super(message);
    this.hint = hint;
  }
}

/** The events of a call, as Gradio sends them: {event, data}. */
async function* events(name, values) {
  const address = `gradio_api/call/${name}`;
  const asked = await fetch(address, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ data: values }),
  });
  if (!asked.ok) throw new Problem("The studio does not answer.", "Is `ucd studio` still running?");
  const { event_id } = await asked.json();
  const answer = await fetch(`${address}/${event_id}`);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += value;
    const whole = text.split("\n\n");
    text = whole.pop();
    for (const lines of whole) {
      const [event, data] = lines.split("\n").map((line) => line.slice(line.indexOf(":") + 2));
      yield { event, data: JSON.parse(data || "null") };
    }
  }
}

/** Every answer of a call. Throws a Problem for a mistake. */
export async function* stream(name, ...values) {
  let streamed = false;
  for await (const { event, data } of events(name, values)) {
    if (event === "heartbeat") continue;
    if (event === "error") throw new Problem("Something went wrong in the studio.", "Its terminal says more.");
    if (event === "complete" && streamed) continue; // it repeats the last answer
    const answer = data?.[0];
    if (answer?.problem) throw new Problem(answer.problem, answer.hint);
    streamed = true;
    if (answer) yield answer;
  }
}

/** The last answer of a call. Throws a Problem for a mistake. */
export async function ask(name, ...values) {
  let last = null;
  for await (const answer of stream(name, ...values)) last = answer;
  return last;
}
