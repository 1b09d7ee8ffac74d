// The location of the page: #view=failed&q=…&id=…&sequence=…

/** Views with a link of their own; the view `search` has none. */
export const VIEWS = ["failed", "pending", "published", "shards", "dead"];

/** Returns the view, the search query and the key of the open event, from the address. */
export function currentLocation() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const view = hash.get("view");
  return {
    view: view === "search" || VIEWS.includes(view) ? view : "failed",
    query: hash.get("q") ?? "",
    id: hash.get("id"),
    sequence: hash.get("sequence"),
  };
}

/** Returns the hash of a location, without `#`. */
export function hashOf({ view, query, id, sequence }) {
  const hash = new URLSearchParams({ view });
  if (query) hash.set("q", query);
  if (id) {
    hash.set("id", id);
    hash.set("sequence", sequence);
  }
  return hash.toString();
}

/** Returns the key of an event as one text. */
export const keyOf = ({ sequence, aggregate_id: id }) => `${sequence} ${id}`;
