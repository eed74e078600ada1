import { mount } from "@vue/test-utils";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { defineComponent, effectScope, h, nextTick, ref } from "vue";
import type { EffectScope } from "vue";

import { Problem, take } from "@/api/client";
import type { Page } from "@/api/client";
import type * as Events from "@/api/events";
import { useForm } from "@/composables/useForm";
import type { Faults } from "@/composables/useForm";
import { useList } from "@/composables/useList";
import { useLog } from "@/composables/useLog";
import { usePreferences } from "@/composables/usePreferences";
import { useProblemText } from "@/composables/useProblemText";
import { useResource } from "@/composables/useResource";
import { i18n, loadLanguage } from "@/i18n";

/** The browser's EventSource, in the test's hands. */
class FakeSource {
  static all: FakeSource[] = [];
  onopen: (() => void) | null = null;
  onerror: (() => void) | null = null;
  closed = false;
  private listeners = new Map<string, (event: MessageEvent<string>) => void>();

  constructor(readonly url: string) {
    FakeSource.all.push(this);
  }

  static get last(): FakeSource {
    const source = FakeSource.all.at(-1);
    if (source === undefined) throw new Error("no line was opened");
    return source;
  }

  addEventListener(name: string, listener: (event: MessageEvent<string>) => void): void {
    this.listeners.set(name, listener);
  }

  close(): void {
    this.closed = true;
  }

  say(name: string, data: unknown, lastEventId = ""): void {
    this.listeners.get(name)?.(
      new MessageEvent(name, { data: JSON.stringify(data), lastEventId }),
    );
  }
}

let scope: EffectScope;
beforeEach(() => {
  vi.useFakeTimers();
  scope = effectScope();
});
afterEach(() => {
  scope.stop();
  vi.useRealTimers();
  vi.unstubAllGlobals();
  vi.restoreAllMocks();
});

function inside<T>(make: () => T): T {
  const made = scope.run(make);
  if (made === undefined) throw new Error("the scope is over");
  return made;
}

async function settle(): Promise<void> {
  await vi.advanceTimersByTimeAsync(0);
  await nextTick();
}

interface Row {
  readonly id: string;
  readonly state: string;
}

const row = (id: number, state = "a"): Row => ({ id: String(id), state });

describe("useLog", () => {
  it("shows what comes first at once, and what follows ten times a second", async () => {
    let line: ReadableStreamDefaultController<Uint8Array> | undefined;
    const body = new ReadableStream<Uint8Array>({ start: (its) => void (line = its) });
    vi.stubGlobal("fetch", () => Promise.resolve(new Response(body)));
    const say = async (text: string) => {
      line?.enqueue(new TextEncoder().encode(text));
      await settle();
    };
    const log = inside(() => useLog(() => "/log?attempt=1"));
    await say("one\ntwo\n");
    expect(log.lines.value).toEqual(["one", "two"]);
    expect(log.bytes.value).toBe(8);
    await say("three\n");
    expect(log.bytes.value).toBe(8);
    await vi.advanceTimersByTimeAsync(100);
    expect(log.bytes.value).toBe(14);
    await vi.advanceTimersByTimeAsync(1_000);
    await say("four\n");
    expect(log.bytes.value).toBe(19);
    vi.unstubAllGlobals();
  });
});

describe("useList", () => {
  it("reads page after page, each row once", async () => {
    const pages: Record<string, Page<Row>> = {
      "": { items: [row(9), row(8)], next: "8" },
      "8": { items: [row(8), row(7)], next: "" },
    };
    const list = inside(() =>
      useList<Row>({ key: (one) => one.id, fetch: (at) => Promise.resolve(pages[at] as Page<Row>) }),
    );
    await vi.advanceTimersByTimeAsync(10);
    expect(list.rows.value.map((one) => one.id)).toEqual(["9", "8", "7"]);
    expect(list.atEnd.value).toBe(true);
    await list.more();
    expect(list.rows.value).toHaveLength(3);
  });

  it("keeps what was read behind the first page when that is fetched anew", async () => {
    let first: Page<Row> = { items: [row(5), row(4)], next: "4" };
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: (at) =>
          Promise.resolve(at === "" ? first : { items: [row(3), row(2)], next: "2" }),
      }),
    );
    await settle();
    await list.more();
    first = { items: [row(6), row(5)], next: "5" };
    list.refreshSoon();
    list.refreshSoon();
    await vi.advanceTimersByTimeAsync(2_000);
    expect(list.rows.value.map((one) => one.id)).toEqual(["6", "5", "4", "3", "2"]);
  });

  it("goes on behind pages that are short, until a screen is full or the list is over", async () => {
    const asked: string[] = [];
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: (at) => {
          asked.push(at);
          return Promise.resolve(
            at === "3" ? { items: [row(1)], next: "" } : { items: [], next: String(Number(at) + 1) },
          );
        },
      }),
    );
    await vi.advanceTimersByTimeAsync(100);
    expect(asked).toEqual(["", "1", "2", "3"]);
    expect(list.rows.value).toEqual([row(1)]);
    expect(list.atEnd.value).toBe(true);
  });

  it("reads on when that was asked while the first page was read anew", async () => {
    const first = Array.from({ length: 40 }, (_, place) => row(100 - place));
    let answer = (): void => undefined;
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: (at) =>
          new Promise((resolve) => {
            answer = () => { resolve(at === "" ? { items: first, next: "c" } : { items: [row(1)], next: "" }); };
          }),
      }),
    );
    answer();
    await settle();
    void list.refresh();
    void list.more();
    answer();
    await settle();
    answer();
    await settle();
    expect(list.rows.value.at(-1)).toEqual(row(1));
    expect(list.atEnd.value).toBe(true);
  });

  it("drops rows that are no longer in a list that fits one page", async () => {
    let page: Page<Row> = { items: [row(2), row(1)], next: "" };
    const list = inside(() =>
      useList<Row>({ key: (one) => one.id, fetch: () => Promise.resolve(page) }),
    );
    await settle();
    page = { items: [row(2)], next: "" };
    await list.refresh();
    expect(list.rows.value.map((one) => one.id)).toEqual(["2"]);
  });

  it("changes one row in place", async () => {
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: () => Promise.resolve({ items: [row(2), row(1)], next: "" }),
      }),
    );
    await settle();
    expect(list.patch("1", (one) => ({ ...one, state: "b" }))).toBe(true);
    expect(list.patch("1", (one) => ({ ...one, state: `${one.state}c` }))).toBe(true);
    expect(list.patch("7", (one) => one)).toBe(false);
    await settle();
    expect(list.rows.value).toEqual([row(2), row(1, "bc")]);
  });

  it("does not let an answer that was under way undo what was heard meanwhile", async () => {
    let reply: (page: Page<Row>) => void = () => undefined;
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: () => new Promise((resolve) => (reply = resolve)),
      }),
    );
    reply({ items: [row(3), row(2), row(1)], next: "" });
    await settle();
    void list.refresh();
    list.patch("2", (one) => ({ ...one, state: "b" }));
    list.remove("1");
    reply({ items: [row(3), row(2), row(1)], next: "" });
    await settle();
    expect(list.rows.value).toEqual([row(3), row(2, "b")]);
    void list.refresh();
    reply({ items: [row(3), row(2, "c")], next: "" });
    await settle();
    expect(list.rows.value).toEqual([row(3), row(2, "c")]);
  });

  it("forgets the answer to an old question", async () => {
    const question = ref("slow");
    const answers: Record<string, (page: Page<Row>) => void> = {};
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: () => new Promise((resolve) => (answers[question.value] = resolve)),
        sources: [question],
      }),
    );
    question.value = "quick";
    await settle();
    answers["quick"]?.({ items: [row(1)], next: "" });
    await settle();
    answers["slow"]?.({ items: [row(2)], next: "" });
    await settle();
    expect(list.rows.value).toEqual([row(1)]);
  });

  it("shows a problem and keeps what it had", async () => {
    let fail = false;
    const list = inside(() =>
      useList<Row>({
        key: (one) => one.id,
        fetch: () =>
          fail
            ? Promise.reject(new Problem(503, "overloaded", "", ""))
            : Promise.resolve({ items: [row(1)], next: "" }),
      }),
    );
    await settle();
    fail = true;
    await list.refresh();
    expect(list.problem.value?.code).toBe("overloaded");
    expect(list.rows.value).toEqual([row(1)]);
  });
});

describe("useResource", () => {
  it("makes one fetch of many wishes", async () => {
    const fetch = vi.fn(() => Promise.resolve(1));
    const resource = inside(() => useResource(fetch));
    await settle();
    for (let n = 0; n < 5; n += 1) resource.refreshSoon();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(fetch).toHaveBeenCalledTimes(2);
    expect(resource.data.value).toBe(1);
  });

  it("keeps its distance between fetches that nobody waits for", async () => {
    const fetch = vi.fn(() => Promise.resolve(1));
    const resource = inside(() => useResource(fetch, [], 5_000));
    await settle();
    resource.refreshSoon();
    await vi.advanceTimersByTimeAsync(300);
    expect(fetch).toHaveBeenCalledTimes(2);
    resource.refreshSoon();
    await vi.advanceTimersByTimeAsync(4_000);
    expect(fetch).toHaveBeenCalledTimes(2);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(fetch).toHaveBeenCalledTimes(3);
  });

  it("asks nothing any more when its page is left", async () => {
    const fetch = vi.fn(() => Promise.resolve(1));
    const resource = inside(() => useResource(fetch));
    await settle();
    resource.refreshSoon();
    scope.stop();
    await vi.advanceTimersByTimeAsync(1_000);
    expect(fetch).toHaveBeenCalledTimes(1);
  });
});

describe("useForm", () => {
  it("shows no fault before one tried, and sends nothing that is wrong", async () => {
    const name = ref("");
    const send = vi.fn(() => Promise.resolve("sent"));
    const form = inside(() => useForm((): Faults => (name.value === "" ? { name: "needed" } : {}), send));
    expect(form.fault("name")).toBe("");
    expect(await form.submit()).toBeNull();
    expect(form.fault("name")).toBe("needed");
    expect(send).not.toHaveBeenCalled();
    name.value = "x";
    expect(form.fault("name")).toBe("");
    expect(await form.submit()).toBe("sent");
  });

  it("shows what plumd refused at the field that it names", async () => {
    const form = inside(() =>
      useForm(
        () => ({}),
        () => Promise.reject(new Problem(422, "invalid", "too deep", "steps[2].payload.a")),
      ),
    );
    expect(await form.submit()).toBeNull();
    expect(form.fault("steps[2].payload")).toBe("too deep");
    expect(form.fault("steps[2]")).toBe("too deep");
    expect(form.fault("steps[20]")).toBe("");
    expect(form.general(["name", "steps[2]"])).toBeNull();
    expect(form.general(["name"])?.code).toBe("invalid");
  });
});

describe("take", () => {
  it("throws what a problem document says", async () => {
    const answer = {
      response: new Response(null, { status: 409 }),
      error: { code: "exists", detail: "taken", field: "name" },
    };
    await expect(take(Promise.resolve(answer))).rejects.toMatchObject({
      status: 409,
      code: "exists",
      detail: "taken",
      field: "name",
    });
  });

  it("says when plumd cannot be reached", async () => {
    await expect(take(Promise.reject(new TypeError("failed")))).rejects.toMatchObject({
      status: 0,
      code: "unreachable",
    });
  });
});

describe("the line to the event log", () => {
  async function line(): Promise<typeof Events> {
    FakeSource.all = [];
    vi.stubGlobal("EventSource", FakeSource);
    vi.resetModules();
    const events = await import("@/api/events");
    events.connect();
    FakeSource.last.onopen?.();
    return events;
  }

  /** Look at the page, or elsewhere. */
  function look(state: "visible" | "hidden"): void {
    vi.spyOn(document, "visibilityState", "get").mockReturnValue(state);
    document.dispatchEvent(new Event("visibilitychange"));
  }

  it("is given back while nobody looks, and resumed where it was", async () => {
    const events = await line();
    FakeSource.last.say("stats", {}, "");
    FakeSource.last.say("task", { taskId: "t" }, "17");
    const first = FakeSource.last;
    look("hidden");
    vi.advanceTimersByTime(2_900);
    expect(first.closed).toBe(false);
    look("visible"); // only a glance elsewhere
    vi.advanceTimersByTime(4_000);
    expect(FakeSource.last).toBe(first);
    first.say("stats", {}, "");
    look("hidden");
    vi.advanceTimersByTime(3_100);
    expect(first.closed).toBe(true);
    expect(events.linkState.value).toBe("connecting");
    globalThis.dispatchEvent(new Event("online"));
    expect(FakeSource.last).toBe(first);
    look("visible");
    expect(FakeSource.last).not.toBe(first);
    expect(FakeSource.last.url).toContain("lastEventId=17");
    FakeSource.last.onopen?.();
    FakeSource.last.say("stats", {}, "");
    expect(events.linkState.value).toBe("live");
  });

  it("is not opened by a tab that opens unseen", async () => {
    FakeSource.all = [];
    vi.stubGlobal("EventSource", FakeSource);
    vi.resetModules();
    look("hidden");
    const events = await import("@/api/events");
    events.connect();
    expect(FakeSource.all).toHaveLength(0);
    look("visible");
    expect(FakeSource.all).toHaveLength(1);
  });

  it("has everything fetched anew once, when it first stands", async () => {
    FakeSource.all = [];
    vi.stubGlobal("EventSource", FakeSource);
    vi.resetModules();
    const events = await import("@/api/events");
    const gap = vi.fn();
    events.listen("gap", gap);
    events.connect();
    FakeSource.last.onopen?.();
    expect(gap).toHaveBeenCalledTimes(1);
    expect(events.linkState.value).toBe("live");
  });

  it("has everything fetched anew when it was cut before any event had a number", async () => {
    const events = await line();
    const gap = vi.fn();
    events.listen("gap", gap);
    FakeSource.last.onerror?.();
    await vi.advanceTimersByTimeAsync(500);
    FakeSource.last.onopen?.();
    expect(gap).toHaveBeenCalledTimes(1);
  });

  it("resumes where it was cut, and is live when figures come again", async () => {
    const events = await line();
    FakeSource.last.say("task", { taskId: "1" }, "41");
    const first = FakeSource.last;
    first.onerror?.();
    expect(first.closed).toBe(true);
    expect(events.linkState.value).toBe("lost");
    await vi.advanceTimersByTimeAsync(500);
    expect(FakeSource.last).not.toBe(first);
    expect(FakeSource.last.url).toContain("lastEventId=41");
    FakeSource.last.onopen?.();
    expect(events.linkState.value).toBe("lost");
    FakeSource.last.say("stats", { at: 1 });
    expect(events.linkState.value).toBe("live");
    expect(events.linkLostAt.value).toBe(0);
  });

  it("tells everybody to fetch anew after a gap", async () => {
    const events = await line();
    const gap = vi.fn();
    events.listen("gap", gap);
    FakeSource.last.say("gap", {}, "9");
    await settle();
    expect(gap).toHaveBeenCalledTimes(1);
  });

  it("notices that nothing is heard any more", async () => {
    const events = await line();
    const first = FakeSource.last;
    await vi.advanceTimersByTimeAsync(10_000);
    expect(first.closed).toBe(true);
    expect(FakeSource.all.length).toBeGreaterThan(1);
    expect(events.linkState.value).toBe("lost");
  });

  it("stops telling whoever has left", async () => {
    const events = await line();
    const heard = vi.fn();
    const stop = events.listen("task", heard);
    FakeSource.last.say("task", { taskId: "1" });
    await settle();
    stop();
    FakeSource.last.say("task", { taskId: "2" });
    await settle();
    expect(heard).toHaveBeenCalledTimes(1);
  });

  it("tells together what comes together, in order", async () => {
    const events = await line();
    let turns = 0;
    const heard: string[] = [];
    events.listen("task", (news) => {
      if (heard.length === 0) queueMicrotask(() => (turns = heard.length));
      heard.push(news.taskId);
    });
    for (const taskId of ["1", "2", "3"]) {
      FakeSource.last.say("task", { taskId });
      await Promise.resolve(); // as browsers do between two events
    }
    await settle();
    expect(heard).toEqual(["1", "2", "3"]);
    expect(turns).toBe(3);
  });
});

describe("what went wrong", () => {
  const { language } = usePreferences();
  const before = language.value;
  afterEach(async () => {
    language.value = before;
    await loadLanguage();
  });

  it("is said by its code, with the message where that says more", async () => {
    language.value = "zh";
    await loadLanguage();
    let said: ReturnType<typeof useProblemText> | null = null;
    const Asks = defineComponent(() => {
      said = useProblemText();
      return () => h("p");
    });
    mount(Asks, { global: { plugins: [i18n] } });
    const text = (code: string, message: string) => said?.failureText({ code, message });
    expect(text("unreachable", "Connection refused")).toBe("无法连接：Connection refused");
    expect(text("not_found", "no such workflow")).toBe("不存在：no such workflow");
    expect(text("queue_timeout", "no worker took the task")).toBe("在限定时间内无人接手");
    expect(text("my_own", "the tank is empty")).toBe("the tank is empty");
    expect(text("my_own", "")).toBe("my_own");
    language.value = "en";
    await loadLanguage();
    expect(text("unreachable", "Connection refused")).toBe("Connection refused");
    expect(text("unreachable", "")).toBe("It cannot be reached");
  });
});
