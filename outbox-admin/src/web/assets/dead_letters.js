// The view of dead letters. They are loaded on request: to list messages of a queue, they are
// received, which hides them from others for a moment.

import { get, post } from "./client.js";
import { byId, el } from "./dom.js";

const ACTIONS = {
  redrive: {
    title: "Redrive this message?",
    text: ({ source_queue: queue }) => `It is sent to ${queue ?? "its queue"} again, with its trace, and deleted here.`,
    yes: "Redrive",
    done: "The message was redriven",
  },
  discard: {
    title: "Discard this message?",
    text: () => "It is deleted for good. An event that a relay published stays in the outbox table.",
    yes: "Discard",
    done: "The message was discarded",
  },
};

const dialog = byId("dialog");

/** The loaded dead letters: `items` are `null` while they are loading. */
export class DeadLetters {
  #content = { items: null };

  /** Calls `onChange` when the content has changed, and `onDone` with a sentence after an action. */
  constructor({ onChange, onDone }) {
    this.onChange = onChange;
    this.onDone = onDone;
  }

  get content() {
    return this.#content;
  }

  async load() {
    this.#content = { items: null };
    try {
      const { messages, truncated, without } = await get("/api/dead-letters");
      const notes = without.map((queue) => `Queue \`${queue}\` has no dead-letter queue.`);
      if (truncated) notes.push("Only some of the messages are shown.");
      this.#content = {
        // An item with an `aggregate_id` would be a row that opens an event.
        items: messages.map(({ aggregate_id: aggregate, ...letter }) => ({ ...letter, aggregate, key: letter.message_id })),
        problem: notes.join(" ") || undefined,
      };
    } catch (error) {
      this.#content = { items: [], problem: error.message };
    }
    this.onChange();
  }

  /** Asks for confirmation, and then acts on the message of this id. */
  confirm(action, id) {
    const letter = this.#content.items?.find(({ message_id: known }) => known === id);
    if (letter === undefined || dialog.open) return;
    const { title, text, yes, done } = ACTIONS[action];
    const button = byId("dialog-yes");
    byId("dialog-title").textContent = title;
    byId("dialog-text").textContent = text(letter);
    byId("dialog-error").textContent = "";
    byId("dialog-reason-row").hidden = true;
    byId("dialog-reason").required = false;
    button.textContent = yes;
    button.classList.toggle("danger", action === "discard");
    dialog.querySelector("form").onsubmit = async (submit) => {
      submit.preventDefault();
      button.disabled = true;
      try {
        const { problems } = await post(`/api/dead-letters/${action}`, { message_id: id });
        dialog.close();
        this.onDone(problems[0] ?? done);
        await this.load();
      } catch (error) {
        byId("dialog-error").textContent = error.message;
      } finally {
        button.disabled = false;
      }
    };
    dialog.showModal();
    button.focus();
  }
}

/** Creates the buttons of a row. */
export const actions = ({ message_id: id }) =>
  Object.entries(ACTIONS).map(([action, { yes }]) =>
    el("button", { type: "button", class: "quiet", "data-operate": "", "data-action": action, "data-message": id }, yes),
  );

/** Creates the link to the trace of a message. */
export const trace = ({ trace_id: id, trace_url: url }) =>
  url ? el("a", { href: url, title: id, target: "_blank", rel: "noopener noreferrer" }, id) : (id ?? "");
