// Times RSA blind signatures by @cloudflare/blindrsa-ts. One line of JSON in, one line of JSON out.
import { webcrypto } from "node:crypto";
import { createInterface } from "node:readline";
import { RSABSSA } from "@cloudflare/blindrsa-ts";

const suite = RSABSSA.SHA384.PSS.Deterministic();
const algorithm = { name: "RSA-PSS", hash: "SHA-384" };
const bytes = (hex) => new Uint8Array(Buffer.from(hex, "hex"));
const message = new Uint8Array(98);
let publicKey, privateKey, begun, signed;

const ARMS = {
  blind: async () => (begun = await suite.blind(publicKey, message)),
  sign: async () => (signed = await suite.blindSign(privateKey, begun.blindedMsg)),
  finalize: () => suite.finalize(publicKey, message, signed, begun.inv),
};

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  let answer = {};
  if (asked.spki) {
    publicKey = await webcrypto.subtle.importKey("spki", bytes(asked.spki), algorithm, true, ["verify"]);
    privateKey = await webcrypto.subtle.importKey("pkcs8", bytes(asked.pkcs8), algorithm, true, ["sign"]);
  } else {
    const start = performance.now();
    for (let call = 0; call < asked.calls; call++) await ARMS[asked.arm]();
    answer = { seconds: (performance.now() - start) / 1000 / asked.calls };
  }
  console.log(JSON.stringify(answer));
}
