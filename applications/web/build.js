// Makes the page that `keras-metaformer web` serves: a folder of the Python package.
import { cpSync, mkdirSync, renameSync, rmSync } from "node:fs";
import { basename } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const page = here("../../keras_metaformer_lite/page");
const unfinished = `${page}.unfinished`;
// The worker and what esbuild bundles with it.
const BUNDLED = ["worker.js", "model_file.js", "resize.js"];

rmSync(unfinished, { recursive: true, force: true });
mkdirSync(unfinished);
cpSync(here("page"), unfinished, {
  recursive: true,
  filter: (source) => !BUNDLED.includes(basename(source)),
});
cpSync(here("node_modules/@litertjs/core/wasm"), `${unfinished}/litert`, {
  recursive: true,
});
await build({
  entryPoints: [here("page/worker.js")],
  outfile: `${unfinished}/build/worker.js`,
  bundle: true,
  minify: true,
  target: "es2022",
  legalComments: "linked",
});
rmSync(page, { recursive: true, force: true });
renameSync(unfinished, page);
