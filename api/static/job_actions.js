// Cancel what is live, delete what is over.

import { isOver } from "./events.js";
import { announce } from "./elements.js";
import { confirmLoss } from "./notices.js";

// True when it was done; false when the person thought better of it.
export async function removeJob(api, job) {
  const text = "The record, the inputs and the result go. This can not be undone.";
  if (isOver(job.status) && !(await confirmLoss("Delete this job?", text, "Delete"))) return false;
  await api.remove(job.id);
  announce(isOver(job.status) ? "The job was deleted." : "The job is being canceled.");
  return true;
}
