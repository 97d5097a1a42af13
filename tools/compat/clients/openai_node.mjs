// openai-node: formats, uploads (the file first, chunked, with no Content-Length), streaming, retries, error classes.

import assert from "node:assert/strict";
import { createReadStream, readFileSync } from "node:fs";
import OpenAI, { toFile } from "openai";
import { assertWords, attempts, check, english, faultUrl, plan, runChecks, spanish } from "./checks.mjs";

// Read as a file: the package does not export its own package.json.
const { version } = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", import.meta.url)));
const wav = readFileSync(english.path);

function clientWith(options = {}) {
  return new OpenAI({ baseURL: plan.base_url, apiKey: plan.key, ...options });
}

const client = clientWith();

function create(options = {}, { recording = english, by = client } = {}) {
  const file = options.file ?? createReadStream(recording.path);
  return by.audio.transcriptions.create({ file, model: "whisper-1", ...options });
}

async function refused(kind, status, code, call) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  assert.ok(error, "it was answered");
  assert.equal(error.constructor.name, kind.name, String(error));
  assert.equal(error.status, status);
  if (code !== undefined) assert.equal(error.code, code);
  assert.deepEqual(Object.keys(error.error).sort(), ["code", "message", "param", "type"]);
  assert.match(error.requestID, /^req_/);
  return error;
}

function assertCues(said, time) {
  const stamps = said.split("\n").filter((line) => line.includes("-->"));
  assert.ok(stamps.length > 0, said);
  for (const stamp of stamps) assert.match(stamp, time);
  const lines = said.split("\n").filter((line) => line && !line.includes("-->") && line !== "WEBVTT");
  assertWords(lines.filter((line) => !/^\d+$/.test(line)).join(" "), english);
}

function assertTokenUsage(usage) {
  assert.equal(usage.type, "tokens");
  assert.ok(usage.input_token_details.audio_tokens > 0);
  assert.equal(usage.input_tokens + usage.output_tokens, usage.total_tokens);
}

async function eventsOf(options, how) {
  const events = [];
  for await (const event of await create({ stream: true, ...options }, how)) events.push(event);
  return events;
}

function assertStream(events, recording) {
  const done = events.at(-1);
  const deltas = events.slice(0, -1);
  assert.equal(done.type, "transcript.text.done");
  assert.ok(deltas.length > 1, "everything came at once");
  for (const event of deltas) assert.equal(event.type, "transcript.text.delta");
  assert.equal(deltas.map((event) => event.delta).join(""), done.text);
  assertWords(done.text, recording);
  assertTokenUsage(done.usage);
}

check("version", () => assert.equal(version, plan.version));

check("json", async () => {
  assert.equal((await create()).usage.type, "duration");
  const body = await create({ model: "gpt-4o-transcribe" });
  assertWords(body.text, english);
  assert.deepEqual(body.languages, [{ code: "en" }]);
  assertTokenUsage(body.usage);
});
check("text", async () => assertWords(await create({ response_format: "text" }), english));
check("verbose_json", async () => {
  const options = { response_format: "verbose_json", timestamp_granularities: ["segment"] };
  const body = await create(options, { recording: spanish });
  assertWords(body.text, spanish);
  assert.equal(body.language, "spanish");
  assert.ok(Math.abs(body.duration - spanish.seconds) < 0.1, String(body.duration));
  assert.equal(body.usage.type, "duration");
  assertWords(body.segments.map((segment) => segment.text).join(" "), spanish);
  for (const segment of body.segments) {
    const { text, tokens, ...numbers } = segment;
    assert.equal(typeof text, "string");
    assert.ok(tokens.every(Number.isInteger));
    const names = ["avg_logprob", "compression_ratio", "end", "id", "no_speech_prob", "seek", "start", "temperature"];
    for (const name of names) assert.ok(Number.isFinite(numbers[name]), `${name}: ${numbers[name]}`);
  }
});
check("words", async () => {
  const options = { response_format: "verbose_json", timestamp_granularities: ["word", "segment"] };
  const body = await create(options);
  assertWords(body.words.map((one) => one.word).join(" "), english);
  for (const { start, end } of body.words) assert.ok(0 <= start && start < end && end <= english.seconds + 0.1);
});
check("srt", async () => {
  const stamp = /^\d\d:\d\d:\d\d,\d{3} --> \d\d:\d\d:\d\d,\d{3}$/;
  assertCues(await create({ response_format: "srt" }), stamp);
});
check("vtt", async () => {
  const said = await create({ response_format: "vtt" });
  assert.ok(said.startsWith("WEBVTT\n"), said);
  assertCues(said, /^(\d\d:)?\d\d:\d\d\.\d{3} --> (\d\d:)?\d\d:\d\d\.\d{3}/);
});
check("logprobs", async () => {
  const body = await create({ response_format: "json", include: ["logprobs"] });
  assert.ok(body.logprobs.every((one) => one.logprob <= 0 && typeof one.token === "string"));
  const bytes = body.logprobs.flatMap((one) => one.bytes);
  assertWords(Buffer.from(bytes).toString("utf8"), english);
});
check("languages and keywords", async () => {
  const body = await create({ languages: ["en", "es"], keywords: ["billete"] }, { recording: spanish });
  assertWords(body.text, spanish);
  assert.deepEqual(body.languages, [{ code: "es" }]);
});
check("language, prompt, temperature", async () => {
  const body = await create({ language: "en", prompt: "A journey by train.", temperature: 0 });
  assertWords(body.text, english);
});
check("chunking strategy", async () => {
  assertWords((await create({ chunking_strategy: "auto" })).text, english);
  const vad = { type: "server_vad", prefix_padding_ms: 200, silence_duration_ms: 400, threshold: 0.4 };
  assertWords((await create({ chunking_strategy: vad })).text, english);
});

check("upload: file first, chunked, no Content-Length", async () => {
  const by = clientWith({ baseURL: `${faultUrl("watch")}/v1` });
  assertWords((await create({ language: "en" }, { by })).text, english);
  const [seen, ...more] = await attempts("watch");
  assert.equal(more.length, 0);
  assert.equal(seen.transfer_encoding, "chunked");
  assert.equal(seen.content_length, null);
  assert.deepEqual(seen.part_names, ["file", "model", "language"]);
});
check("upload: buffer through toFile", async () => {
  assertWords((await create({ file: await toFile(wav, "speech.wav") })).text, english);
});
check("upload: File with a UTF-8 name", async () => {
  assertWords((await create({ file: new File([wav], "Žluťoučký kůň 録音.wav") })).text, english);
});
check("upload: a fetch Response", async () => {
  const file = await toFile(new Response(wav), "speech");
  assertWords((await create({ file })).text, english);
});
check("four at once", async () => {
  const four = [english, spanish, english, spanish];
  const answers = await Promise.all(four.map((recording) => create({ prompt: "Four at once." }, { recording })));
  answers.forEach((answer, index) => assertWords(answer.text, four[index]));
});

check("stream", async () => {
  // Prompts of their own: what was transcribed before would be answered in one piece.
  assertStream(await eventsOf({ prompt: "Streamed." }), english);
  assertStream(await eventsOf({ language: "es", prompt: "Streamed." }, { recording: spanish }), spanish);
});
check("stream with logprobs", async () => {
  const events = await eventsOf({ include: ["logprobs"], prompt: "Streamed, logprobs." });
  assertStream(events, english);
  const bytes = events.slice(0, -1).flatMap((event) => event.logprobs.flatMap((one) => one.bytes));
  assertWords(Buffer.from(bytes).toString("utf8"), english);
});
check("stream left early", async () => {
  const stream = await create({ stream: true, prompt: "Left early." }, { recording: spanish });
  for await (const event of stream) {
    assert.equal(event.type, "transcript.text.delta");
    break;
  }
  assertWords((await create({ prompt: "After that." }, { recording: spanish })).text, spanish);
});
check("stream of no recording", async () => {
  const file = await toFile(Buffer.from("no recording".repeat(99)), "a.wav");
  await refused(OpenAI.BadRequestError, 400, "audio_format_unsupported", () => eventsOf({ file }));
});

check("AuthenticationError", async () => {
  const by = clientWith({ apiKey: "sk-wrong" });
  await refused(OpenAI.AuthenticationError, 401, "invalid_api_key", () => create({}, { by }));
  await refused(OpenAI.AuthenticationError, 401, "invalid_api_key", () => by.models.list());
});
check("NotFoundError", async () => {
  await refused(OpenAI.NotFoundError, 404, "model_not_found", () => create({ model: "no-such-model" }));
  const lookup = () => client.models.retrieve("Qwen/No-Such-Model");
  await refused(OpenAI.NotFoundError, 404, "model_not_found", lookup);
});
check("BadRequestError", async () => {
  const file = await toFile(Buffer.from("This is a letter.".repeat(50)), "a.wav");
  await refused(OpenAI.BadRequestError, 400, "audio_format_unsupported", () => create({ file }));
  await refused(OpenAI.BadRequestError, 400, undefined, () => create({ response_format: "mp3" }));
  const translate = () =>
    client.audio.translations.create({ file: createReadStream(spanish.path), model: "whisper-1" });
  await refused(OpenAI.BadRequestError, 400, "unsupported_endpoint", translate);
});
check("PermissionDeniedError", async () => {
  const allowed = { model: "whisper-1", file_path: plan.allowed_file };
  assertWords((await client.post("/audio/transcriptions", { body: allowed })).text, english);
  const body = { model: "whisper-1", file_path: english.path };
  const outside = () => client.post("/audio/transcriptions", { body });
  await refused(OpenAI.PermissionDeniedError, 403, undefined, outside);
});
check("RateLimitError", async () => {
  const by = clientWith({ baseURL: plan.limited_url, apiKey: plan.limited_keys.async, maxRetries: 0 });
  assertWords((await create({}, { by })).text, english);
  const error = await refused(OpenAI.RateLimitError, 429, undefined, () => create({}, { by }));
  assert.ok(Number(error.headers.get("retry-after")) > 0);
});

for (const [name, fault, pauseSeconds] of [
  ["retry after 503", "unavailable-once", 0.95],
  ["retry after 429", "busy-once", 0.95],
  ["retry on x-should-retry: true", "retry-wanted-once", 0],
  ["retry after a lost answer", "answer-lost-once", 0],
]) {
  check(name, async () => {
    const by = clientWith({ baseURL: `${faultUrl(fault)}/v1` });
    // A buffer: a stream that was read cannot be sent a second time.
    const file = await toFile(wav, "speech.wav");
    assertWords((await create({ file, prompt: `Through ${fault}.` }, { by })).text, english);
    const seen = await attempts(fault);
    assert.equal(seen.length, 2, JSON.stringify(seen));
    assert.ok(seen[1].at - seen[0].at >= pauseSeconds, "Retry-After was not waited for");
  });
}
check("no retry on x-should-retry: false", async () => {
  const by = clientWith({ baseURL: `${faultUrl("broken-for-good")}/v1` });
  const file = await toFile(wav, "speech.wav");
  await refused(OpenAI.InternalServerError, 503, "model_invalid", () => create({ file }, { by }));
  assert.equal((await attempts("broken-for-good")).length, 1);
});

check("models", async () => {
  const models = (await client.models.list()).data;
  assert.ok(models.some((model) => model.id === "demo"));
  for (const name of ["whisper-1", "gpt-4o-transcribe"]) {
    assert.ok(JSON.stringify(models).includes(`"${name}"`), JSON.stringify(models));
    await client.models.retrieve(name);
  }
});

await runChecks();
