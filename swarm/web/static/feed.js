// The connection: all of it once, then what is new. A browser reconnects by itself.

export async function json(path) {
  const answer = await fetch(path, { headers: { accept: "application/json" } });
  if (!answer.ok) throw new Error((await answer.text()).trim() || answer.statusText);
  return answer.json();
}

/** Keep `store` current; `tell(state, text)` says how the connection is. */
export async function follow(store, tell) {
  await readAll(store, tell);
  let source = null;
  const end = new AbortController();
  const again = () => {
    end.abort();
    clearInterval(watch);
    source?.close();
    follow(store, tell);
  };
  const listen = () => {
    source = new EventSource(`/api/events?since=${encodeURIComponent(store.id)}`);
    source.onopen = () => tell("live", "live");
    source.onerror = () => tell("lost", "connection lost; trying again…");
    source.onmessage = (message) => {
      const update = JSON.parse(message.data);
      if (!update) return again(); // the journal was read anew: what we have may not be so any more
      tell("live", "live");
      store.take(update);
    };
  };
  // All tabs of a browser share six connections to a server: those that nobody sees keep none.
  const attend = () => {
    if (!document.hidden) return source ?? listen();
    source?.close();
    source = null;
    tell("paused", "paused");
  };
  // An answer that is no stream (the server may ask for a token) ends a source for good.
  const watch = setInterval(() => source?.readyState === EventSource.CLOSED && again(), 3000);
  document.addEventListener("visibilitychange", attend, { signal: end.signal });
  attend();
}

async function readAll(store, tell) {
  for (let wait = 500; ; wait = Math.min(8000, wait * 2)) {
    try {
      const all = await json("/api/swarm");
      const chosen = store.deviceClass;
      store.clear();
      store.deviceClass = chosen;
      store.take(all);
      return;
    } catch (error) {
      tell("lost", error instanceof TypeError ? "no connection; trying again…" : error.message);
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}
