// Requests to the service that this page came from.

const KEY = "retriever-api-key";

export class ServiceError extends Error {
  constructor(status, body) {
    super(body?.error?.message ?? `The service answered ${status}.`);
    this.status = status;
    this.code = body?.error?.code ?? "";
    this.requestId = body?.request_id ?? "";
  }
}

export const keepKey = (key) => sessionStorage.setItem(KEY, key);

function send(path, options = {}) {
  const headers = { ...options.headers };
  const key = sessionStorage.getItem(KEY);
  if (key) headers["Authorization"] = `Bearer ${key}`;
  return fetch(path, { ...options, headers });
}

export async function ask(path, body, signal) {
  const options = { signal };
  if (body) {
    options.method = "POST";
    options.headers = { "Content-Type": "application/json" };
    options.body = JSON.stringify(body);
  }
  const response = await send(path, options);
  const answer = await response.json().catch(() => null);
  if (!response.ok || answer === null) throw new ServiceError(response.status, answer);
  return answer;
}

export async function askText(path) {
  const response = await send(path);
  if (!response.ok) throw new ServiceError(response.status, await response.json().catch(() => null));
  return response.text();
}

export function said(error) {
  if (!(error instanceof ServiceError)) {
    return {
      title: "The service cannot be reached.",
      text: "It may have been stopped; the request can be repeated.",
      detail: "",
    };
  }
  const request = error.requestId && `request ${error.requestId}`;
  const detail = [`${error.status} ${error.code}`, request].filter(Boolean).join("  ·  ");
  return { title: titleOf(error.status), text: error.message, detail };
}

function titleOf(status) {
  if (status === 429) return "The service is busy.";
  if (status === 503) return "The service is not ready.";
  return status < 500 ? "The request was refused." : "The request failed.";
}
