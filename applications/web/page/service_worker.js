/**
 * Keeps what the page fetched, for when there is no network.
 *
 * The network comes first, so that a new model or page is seen at once.
 */

const CACHE = "keras-metaformer";
const PAGE = [
  "./",
  "style.css",
  "app.js",
  "classifier.js",
  "build/worker.js",
  "models.json",
  "samples/cat.jpg",
  "samples/coffee.jpg",
  "samples/rocket.jpg",
  "samples/digit.png",
];

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(PAGE)));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(self.clients.claim());
});

self.addEventListener("fetch", (event) => {
  const { request } = event;
  const inside = request.url.startsWith(self.registration.scope);
  if (request.method === "GET" && inside) event.respondWith(answer(request, event));
});

async function answer(request, event) {
  const cache = await caches.open(CACHE);
  let response;
  try {
    response = await fetch(request);
  } catch (error) {
    const kept = await cache.match(request, { ignoreVary: true });
    if (kept) return kept;
    throw error;
  }
  if (response.ok) {
    const copy = response.clone();
    event.waitUntil(keep(cache, request, copy));
  }
  return response;
}

async function keep(cache, request, response) {
  if (request.url.endsWith("/models.json")) {
    await dropOldModels(cache, await response.clone().json());
  }
  await cache.put(request, response);
}

/** Models are large, and those of earlier days are not asked for again. */
async function dropOldModels(cache, models) {
  const current = models.map(({ url }) => new URL(url, self.registration.scope).href);
  for (const request of await cache.keys()) {
    const isModel = request.url.startsWith(`${self.registration.scope}models/`);
    if (isModel && !current.includes(request.url)) await cache.delete(request);
  }
}
