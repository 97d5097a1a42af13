// The Vercel AI SDK's transcribe(), whose schema rejects a verbose_json reply that lacks any field of a segment.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { createOpenAI } from "@ai-sdk/openai";
import { APICallError, transcribe } from "ai";
import { assertWords, attempts, check, english, faultUrl, plan, runChecks, spanish } from "./checks.mjs";

const require = createRequire(import.meta.url);

function modelFrom(name, options = {}) {
  return createOpenAI({ baseURL: plan.base_url, apiKey: plan.key, ...options }).transcription(name);
}

function heard(recording, { name = "whisper-1", model = modelFrom(name), openai = {}, ...options } = {}) {
  const audio = readFileSync(recording.path);
  return transcribe({ model, audio, providerOptions: { openai }, ...options });
}

async function refused(status, code, call) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  assert.ok(APICallError.isInstance(error), String(error));
  assert.equal(error.statusCode, status);
  if (code !== undefined) assert.equal(error.data.error.code, code);
  assert.ok(error.message.length > 0);
  return error;
}

check("version", () => {
  const versions = ["ai", "@ai-sdk/openai"].map((name) => require(`${name}/package.json`).version);
  assert.equal(versions.join(", "), plan.version);
});

check("whisper-1: verbose_json with segments", async () => {
  for (const recording of [english, spanish]) {
    const result = await heard(recording);
    assertWords(result.text, recording);
    // The SDK knows a language only by its lower-case English name.
    assert.equal(result.language, recording.code);
    assert.ok(Math.abs(result.durationInSeconds - recording.seconds) < 0.1, String(result.durationInSeconds));
    assert.ok(result.segments.length > 0);
    assertWords(result.segments.map((segment) => segment.text).join(" "), recording);
    for (const { startSecond, endSecond } of result.segments) assert.ok(startSecond < endSecond);
    assert.deepEqual(result.warnings, []);
  }
});
check("gpt-4o-transcribe: json", async () => {
  const result = await heard(spanish, { name: "gpt-4o-transcribe" });
  assertWords(result.text, spanish);
  assert.equal(result.language, "es");
});
check("resident model's own name", async () => {
  assertWords((await heard(english, { name: "demo" })).text, english);
});
check("language, prompt, temperature", async () => {
  const openai = { language: "en", prompt: "A journey by train.", temperature: 0 };
  assertWords((await heard(english, { openai })).text, english);
});
check("languages and keywords", async () => {
  const openai = { languages: ["en", "es"], keywords: ["billete"] };
  assertWords((await heard(spanish, { name: "gpt-4o-transcribe", openai })).text, spanish);
});
check("logprobs", async () => {
  const openai = { include: ["logprobs"] };
  const result = await heard(english, { name: "gpt-4o-transcribe", openai });
  assertWords(result.text, english);
  const bytes = result.responses[0].body.logprobs.flatMap((one) => one.bytes);
  assertWords(Buffer.from(bytes).toString("utf8"), english);
});
check("segment granularity", async () => {
  const result = await heard(english, { timestampGranularities: ["segment"] });
  assertWords(result.segments.map((segment) => segment.text).join(" "), english);
});
check("chunking strategy, auto and as JSON", async () => {
  // This client sends the object as one JSON text, unlike OpenAI's own SDKs.
  const vad = { type: "server_vad", threshold: 0.4, prefixPaddingMs: 200, silenceDurationMs: 400 };
  for (const chunkingStrategy of ["auto", vad]) {
    assertWords((await heard(english, { openai: { chunkingStrategy } })).text, english);
  }
});

check("wrong key", async () => {
  const model = modelFrom("whisper-1", { apiKey: "sk-wrong" });
  await refused(401, "invalid_api_key", () => heard(english, { model }));
});
check("no such model", async () => {
  await refused(404, "model_not_found", () => heard(english, { name: "no-such-model" }));
});
check("no recording", async () => {
  const letter = { model: modelFrom("whisper-1"), audio: Buffer.from("This is a letter.".repeat(50)) };
  const error = await refused(400, "audio_format_unsupported", () => transcribe(letter));
  assert.equal(error.isRetryable, false);
});
check("rate limit", async () => {
  const model = modelFrom("whisper-1", { baseURL: plan.limited_url, apiKey: plan.limited_keys.async });
  assertWords((await heard(english, { model })).text, english);
  const error = await refused(429, undefined, () => heard(english, { model, maxRetries: 0 }));
  assert.equal(error.isRetryable, true);
});
check("retry after 503", async () => {
  const model = modelFrom("whisper-1", { baseURL: `${faultUrl("unavailable-once")}/v1` });
  assertWords((await heard(english, { model })).text, english);
  assert.equal((await attempts("unavailable-once")).length, 2);
});

await runChecks();
