// @ts-check
// Cancel a live job, delete a finished one.
/** @import { Job } from "#types" */
/** @import { Api } from "./api.js" */

import { isOver } from "./events.js";
import { announce } from "./elements.js";
import { confirmLoss } from "./notices.js";

/** True if it was done; false if the user did not confirm. @param {Api} api @param {Job} job */
export async function removeJob(api, job) {
  const text = "This deletes the record, the inputs and the result. It cannot be undone.";
  if (isOver(job.status) && !(await confirmLoss("Delete this job?", text, "Delete"))) return false;
  await api.remove(job.id);
  announce(isOver(job.status) ? "The job was deleted." : "The job is being canceled.");
  return true;
}
