// LangChain.js's OpenAIWhisperAudio loader, from a path and from a blob.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { OpenAIWhisperAudio } from "@langchain/community/document_loaders/fs/openai_whisper_audio";
import { assertWords, check, english, plan, runChecks, spanish } from "./checks.mjs";

const installed = new URL("node_modules/@langchain/community/package.json", import.meta.url);
const { version } = JSON.parse(readFileSync(installed));

function loader(source, fields = {}) {
  const { clientOptions, ...others } = fields;
  return new OpenAIWhisperAudio(source, {
    clientOptions: { apiKey: plan.key, baseURL: plan.base_url, maxRetries: 0, ...clientOptions },
    ...others,
  });
}

async function loaded(source, recording, fields) {
  const documents = await loader(source, fields).load();
  assert.equal(documents.length, 1);
  assertWords(documents[0].pageContent, recording);
}

async function refused(status, fields) {
  await assert.rejects(loader(english.path, fields).load(), (error) => error.status === status);
}

check("version", () => assert.equal(version, plan.version));
check("a path", () => loaded(english.path, english));
check("a blob", () => loaded(new Blob([readFileSync(spanish.path)], { type: "audio/wav" }), spanish));
check("model, language, prompt, temperature", () =>
  loaded(spanish.path, spanish, {
    transcriptionCreateParams: { model: "gpt-4o-transcribe", language: "es", prompt: "Un viaje.", temperature: 0 },
  }),
);
check("wrong key", () => refused(401, { clientOptions: { apiKey: "wrong" } }));
check("no such model", () => refused(404, { transcriptionCreateParams: { model: "no-such-model" } }));
await runChecks();
