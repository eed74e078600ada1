/** A file on its way to plumd, with how far it is: fetch cannot tell, so this is an XMLHttpRequest. */
import { onScopeDispose, ref, shallowRef } from "vue";

import { Problem, problemOf } from "@/api/client";

export function useUpload(url: string, done: () => void) {
  /** The file's name while it is on its way. */
  const sending = ref("");
  /** The name of the last one. */
  const last = ref("");
  /** How much has gone out, 0 .. 1. */
  const share = ref(0);
  const problem = shallowRef<Problem | null>(null);
  let current: XMLHttpRequest | null = null;

  function end(found: Problem | null): void {
    sending.value = "";
    current = null;
    problem.value = found;
    if (found === null) done();
  }

  function send(file: File): void {
    stop();
    problem.value = null;
    share.value = 0;
    sending.value = last.value = file.name;
    const request = new XMLHttpRequest();
    current = request;
    request.upload.onprogress = (event) => {
      if (event.lengthComputable) share.value = event.loaded / event.total;
    };
    request.onload = () => {
      if (request.status < 300) return end(null);
      let body: unknown = null;
      try {
        body = JSON.parse(request.responseText);
      } catch {
        // no problem document: the status says what there is to say
      }
      end(problemOf(request.status, body));
    };
    request.onerror = () => end(new Problem(0, "unreachable", "", ""));
    request.open("POST", url);
    request.setRequestHeader("Content-Type", "application/zip");
    request.send(file);
  }

  function stop(): void {
    if (current === null) return;
    current.onerror = current.onload = null;
    current.abort();
    current = null;
    sending.value = "";
  }

  onScopeDispose(stop);
  return { sending, last, share, problem, send, stop };
}
