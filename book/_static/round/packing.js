/* How the batches of a cohort are laid out, as in chapter 6. Knows nothing of the page. */
(function (root) {
  "use strict";

  const WAYS = ["padded", "packed", "blocks"];

  /* The steps of a layout: for each, whose batches are worked on side by side. A place is
     {client, real}; a place that is not real is filled up with nothing.

     batches: how many each client has; way: "padded" (one rectangle), "packed" (from long to
     short, who has no batch left drops out) or "blocks" (as packed, but `size` clients at a
     time take their steps until the longest of them has finished). */
  function layout(batches, way, size = 4) {
    const clients = batches.map((_, client) => client);
    if (way !== "padded") clients.sort((a, b) => batches[b] - batches[a] || a - b);
    const width = way === "blocks" ? size : clients.length;
    const steps = [];
    for (let from = 0; from < clients.length; from += width) {
      const block = clients.slice(from, from + width);
      const longest = Math.max(...block.map((client) => batches[client]));
      for (let t = 0; t < longest; t++) {
        const places = block.map((client) => ({ client, batch: t, real: t < batches[client] }));
        steps.push(way === "packed" ? places.filter((place) => place.real) : places);
      }
    }
    return { clients, steps };
  }

  /* Steps, places and the share of places that are empty. */
  function figures({ steps }) {
    const places = steps.flat();
    const empty = places.filter((place) => !place.real).length;
    return { steps: steps.length, places: places.length, empty: empty / places.length };
  }

  root.CohortPacking = { WAYS, layout, figures };
})(typeof window === "undefined" ? globalThis : window);
