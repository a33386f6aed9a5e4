// Calls to the service. Every refusal becomes a Problem that says what happened and what to do.

export class Problem extends Error {
  constructor(document, status) {
    super(document.detail || document.title || `The service answered ${status}.`);
    this.status = status;
    this.title = document.title || "The service refused";
    this.code = document.code || "";
    this.advice = document.advice || "";
    this.requestId = document.request_id || "";
    this.errors = document.errors || [];
  }

  static async of(response) {
    const document = await response.json().catch(() => ({}));
    return new Problem(document, response.status);
  }

  static unreachable() {
    const document = {
      title: "The service does not answer",
      detail: "The connection broke, or nothing listens there.",
      advice: "Check that it runs, then try again.",
    };
    return new Problem(document, 0);
  }

  get isAboutKey() {
    return this.status === 401;
  }
}

export class Api {
  constructor(keyring) {
    this.keyring = keyring;
  }

  // Relative to the page, so that the console also works below a path of a proxy.
  static address(path) {
    return new URL(path.replace(/^\//, ""), document.baseURI).href;
  }

  // A Response with a good status. Throws Problem; AbortError when the signal fires.
  async call(path, { headers = {}, ...options } = {}) {
    for (;;) {
      const key = this.keyring.key;
      const response = await fetch(Api.address(path), { ...options, headers: { ...headers, ...this.keyring.headers } })
        .catch((fault) => {
          throw fault.name === "AbortError" ? fault : Problem.unreachable();
        });
      if (response.ok) return response;
      const problem = await Problem.of(response);
      if (!problem.isAboutKey || !(await this.askForKey(problem, key))) throw problem;
    }
  }

  // True when there is a key now that the refused call did not have.
  async askForKey(problem, refused) {
    if (this.keyring.key !== refused) return true;
    return Boolean(await this.keyring.ask(`${problem.message} ${problem.advice}`.trim()));
  }

  async json(path, options) {
    const response = await this.call(path, options);
    return response.status === 204 ? null : response.json();
  }

  offer = () => this.json("engines");
  document = () => this.json("openapi.json");
  job = (id, options) => this.json(`jobs/${id}`, options);
  jobs = (query, options) => this.json(`jobs?${new URLSearchParams(query)}`, options);
  remove = (id) => this.json(`jobs/${id}`, { method: "DELETE" });
  redeliver = (id) => this.json(`jobs/${id}/webhook/redeliver`, { method: "POST" });
  evaluation = (id) => this.json(`jobs/${id}/evaluation`);
  media = (id) => this.json(`jobs/${id}/media`);
}
