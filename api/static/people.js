// @ts-check
// Who is in a video: the people that an analysis found, with their pictures.
/** @import { Analysis, Person } from "#types" */
/** @import { Api } from "./api.js" */

import { announce, h } from "./elements.js";
import { isOver } from "./events.js";
import { percent, seconds } from "./format.js";
import { problemBox } from "./notices.js";

const WAIT_S = 20;

/**
 * The people of a finished analysis. onPick: makes each a button.
 * @param {Api} api
 * @param {string} id of the job
 * @param {Analysis} analysis
 * @param {(person: Person) => void} [onPick]
 */
export async function listPeople(api, id, analysis, onPick) {
  const pictures = await Promise.all(analysis.people.map(({ track }) => api.portrait(id, track)));
  const items = analysis.people.map((person, number) => {
    const picture = h("img", { src: URL.createObjectURL(pictures[number]), alt: `Face of ${nameOf(person)}` });
    picture.addEventListener("load", () => URL.revokeObjectURL(picture.src), { once: true });
    const spoken = person.speaking_s ? `, speaks ${seconds(person.speaking_s)}` : "";
    const facts = h("small", {}, `seen ${percent(person.visibility)}${spoken}`);
    const text = h("span", {}, h("strong", {}, nameOf(person)), facts);
    if (!onPick) return h("li", {}, picture, text);
    const button = h("button", { type: "button", class: "person", "aria-pressed": "false" }, picture, text);
    button.addEventListener("click", () => {
      for (const each of list.querySelectorAll("button")) each.setAttribute("aria-pressed", String(each === button));
      onPick(person);
    });
    return h("li", {}, button);
  });
  const list = h("ul", { class: "people" }, items);
  return list;
}

/** person_2 -> Person 2 @param {Pick<Person, "track">} person */
export const nameOf = ({ track }) => track.replace("person_", "Person ");

/**
 * A button that looks for the people in the chosen video, and then the people to click on.
 * @param {object} options
 * @param {Api} options.api
 * @param {AbortSignal} options.signal
 * @param {{ read: () => import("#types").Source | null, showError: (text: string) => void }} options.source
 * @param {(people: Person[]) => void} options.onFound
 * @param {(person: Person) => string} options.onPick returns what was done with the choice
 */
export function buildPeople({ api, signal, source, onFound, onPick }) {
  const button = h("button", { type: "button", class: "quiet small" }, "Find the people in it");
  const note = h("p", { class: "fine", role: "status" });
  const found = h("div", {});
  const element = h("div", { class: "people-finder" }, h("div", { class: "row" }, button, note), found);
  // Another video, or another search, makes the answer to this one worthless.
  let search = 0;

  const find = async () => {
    const video = source.read();
    source.showError(video ? "" : "Choose a video or a picture first.");
    if (!video) return;
    search += 1;
    const mine = search;
    const isStale = () => mine !== search || signal.aborted;
    found.replaceChildren();
    button.disabled = true;
    note.textContent = "Sending …";
    try {
      let job = await api.analyze(video, signal);
      while (!isOver(job.status) && !isStale()) {
        note.textContent = job.status === "queued" ? "Waiting for a worker …" : `Looking, ${percent(job.progress)} …`;
        job = await api.job(`${job.id}?wait=${WAIT_S}`, { signal });
      }
      if (isStale()) return;
      if (job.status !== "succeeded") throw new Error(job.error?.message ?? `The analysis is ${job.status}.`);
      const analysis = await api.analysis(job.id);
      const list = await listPeople(api, job.id, analysis, (person) => {
        announce(note.textContent = onPick(person));
      });
      if (isStale()) return;
      found.replaceChildren(list);
      note.textContent = analysis.people.length ? "Click on the one whose lips are to be drawn." : "No face was found.";
      onFound(analysis.people);
    } catch (fault) {
      if (isStale()) return;
      note.textContent = "";
      found.replaceChildren(problemBox(fault));
    } finally {
      if (mine === search) button.disabled = false;
    }
  };
  button.addEventListener("click", find);
  return {
    element,
    /** Of another video. */
    clear() {
      search += 1;
      found.replaceChildren();
      note.textContent = "";
      button.disabled = false;
      onFound([]);
    },
  };
}
