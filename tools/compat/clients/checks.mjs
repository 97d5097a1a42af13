// What both Node programs share: named checks, one JSON line each, and claims about transcripts.
// The first line names all checks that are about to run, so that the runner notices one that never reports.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

const WORD_ERRORS_ALLOWED = 0.1;

export const plan = JSON.parse(readFileSync(process.argv[2], "utf8"));
export const { english, spanish } = plan.recordings;

const checks = [];

/** Plan a claim; it holds unless it throws. */
export function check(name, claim) {
  checks.push([name, claim]);
}

/** Run every check, whatever the others came to, and print what they came to. */
export async function runChecks() {
  say({ planned: checks.map(([name]) => name) });
  for (const [name, claim] of checks) {
    const started = performance.now();
    const seconds = () => Math.round((performance.now() - started) / 10) / 100;
    try {
      await claim();
      say({ check: name, ok: true, seconds: seconds(), detail: "" });
    } catch (error) {
      const detail = `${error?.name}: ${error?.message}`.slice(0, 2000);
      say({ check: name, ok: false, seconds: seconds(), detail });
    }
  }
}

/** The transcript is that of the recording, one word in ten at most being wrong. */
export function assertWords(said, recording) {
  assert.equal(typeof said, "string", `no transcript: ${JSON.stringify(said)}`);
  const left = foldedWords(recording.text);
  const right = foldedWords(said);
  const row = Array.from({ length: right.length + 1 }, (_, index) => index);
  for (const [i, word] of left.entries()) {
    let previous = row[0];
    row[0] = i + 1;
    for (const [j, other] of right.entries()) {
      const changed = previous + (word === other ? 0 : 1);
      previous = row[j + 1];
      row[j + 1] = Math.min(row[j + 1] + 1, row[j] + 1, changed);
    }
  }
  const errors = row[right.length];
  assert.ok(errors <= WORD_ERRORS_ALLOWED * left.length, `heard "${said}", spoken was "${recording.text}"`);
}

/** What the fault proxy saw under one of its addresses. */
export async function attempts(fault) {
  const answer = await fetch(`${faultUrl(fault)}/attempts`);
  return await answer.json();
}

/** An address behind the fault proxy, without its /v1. */
export function faultUrl(fault) {
  return `${plan.fault_url}/${fault}/${plan.fault_token}`;
}

function foldedWords(text) {
  return text.normalize("NFC").toLowerCase().match(/[\p{L}\p{N}_']+/gu) ?? [];
}

function say(fields) {
  process.stdout.write(`${JSON.stringify(fields)}\n`);
}
